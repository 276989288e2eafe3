"""What the networks are conditioned on in addition to the condition image: prompts and classes."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from codi_tf.diffusion.process import Tensor


class Conditioning(NamedTuple):
    """What the networks take of prompts and classes, as one immutable value: NumPy arrays, or tensors inside functions.

    Only the code that uses a field reads it: `AdaptedUNet`, adapters, exports. All other code passes the value on. A
    network's further inputs (the pooled embeddings of SDXL, a guidance) will be further fields.

    Attributes:
        context: the embedded prompts, float32 [1 or B, 77, D]; 1 is one prompt for all images.
        labels: the classes, int32 [1 or B], 1 is one class for all images; None for networks without classes.
    """

    context: Tensor
    labels: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """1, or B."""
        return max(len(value) for value in self if value is not None)

    def rows(self, places: Any) -> Conditioning:
        """The rows of each field at `places`, NumPy indices; what is one for all stays. Needs NumPy arrays."""
        count = self.batch_size
        return Conditioning(*(value if value is None or len(value) < count else value[places] for value in self))

    def tensors(self) -> Conditioning:
        """The same as tensors, so that functions which are called repeatedly do not copy it each time."""
        return Conditioning(*(None if value is None else tf.convert_to_tensor(value) for value in self))
