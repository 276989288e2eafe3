"""Commands that make an image of an image, or of each image in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from codi_tf.cli.sampling_options import say
from codi_tf.core.errors import UserError
from codi_tf.io.bundle_files import check_is_folder, is_bundle, model_at
from codi_tf.io.folders import Kind, check_folder, recover, whole_folder
from codi_tf.io.listing import files_below
from codi_tf.io.outputs import check_not_read
from codi_tf.io.save_image import check_image_file, write_image

IMAGES = Kind("folder of images")


def base_folder(path: Path) -> Path:
    """The folder or file of a base; for the folder of a run, that of its result.

    Raises:
        UserError: it is missing, or a bundle.
    """
    recover(path)
    check_is_folder(path)
    if not path.exists():
        raise UserError(f"{path}: no such model; train one or name another")
    path = model_at(path)
    if is_bundle(path):
        raise UserError(f"{path} is a trained model, which needs a condition image: name a base, which needs none")
    return path


def images_of(image: Path, out: Path, *, models: Iterable[Path], inputs: Mapping[str, Path | None]) -> list[Path]:
    """The image, or the files of the folder; checks, before any work, that the results can be written.

    Args:
        image: a file or a folder.
        out: a file, or a new folder.
        models: folders that are read, and must not be replaced.
        inputs: option -> another file that is read.

    Raises:
        UserError: no such image, a folder without any, or a result that cannot be written.
    """
    if not image.exists():
        raise UserError(f"--image is {image}: no such file or folder")
    if not image.is_dir():
        check_image_file(out)
        check_not_read(out, {"--image": image, **inputs})
        return [image]
    check_folder(out, IMAGES, replace=False, inputs=[image, *models])
    files = [Path(file) for file in files_below(image)[0]]
    if not files:
        raise UserError(f"--image is {image}: the folder has no images")
    return files


def write_images_of(image: Path, files: list[Path], out: Path, make: Callable[[Path], np.ndarray]) -> None:
    """Write what `make` makes of each file: as `out`, or under the files' names, as .png, in the folder `out`.

    The folder appears whole or not at all.
    """
    if not image.is_dir():
        write_image(out, make(image))
        return
    with whole_folder(out, IMAGES, replace=False) as folder:
        for i, file in enumerate(files, start=1):
            say(f"{i} of {len(files)}: {file}")
            write_image((folder / file.relative_to(image)).with_suffix(".png"), make(file))
