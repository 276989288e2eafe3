"""Commands that make an image of an image, or of each image in a folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from codi_tf.cli.sampling_options import existing_model
from codi_tf.core.errors import UserError
from codi_tf.io.bundle_files import is_bundle
from codi_tf.io.depth_files import photo_files
from codi_tf.io.image_folders import ResultFolder
from codi_tf.io.outputs import check_not_read
from codi_tf.io.save_image import check_image_file, write_image

M = TypeVar("M")


def base_folder(path: Path) -> Path:
    """The folder or file of a base, see `existing_model`.

    Raises:
        UserError: it is missing, or a bundle.
    """
    path = existing_model(path)
    if is_bundle(path):
        raise UserError(f"{path} is a trained model, which needs a condition image: name a base, which needs none")
    return path


class Images:
    """An image and its result, or a folder of images and the folder of their results.

    Args:
        option: that names the image or the folder.
        path: the image or the folder.
        options: of the command: `out`, and the others, with which the results are made.
        models: folders that are read.
        inputs: option -> another file or folder that is read.
        find: the files of a folder by their NAMEs.

    Raises:
        UserError: no such image, a folder without any or with two of one name, or a result that cannot be written.

    Attributes:
        files: NAME -> file.
        results: of a folder; None for an image.
    """

    def __init__(
        self,
        option: str,
        path: Path,
        options: argparse.Namespace,
        *,
        models: Iterable[Path],
        inputs: Mapping[str, Path | None],
        find: Callable[[Path], dict[str, Path]] = photo_files,
    ):
        self.out, self.results = options.out, None
        if not path.exists():
            raise UserError(f"{option} is {path}: no such file or folder")
        if not path.is_dir():
            check_image_file(self.out)
            check_not_read(self.out, {**inputs, option: path})
            self.files = {path.stem: path}
            return
        self.files = find(path)
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        self.results = ResultFolder(self.out, path, self.files, settings, [*models, *inputs.values()])

    def write(self, load: Callable[[], M], make: Callable[[M, str], np.ndarray]) -> str:
        """Write what `make(load(), NAME)` makes of each image without a result, and return a line about it.

        Raises:
            UserError: see `ResultFolder.fill`, and from `load` and `make`.
        """
        if self.results is not None:
            return self.results.fill(load, make)
        (name,) = self.files
        write_image(self.out, make(load(), name))
        return str(self.out)
