"""safetensors files, read and written one tensor at a time, so that only one tensor is in memory.

The format: 8 bytes with the length of a JSON header, the header, then the tensors without gaps.
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
from codi_tf.core.paths import is_remote
from codi_tf.io.json_files import MOST_BYTES, parse_json
from codi_tf.io.plain_files import open_plain, size_of
from codi_tf.io.schema import Each, Keyed, Record, Text, Whole

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
_AHEAD = 1 << 26  # bytes after a tensor that the system reads ahead
_PLACE = Whole(0, 2**62)
_ENTRIES = Keyed(
    Record({"dtype": Text(16), "shape": Each(_PLACE, 0, 16), "data_offsets": Each(_PLACE, 2, 2)}), most=1_000_000
)
_METADATA = Keyed(Text(1 << 20))
_ALIGNMENT = 64  # bytes: TensorFlow's requirement on memory that it shares


class _OtherDtype(UserError):
    """A tensor in a number format that is not read."""


class StoredTensor(NamedTuple):
    """A tensor in a file, not read yet."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # the offset of its bytes in the file

    @property
    def nbytes(self) -> int:
        """The size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, *, part: int = 0, parts: int = 1, room: np.ndarray | None = None) -> np.ndarray:
        """The values.

        Args:
            part, parts: read part number `part` of `parts` equal parts along the first axis.
            room: memory for the values, from `make_room`; None: new memory.

        Raises:
            UserError: the file is too short or cannot be read.
        """
        shape = self.shape if parts == 1 else (self.shape[0] // parts, *self.shape[1:])
        size = self.nbytes // parts
        values, start = (make_room(size) if room is None else room)[:size], self.start + part * size
        try:
            with open_plain(self.path) as file:
                if not is_remote(self.path):
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
    """A tensor to write; `values` is called when its turn comes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]


def make_room(size: int) -> np.ndarray:
    """Aligned memory, uint8 [size]."""
    room = np.empty(size + _ALIGNMENT, np.uint8)
    offset = -room.ctypes.data % _ALIGNMENT
    return room[offset : offset + size]


def read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """(key -> tensor, metadata) of a safetensors file.

    Raises:
        UserError: the file is missing, truncated or not a safetensors file, or has an unknown number format.
    """
    try:
        with open_plain(path) as file:
            size = size_of(file)
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, MOST_BYTES):
                raise ValueError(f"its {size} bytes do not hold the header")
            header = parse_json(file.read(length), "its header")
        metadata = header.pop("__metadata__", {})
        _METADATA.check(metadata, "__metadata__")
        _ENTRIES.check(header, "")
        tensors, begin = {}, 0
        for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            if entry["dtype"] not in DTYPES:
                raise _OtherDtype(f"{path}: {key} is stored in {entry['dtype']}; convert it to float16 first")
            tensor = StoredTensor(path, DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + begin)
            end = begin + math.prod(tensor.shape) * tensor.dtype.itemsize
            if [begin, end] != entry["data_offsets"]:
                raise ValueError(f"the place of {key} does not fit its shape")
            tensors[key], begin = tensor, end
        if 8 + length + begin != size:
            raise ValueError(f"it has {size} bytes, its header describes {8 + length + begin}")
    except FileNotFoundError:
        raise UserError(f"{path}: no such weight file; the folder is incomplete, copy or make it again") from None
    except _OtherDtype:
        raise
    except (OSError, ValueError) as error:  # a UserError, too, of the header's JSON
        raise _broken(path, error) from None
    return tensors, metadata


def write_tensors(
    path: Path, tensors: Mapping[str, TensorToWrite], *, report: Callable[[int], None] | None = None
) -> None:
    """Write a safetensors file, one tensor after the other; `report` is called with the bytes written so far."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}  # which transformers requires
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
    """Ask the system to read a tensor, and some of what follows, in advance."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, size + _AHEAD, os.POSIX_FADV_WILLNEED)


def _broken(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{path}: truncated or no safetensors file ({reason}); copy or make it again")
