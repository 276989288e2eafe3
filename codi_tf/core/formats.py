"""The number formats of networks. Needs no TensorFlow."""

from __future__ import annotations

from typing import Literal, get_args

import ml_dtypes
import numpy as np

from codi_tf.core.errors import UserError

FloatFormat = Literal["float32", "float16", "bfloat16"]
FORMATS: tuple[FloatFormat, ...] = get_args(FloatFormat)
StoredFormat = Literal["float32", "float16", "bfloat16", "int8", "int4"]  # on disk; see `io.scaled`, `io.changes`
STORED: tuple[StoredFormat, ...] = get_args(StoredFormat)
INTEGERS: tuple[StoredFormat, ...] = ("int8", "int4")  # of those


def check_format(name: str, value: object, formats: tuple[str, ...] = FORMATS) -> None:
    """Raise UserError for a value that is none of the formats; the message calls it `name`."""
    if value not in formats:
        raise UserError(f"{name} is {value!r}: use one of {', '.join(formats)}")


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy dtype of a format, with bfloat16 from ml_dtypes."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def narrows(source: np.dtype | str, target: np.dtype | str) -> bool:
    """Whether a finite number of the source format can be infinite in the target format."""
    return _largest(source) > _largest(target)


def _largest(dtype: np.dtype | str) -> float:
    return float(ml_dtypes.finfo(numpy_dtype(dtype) if isinstance(dtype, str) else dtype).max)
