"""A base of one level, for tests that train: a step costs a third of one of conftest's base."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from conftest import SCHEDULER, VAE

from codi_tf.checkpoints.base import Base, make_autoencoder, make_unet
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.kinds import TEXT_ENCODER
from codi_tf.checkpoints.networks import write_network
from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.io.images import write_png
from codi_tf.models.text_encoder import TextEncoder

UNET = {
    "block_out_channels": [8],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}


def randomize(variables, seed: int = 0) -> None:
    """Give weights values near those that they have, so that no zero hides a mistake."""
    random = np.random.default_rng(seed)
    for variable in variables:
        variable.assign(variable.numpy() + random.normal(0, 0.1, variable.shape).astype("float32"))


def tiny_photos(folder: Path) -> Path:
    """A folder of small images, some of each split: quicker than the embedded photos."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(16):
        write_png(folder / f"{i}.png", random.integers(0, 256, (24, 24, 3), "uint8"))
    return folder


def tiny_run(folder: Path, **train) -> dict:
    """A config as plain data: CoDi's adapter alone on a tiny base and its photos, both made in the folder."""
    (folder / "base").mkdir()
    save_base(tiny_base(), folder / "base")
    return {
        "method": {"name": "codi", "delta": 5},
        "base": str(folder / "base"),
        "task": {"name": "super_resolution"},
        "data": {"image_size": 16, "source": str(tiny_photos(folder / "photos"))},
        "adaptation": {"train": "adapter"},
        "train": {"warmup_steps": 0, "learning_rate": 1e-3, "batch_size": 2, **train},
    }


def tiny_text(folder: Path, width: int) -> Path:
    """A folder with a random text encoder and its tokenizer, for bases whose prompts have `width` channels."""
    keras.utils.set_random_seed(0)
    tokenizer = Tokenizer.from_merges([])
    encoder = TextEncoder(
        vocab_size=len(tokenizer.vocabulary),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        name="text_encoder",
    )
    encoder.build()
    randomize(encoder.variables)
    write_network(TEXT_ENCODER, encoder, folder / "text_encoder")
    tokenizer.save(folder / "tokenizer")
    return folder


def tiny_base(seed: int = 0) -> Base:
    """A base with random weights, none of them zero: images 8 f pixels wide, latents 4 times smaller."""
    keras.utils.set_random_seed(seed)
    base = Base(make_unet(UNET), make_autoencoder({**VAE, "scaling_factor": 1.5}), dict(SCHEDULER))
    randomize((*base.unet.variables, *base.vae.variables), seed)
    return base
