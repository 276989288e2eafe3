"""python assets/photos-text/make.py: write the text encoder for the small base next to this file.

It is CLIP's text transformer with two layers of 32 channels and random, untrained weights. Different words give
different vectors, which is enough for a UNet to learn a few dozen instructions. The tokenizer has one token for each
word of the embedded edits, and spells all other words letter by letter.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from codi_tf.checkpoints.kinds import TEXT_ENCODER
from codi_tf.checkpoints.networks import write_network
from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.data.edits import EDITS
from codi_tf.models.text_encoder import TextEncoder

WIDTH = 32  # the small base's cross_attention_dim


def make(folder: Path) -> None:
    """Write text_encoder/ and tokenizer/ into a folder."""
    wordings = [text for edit in EDITS.values() for text in (*edit.wordings, *edit.heldout)]
    tokenizer = tokenizer_for({word for text in wordings for word in text.split() if word.isalpha()})
    encoder = TextEncoder(
        vocab_size=len(tokenizer.vocabulary),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        name="text_encoder",
    )
    keras.utils.set_random_seed(0)
    encoder.build()
    random = np.random.default_rng(0)
    for table in (encoder.token_embedding, encoder.position_embedding):  # Keras' are too small to outweigh each other
        for variable in table.variables:
            variable.assign(random.normal(size=variable.shape).astype("float32"))
    write_network(TEXT_ENCODER, encoder, folder / "text_encoder", dtype="float16")
    tokenizer.save(folder / "tokenizer")


def tokenizer_for(words: set[str]) -> Tokenizer:
    """A tokenizer with one token for each of these words, which consist of letters only.

    Merges for words that are not one token yet are added at the end, so earlier merges are unchanged.
    """
    merges: list[tuple[str, str]] = []
    for word in sorted(words):
        while len(ids := (tokenizer := Tokenizer.from_merges(merges)).encode(word)) > 1:
            token = {number: text for text, number in tokenizer.vocabulary.items()}
            merges.append((token[ids[0]], token[ids[1]]))
    return Tokenizer.from_merges(merges)


if __name__ == "__main__":
    make(Path(__file__).parent)
