"""External weight files of ONNX graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAX_FILE = 2**31 - 2**20  # bytes of a file of weights


@dataclass(frozen=True)
class Weight:
    """A tensor of the file: its name, shape, type and bytes, and a function that reads its content.

    Attributes:
        of_variable: whether it is a variable: equal names then mean equal content in other graphs, too.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    bytes: int
    read: Callable[[], np.ndarray]
    of_variable: bool


class Store:
    """Weight files next to the model at `path`. Weights that the models of a folder share are written once."""

    def __init__(self, path: Path):
        self._path, self._files, self._file = path, 0, None
        self._places: dict[str, dict] = {}

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error) -> None:
        self._close()

    def place(self, weight: Weight) -> dict:
        """Write a weight, unless it has been written, and return its place."""
        if weight.name not in self._places or not weight.of_variable:
            self._places[weight.name] = self._append(weight.read())
        return self._places[weight.name]

    def _append(self, array: np.ndarray) -> dict:
        data = array.data.cast("B")
        if self._file is None or _aligned(self._file.tell()) + len(data) > MAX_FILE:
            self._close()
            self._file = self._path.with_name(f"{self._path.name}.{self._files}.data").open("wb")
            self._files += 1
        offset = _aligned(self._file.tell())
        self._file.seek(offset)
        self._file.write(data)
        return {"location": Path(self._file.name).name, "offset": offset, "length": len(data)}

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


def _aligned(offset: int) -> int:
    """The next offset from which a weight can be mapped into memory."""
    return -(-offset // 4096) * 4096
