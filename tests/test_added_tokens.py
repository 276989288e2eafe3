"""A model with a token that textual inversion added: its embedding goes in and out with it."""

from __future__ import annotations

import numpy as np
import pytest

import codi_tf
from codi_tf.core.errors import UserError

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from convert_cases import make_pipeline  # noqa: E402

PROMPTS = ["the <cat-toy> cat", "the cat"]


def test_an_added_token_comes_with_its_embedding_and_goes_with_it(tmp_path):
    """Fault: a token that was added becomes pieces, or the model is refused; after saving it is gone."""
    pipeline = make_pipeline(tmp_path / "plain", "1.x")
    pipeline.tokenizer.add_tokens(["<cat-toy>"])
    pipeline.save_pretrained(tmp_path / "not resized")
    with pytest.raises(UserError, match="<cat-toy> added to the tokenizer, .*resize_token_embeddings") as caught:
        codi_tf.load_stable_diffusion(tmp_path / "not resized")
    assert "\n" not in str(caught.value) and "belong together" not in str(caught.value)

    pipeline.text_encoder.resize_token_embeddings(len(pipeline.tokenizer))
    pipeline.save_pretrained(tmp_path / "resized")
    tokens = pipeline.tokenizer(PROMPTS, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = pipeline.text_encoder(tokens).last_hidden_state.numpy()
    base = codi_tf.load_stable_diffusion(tmp_path / "resized")
    np.testing.assert_allclose(base.embed(PROMPTS), expected, atol=1e-4)
    codi_tf.save_stable_diffusion(base, tmp_path / "saved")
    again = codi_tf.load_stable_diffusion(tmp_path / "saved")
    np.testing.assert_array_equal(again.embed(PROMPTS), base.embed(PROMPTS))
    assert again.tokenizer.vocabulary["<cat-toy>"] == len(pipeline.tokenizer) - 1
