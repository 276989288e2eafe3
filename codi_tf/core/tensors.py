"""The type of a tensor in annotations."""

from __future__ import annotations

from typing import Any, TypeAlias

Tensor: TypeAlias = Any  # TensorFlow's type stubs lack `x[..., :1]`, `x % 2`, and numbers in place of tensors
