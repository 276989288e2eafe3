"""The measured values of an interrupted evaluation, on disk, so that the same evaluation resumes from them."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codi_tf.core.paths import RemotePath
from codi_tf.io.files import whole_file
from codi_tf.io.hashing import arrays_sha256, text_sha256
from codi_tf.io.remote import on_this_machine


class Kept:
    """The values of the samplers that have been measured, one file each.

    Args:
        folder: of these files; made when the first is written.
        settings: of the evaluation, plain data.
        arrays: what is measured on. Values of other settings or arrays are not found.
    """

    def __init__(self, folder: Path, settings: Mapping, arrays: Sequence[np.ndarray]):
        self.folder = folder
        self._key = json.dumps([settings, arrays_sha256(arrays)], sort_keys=True)

    def read(self, name: str, metrics: Collection[str]) -> dict[str, np.ndarray] | None:
        """The values of a sampler, metric -> array; None where they are missing or damaged."""
        try:
            with on_this_machine(self._path(name)) as path, np.load(path, allow_pickle=False) as file:
                return {metric: file[metric] for metric in metrics}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def write(self, name: str, values: Mapping[str, np.ndarray]) -> None:
        """Keep the values of a sampler. Raises UserError if they cannot be written."""
        with whole_file(self._path(name)) as partial, open(partial, "wb") as file:
            arrays: dict[str, Any] = dict(values)
            np.savez(file, **arrays)

    def remove(self) -> None:
        """Remove all of them: the report is written."""
        if isinstance(self.folder, RemotePath):
            if self.folder.is_dir():
                self.folder.rmdir()
            return
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{text_sha256(self._key + name)}.npz"
