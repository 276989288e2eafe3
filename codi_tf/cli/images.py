"""Commands that make an image of an image, or of each image in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from codi_tf.cli.sampling_options import existing_model, say
from codi_tf.core.errors import UserError
from codi_tf.io.bundle_files import is_bundle
from codi_tf.io.depth_files import photo_files
from codi_tf.io.folders import Kind, check_folder, whole_folder
from codi_tf.io.outputs import check_not_read
from codi_tf.io.save_image import check_image_file, write_image

IMAGES = Kind("folder of images")


def base_folder(path: Path) -> Path:
    """The folder or file of a base, see `existing_model`.

    Raises:
        UserError: it is missing, or a bundle.
    """
    path = existing_model(path)
    if is_bundle(path):
        raise UserError(f"{path} is a trained model, which needs a condition image: name a base, which needs none")
    return path


def images_of(image: Path, out: Path, *, models: Iterable[Path], inputs: Mapping[str, Path | None]) -> dict[str, Path]:
    """NAME -> file of the image, or of those in the folder; checks, before any work, that the results can be written.

    Args:
        image: a file or a folder.
        out: a file, or a new folder.
        models: folders that are read, and must not be replaced.
        inputs: option -> another file that is read.

    Raises:
        UserError: no such image, a folder without any or with two of one name, or a result that cannot be written.
    """
    if not image.exists():
        raise UserError(f"--image is {image}: no such file or folder")
    if not image.is_dir():
        check_image_file(out)
        check_not_read(out, {"--image": image, **inputs})
        return {image.stem: image}
    check_folder(out, IMAGES, replace=False, inputs=[image, *models])
    return photo_files(image)


def write_images_of(image: Path, files: dict[str, Path], out: Path, make: Callable[[str], np.ndarray]) -> None:
    """Write what `make` makes of each NAME: as `out`, or as NAME.png in the folder `out`.

    The folder appears whole or not at all.
    """
    if not image.is_dir():
        write_image(out, make(image.stem))
        return
    with whole_folder(out, IMAGES, replace=False) as folder:
        for i, (name, file) in enumerate(files.items(), start=1):
            say(f"{i} of {len(files)}: {file}")
            write_image(folder / f"{name}.png", make(name))
