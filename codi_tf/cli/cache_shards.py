"""The files that `codi cache` writes: shards, and what is kept of one when the work is interrupted.

Every file appears whole or not at all, and a shard has a checksum file beside it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from codi_tf.config import places
from codi_tf.core.errors import UserError
from codi_tf.data.cached import META, checksum_file, is_intact, read_meta, shard_paths, shard_sizes
from codi_tf.io.files import check_settings, whole_file
from codi_tf.io.hashing import file_sha256
from codi_tf.io.tensor_files import TensorToWrite, read_header, write_tensors

Examples = Mapping[str, np.ndarray]  # name -> [N, ..]


class Shard(NamedTuple):
    """A shard: its file, and the examples that belong into it.

    Attributes:
        path: the file.
        first: the number of the first example.
        size: how many examples there are.
    """

    path: Path
    first: int
    size: int

    def is_whole(self) -> bool:
        """Whether the file is there with the bytes that were written. If not, it is encoded again."""
        return _is_whole(self.path, self.size)

    def kept(self, batch: int) -> list[Examples]:
        """The first batches, as far as an interrupted command has kept them; none of a damaged file."""
        try:
            tensors, _ = read_header(self._kept)
            count = min(tensor.shape[0] for tensor in tensors.values())
            if count % batch or not _is_whole(self._kept, count):
                return []
            arrays = {key: tensor.read() for key, tensor in tensors.items()}
        except (UserError, ValueError):
            return []
        return [{key: array[i : i + batch] for key, array in arrays.items()} for i in range(0, count, batch)]

    def keep(self, parts: Sequence[Examples]) -> None:
        """Keep the first batches for the command that goes on."""
        _write(self._kept, _joined(parts))

    def write(self, parts: Sequence[Examples]) -> None:
        """Write all batches, of which the last may have more examples than belong into the shard."""
        _write(self.path, {key: array[: self.size] for key, array in _joined(parts).items()})
        self.forget()

    def forget(self) -> None:
        """Remove what is kept."""
        for left in (self._kept, checksum_file(self._kept)):
            left.unlink(missing_ok=True)

    @property
    def _kept(self) -> Path:
        return self.path.with_name(f".begun-{self.path.name}")


def shards_of(folder: Path, meta: dict) -> list[Shard]:
    """The shards of encoded examples, by the contents of meta.json."""
    named = zip(shard_paths(folder, meta), shard_sizes(meta), strict=True)
    return [Shard(path, number * meta["shard"], size) for number, (path, size) in enumerate(named)]


def begin(folder: Path, meta: dict) -> None:
    """Write meta.json, in which a relative source counts from the folder, or check that the existing one is equal.

    Raises:
        UserError: the folder holds something else, or examples of other settings.
    """
    path = folder / META
    if not path.is_file():
        if folder.exists() and not (folder.is_dir() and all(entry.name.startswith(".") for entry in folder.iterdir())):
            raise UserError(f"{folder}: already exists, without {META}; choose another --out")
        written = copy.deepcopy(meta)
        places.write_down(written, folder)
        with whole_file(path) as partial:
            partial.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        return
    earlier = read_meta(folder)
    places.adopt(earlier, meta)
    check_settings(folder, earlier, meta)


def _is_whole(path: Path, count: int) -> bool:
    try:
        tensors, _ = read_header(path)
        return all(tensor.shape[0] == count for tensor in tensors.values()) and is_intact(path)
    except (OSError, ValueError):  # a UserError is a ValueError
        return False


def _joined(parts: Sequence[Examples]) -> Examples:
    """Batches of examples as one."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _write(path: Path, examples: Examples) -> None:
    tensors = {key: TensorToWrite(value.dtype, value.shape, value.__array__) for key, value in sorted(examples.items())}
    with whole_file(path) as partial:
        write_tensors(partial, tensors)
        line = f"{file_sha256(partial)}  {path.name}\n"  # as sha256sum writes and checks it
    with whole_file(checksum_file(path)) as partial:
        partial.write_text(line, encoding="utf-8")
