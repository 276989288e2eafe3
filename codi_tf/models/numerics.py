"""The two variants of Stable Diffusion's networks that share weights: that of its training code, and KerasCV's."""

from __future__ import annotations

from typing import Literal, get_args

from codi_tf.core.errors import UserError

Numerics = Literal["diffusers", "keras_cv"]
NUMERICS: tuple[Numerics, ...] = get_args(Numerics)
# The epsilon of group normalization in the autoencoder and in transformers.
EPSILON: dict[str, float] = {"diffusers": 1e-6, "keras_cv": 1e-5}


def check_numerics(name: str, value: object) -> None:
    """Raises UserError for a value that is not one of `NUMERICS`; the message calls it `name`."""
    if value not in NUMERICS:
        raise UserError(f"{name} is {value!r}: use one of {', '.join(NUMERICS)}")
