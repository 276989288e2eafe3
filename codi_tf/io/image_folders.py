"""A folder of images, made of the images of another folder one by one; a command that was stopped goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from codi_tf.core.errors import UserError, explained, full_disk
from codi_tf.core.progress import Progress
from codi_tf.core.showing import printable
from codi_tf.io.files import check_growing_folder, check_settings, followed, whole_file
from codi_tf.io.folders import MARKER, Kind
from codi_tf.io.json_files import read_json
from codi_tf.io.listing import is_hidden
from codi_tf.io.save_image import check_image_file, is_written, write_image

IMAGES = Kind("folder of images")
SETTINGS = "settings"  # in the marker: with which the results are made
M = TypeVar("M")


class ResultFolder:
    """The results of a folder's images: files of the same names, in a folder that grows image by image.

    A result has its image's name, with its subfolders and its extension; .png where images are not written in that
    format. Each file is whole or not there. A hidden marker keeps the settings, so that the same command goes on where
    it was stopped, and other settings do not mix with these.

    Args:
        out: a new folder, an empty one, or one that was begun with the same settings.
        folder: of the images.
        files: NAME, with its subfolder -> image, as `depth_files.photo_files` gives them.
        settings: of the results; paths, and else plain data.
        reads: what else is read.

    Raises:
        UserError: `out` cannot be written to, holds anything else or results with other settings, or lies in a folder
            that is read, or holds one.

    Attributes:
        waiting: the NAMEs whose result is not there yet.
    """

    def __init__(
        self,
        out: Path,
        folder: Path,
        files: Mapping[str, Path],
        settings: Mapping[str, Any],
        reads: Iterable[Path | None] = (),
    ):
        self.out = out
        self._settings = json.loads(json.dumps(settings, default=lambda path: str(followed(path))))
        self._targets = {name: out / _result_name(file.relative_to(folder)) for name, file in files.items()}
        check_growing_folder(out)
        _check_apart(out, [folder, *reads])
        self._check_earlier()
        self.waiting = [name for name, target in self._targets.items() if not target.exists()]

    def fill(self, load: Callable[[], M], make: Callable[[M, str], np.ndarray]) -> str:
        """Make the images that are waiting, and show how many are done and the time that is left.

        An image that fails does not end the others. Each of these is named at the end, with the reason.

        Args:
            load: gives the model; not called if there is nothing to do.
            make: (model, NAME) -> the result, float in [0, 1] or uint8 RGB [H, W, 3].

        Returns:
            How many were made, and how many were there.

        Raises:
            UserError: some images failed, or results cannot be written; or from `load`.
        """
        total, failures = len(self._targets), {}
        there = total - len(self.waiting)
        if not self.waiting:
            return f"{self.out}: all {total} images were there"
        model, progress = load(), Progress("image", total)
        progress.update(there)
        for done, name in enumerate(self.waiting, start=there + 1):
            target = self._targets[name]
            try:
                image = make(model, name)
                check_image_file(target, image.shape[:2])
            except Exception as error:
                failures[name] = _reason(error)
            else:
                self._begin()
                write_image(target, image)
            progress.update(done)
        made, reasons = len(self.waiting) - len(failures), set(failures.values())
        text = f"{self.out}: {made} of {total} images made" + (f", {there} were there" if there else "")
        if not failures:
            return text
        if len(reasons) == 1 and not made:  # it concerns all of them
            raise UserError(reasons.pop())
        for name, reason in failures.items():
            print(printable(f"{name}: {reason}"), file=sys.stderr)
        raise UserError(f"{text}, {len(failures)} failed: {', '.join(failures)}; correct them and start again")

    def _check_earlier(self) -> None:
        """Raise UserError where anything is here but results that were begun with these settings."""
        if not self.out.is_dir() or all(is_hidden(one.name) and one.name != MARKER for one in self.out.iterdir()):
            return
        try:
            earlier = read_json(self.out / MARKER)[SETTINGS]
        except (ValueError, KeyError, TypeError, OSError):  # a UserError is a ValueError
            raise UserError(f"{self.out}: already exists; name a new folder") from None
        check_settings(self.out, earlier, self._settings)

    def _begin(self) -> None:
        """Write the marker, once."""
        if (self.out / MARKER).exists():
            return
        names = sorted(target.relative_to(self.out).as_posix() for target in self._targets.values())
        about = {"kind": IMAGES.name, "files": names, SETTINGS: self._settings}
        with whole_file(self.out / MARKER) as partial:
            partial.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def partners(names: Iterable[str], option: str, path: Path, files: Callable[[Path], Mapping[str, Path]]) -> dict:
    """NAME -> its file of another kind, as a mask: `path` for all, or the one of that name in the folder `path`.

    Args:
        names: of the images.
        option: that names `path`.
        path: a file or a folder.
        files: the files of a folder by their NAMEs.

    Raises:
        UserError: a NAME without a file.
    """
    if not path.is_dir():
        return dict.fromkeys(names, path)
    found = files(path)
    for name in names:
        if name not in found:
            raise UserError(f"{option} is {path}: it has no {name}.png; give each image one of its name")
    return {name: found[name] for name in names}


def _result_name(path: Path) -> Path:
    return path if is_written(path) else path.with_suffix(".png")


def _check_apart(out: Path, reads: Iterable[Path | None]) -> None:
    """Raise UserError where `out` is, holds, or lies in a folder that is read: its results would be read, too."""
    target = followed(out)
    for source in (followed(one) for one in reads if one is not None):
        if target in (source, *source.parents) or (source.is_dir() and source in target.parents):
            raise UserError(f"{out}: {source} is read, and results must be apart from it; choose another place")


def _reason(error: Exception) -> str:
    """Why an image failed. Raises the error if it is not of this image: a bug, or a full disk."""
    reason = str(error) if isinstance(error, UserError) else explained(error)
    if reason is None or full_disk(error):
        raise error
    return reason
