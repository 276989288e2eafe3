"""What the networks are conditioned on in addition to the condition image: the prompts."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from codi_tf.diffusion.process import Tensor


class Conditioning(NamedTuple):
    """What the networks take of the prompts, as one immutable value: NumPy arrays, or tensors inside functions.

    Only the code that uses a field reads it: `AdaptedUNet`, adapters, exports. All other code passes the value on. A
    network's further inputs (the pooled embeddings of SDXL, a guidance) will be further fields.

    Attributes:
        context: the embedded prompts, float32 [1 or B, 77, D]; 1 is one prompt for all images.
    """

    context: Tensor

    @property
    def batch_size(self) -> int:
        """1, or B."""
        return len(self.context)

    def rows(self, places: Any) -> Conditioning:
        """The rows of each field at `places`, NumPy indices. Needs NumPy arrays."""
        return Conditioning(*(value[places] for value in self))

    def tensors(self) -> Conditioning:
        """The same as tensors, so that functions which are called repeatedly do not copy it each time."""
        return Conditioning(*(tf.convert_to_tensor(value) for value in self))
