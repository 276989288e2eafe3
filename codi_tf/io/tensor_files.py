"""safetensors files, tensor by tensor: never more than one tensor in memory besides those that the caller keeps.

The format: 8 bytes with the length of a JSON header, the header, the tensors one behind the other.
https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from codi_tf.core.errors import UserError

DTYPES = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("int64"),
    "I32": np.dtype("int32"),
    "I16": np.dtype("int16"),
    "I8": np.dtype("int8"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_AHEAD = 1 << 26  # bytes behind a tensor that the system is asked to read while the tensor is being worked on
_ALIGNMENT = 64  # bytes: what TensorFlow wants of memory that it shares


class StoredTensor(NamedTuple):
    """A tensor in a file: where it is, not yet its values."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # of its bytes, from the beginning of the file

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, *, part: int = 0, parts: int = 1, room: np.ndarray | None = None) -> np.ndarray:
        """The values.

        Args:
            part, parts: one of so many equal parts along the first axis.
            room: memory for them, from `make_room`, that may be used again when they are no longer needed; None: memory
                of their own.

        Raises:
            UserError: the file has become shorter, or cannot be read.
        """
        shape = self.shape if parts == 1 else (self.shape[0] // parts, *self.shape[1:])
        size = self.nbytes // parts
        values, start = (make_room(size) if room is None else room)[:size], self.start + part * size
        try:
            with open(self.path, "rb", buffering=0) as file:
                _announce(file.fileno(), start, size)
                file.seek(start)
                done = 0
                while done < size:  # a single read ends at 2 GiB
                    count = file.readinto(values[done:].data)
                    if not count:
                        raise OSError("it ends too early")
                    done += count
        except OSError as error:
            raise _broken(self.path, error) from None
        return values.view(self.dtype).reshape(shape)


class TensorToWrite(NamedTuple):
    """A tensor that is to be written; `values` is called when it is its turn."""

    dtype: np.dtype
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]


def make_room(size: int) -> np.ndarray:
    """So many bytes of aligned memory, uint8 [size]."""
    room = np.empty(size + _ALIGNMENT, np.uint8)
    offset = -room.ctypes.data % _ALIGNMENT
    return room[offset : offset + size]


def read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a safetensors file under their keys, and the file's metadata.

    Raises:
        UserError: there is no such file, it is cut off or no safetensors file, or has numbers of an unknown format.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                raise ValueError(f"its {size} bytes do not hold the header")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        tensors, begin = {}, 0
        for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            if entry["dtype"] not in DTYPES:
                raise UserError(f"{path}: {key} is stored in {entry['dtype']}; convert it to float16 first")
            tensor = StoredTensor(path, DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + begin)
            end = begin + math.prod(tensor.shape) * tensor.dtype.itemsize
            if [begin, end] != entry["data_offsets"]:
                raise ValueError(f"the place of {key} does not fit its shape")
            tensors[key], begin = tensor, end
        if 8 + length + begin != size:
            raise ValueError(f"it has {size} bytes, its header tells of {8 + length + begin}")
    except FileNotFoundError:
        raise UserError(f"{path}: no such weight file; the folder is incomplete, copy or make it again") from None
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(path, error) from None
    return tensors, metadata


def write_tensors(
    path: Path, tensors: Mapping[str, TensorToWrite], *, report: Callable[[int], None] | None = None
) -> None:
    """Write a safetensors file, one tensor after the other; `report` is called with the bytes written so far."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}  # transformers asks whose layouts these are
    begin = 0
    for key, (dtype, shape, _) in tensors.items():
        end = begin + math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key, (dtype, shape, values) in tensors.items():
            value = np.asarray(values(), order="C")
            if (value.dtype, value.shape) != (dtype, tuple(shape)):
                raise ValueError(f"{key} is {value.dtype} {value.shape}, announced was {dtype} {tuple(shape)}")
            file.write(value.reshape(-1).view(np.uint8).data)
            if report is not None:
                report(file.tell())


def listed(keys: Iterable[str]) -> str:
    """Up to five of the keys, and how many more there are."""
    keys = list(keys)
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def _announce(descriptor: int, start: int, size: int) -> None:
    """Let the system read a tensor, and a little more, while its beginning is being worked on."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, size + _AHEAD, os.POSIX_FADV_WILLNEED)


def _broken(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: truncated or no safetensors file ({error}); copy or make it again")
