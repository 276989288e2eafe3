"""codi photos --out DIR: fetch photos under free licenses, to train on.

The photos are in packages of Debian and npm, which apt-get and npm fetch without installing them. On other systems,
fetch the packages by hand into a folder and name it with --packages. Each photo is checked by its hash, scaled down and
written as NAME.png; LICENSES.md names authors and licenses. `data.source=DIR` trains on the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import ImageOps

from codi_tf.core.arguments import integer, path_argument
from codi_tf.core.command_line import ArgumentParser
from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_SIDE
from codi_tf.core.progress import Progress
from codi_tf.core.showing import printable
from codi_tf.io.archives import read_members
from codi_tf.io.bundle_files import PHOTOS
from codi_tf.io.folders import check_folder, whole_folder
from codi_tf.io.free_photos import FreePhoto, credits, free_photos
from codi_tf.io.image_files import open_image
from codi_tf.io.images import resize, rgb_pixels
from codi_tf.io.packages import Package, fetch, files_of
from codi_tf.io.save_image import write_image

CREDITS = "LICENSES.md"
CREDITS_HEAD = """# Photos from packages of Debian and npm

Each was scaled down to at most {size} pixels and saved as PNG; nothing else was changed.

"""
DIFFERS = "another version, in which these files differ or are missing"
SIZE = 1024  # pixels of the longer side; training crops windows of at most 800 pixels from images of 128


def install(
    photos: Sequence[FreePhoto], out: Path, packages: Path | None, size: int
) -> tuple[list[FreePhoto], list[str]]:
    """Write photos, and the file `CREDITS`, into an existing folder.

    Args:
        photos: which.
        out: the folder.
        packages: a folder that holds the packages; None: they are fetched.
        size: of the longer side, in pixels; smaller photos stay as they are.

    Returns:
        The photos that were written; and, for each reason why others are left out, a line with their packages.
    """
    progress, tried, written = Progress("photo", len(photos)), 0, []
    reasons: dict[str, list[str]] = defaultdict(list)
    for package in dict.fromkeys(photo.package for photo in photos):
        wanted = [photo for photo in photos if photo.package == package]
        found: dict[FreePhoto, bytes] = {}
        try:
            with _archives(package, packages) as archives:
                for archive in archives:
                    found |= _known(wanted, read_members(archive, [photo.path for photo in wanted]))
        except UserError as error:
            reasons[str(error)].append(str(package))
        else:
            if others := [photo.path for photo in wanted if photo not in found]:
                reasons[f"{DIFFERS}: {', '.join(others)}"].append(str(package))
        for photo in wanted:
            tried += 1
            if photo in found:
                _write(out / f"{photo.name}.png", found[photo], size)
                written.append(photo)
            progress.update(tried, package.name)
    (out / CREDITS).write_text(CREDITS_HEAD.format(size=size) + credits(written) + "\n", encoding="utf-8")
    return written, [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]


@contextlib.contextmanager
def _archives(package: Package, folder: Path | None) -> Iterator[list[Path]]:
    """The files of a package: in the folder, or fetched and kept within the block."""
    if folder is not None:
        found = files_of(package, folder)
        if not found:
            raise UserError(f"not in {folder}; fetch it into that folder")
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="codi_tf.") as temporary:
        fetch(package, Path(temporary))
        yield files_of(package, Path(temporary))


def _known(photos: Sequence[FreePhoto], contents: dict[str, bytes]) -> dict[FreePhoto, bytes]:
    """The contents of those photos whose hash is right."""
    found = {photo: contents[photo.path] for photo in photos if photo.path in contents}
    return {photo: content for photo, content in found.items() if hashlib.sha256(content).hexdigest() == photo.sha256}


def _write(path: Path, content: bytes, size: int) -> None:
    """Write an image file as `path`, scaled down to `size` pixels of its longer side."""
    with open_image(io.BytesIO(content)) as file:
        image = rgb_pixels(ImageOps.exif_transpose(file))
    height, width = image.shape[:2]
    factor = size / max(height, width)
    if factor < 1:
        image = resize(image / np.float32(255), max(1, round(height * factor)), max(1, round(width * factor)))
    write_image(path, image)


def main(arguments: list[str], prog: str = "codi photos") -> None:
    parser = ArgumentParser(prog=prog, doc=__doc__)
    parser.add_argument("--out", type=path_argument, required=True, help="the folder to write")
    parser.add_argument("--packages", type=path_argument, help="a folder that holds the packages; nothing is fetched")
    parser.add_argument(
        "--size",
        type=integer(64, MAX_SIDE),
        default=SIZE,
        help=f"longer side in pixels; smaller photos stay as they are (default: {SIZE})",
    )
    options = parser.parse_args(arguments)
    if options.packages is not None and not options.packages.is_dir():
        raise UserError(f"--packages is {options.packages}: no such folder")
    photos = free_photos()
    check_folder(options.out, PHOTOS, inputs=[options.packages])
    with whole_folder(options.out, PHOTOS) as partial:
        written, problems = install(photos, partial, options.packages, options.size)
        if not written:
            raise UserError(f"none of the {len(photos)} photos can be had: {'; '.join(problems)}")
    for problem in problems:
        warnings.warn(problem, stacklevel=1)
    print(f"{printable(options.out)}: {len(written)} of {len(photos)} photos, with their authors in {CREDITS}")
