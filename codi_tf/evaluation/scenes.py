"""What the metrics of scenes share: the option that names the reader, what it sees, and what is true."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.evaluation.metric import ImageSet, Metric, Option, Originals
from codi_tf.evaluation.sharing import changed
from codi_tf.io.bundle_files import model_at
from codi_tf.scenes.captions import Statements, parse
from codi_tf.scenes.statements import is_caption

if TYPE_CHECKING:
    from codi_tf.scenes.reading import Reader, Seen


class _Reader(Option):
    """--reader FOLDER: of a reader, or of the run that trained it."""

    def path(self, argument: str) -> Path:
        return model_at(argument)


READER = _Reader(
    "--reader",
    "folder of a reader of scenes, such as assets/scenes-reader; measures what rendered scenes show",
    "name that of a trained reader",
    folder=True,
)
CAPTION, DEPTH = "caption", "depth"  # keys of `Originals.truth`


class SceneMetric(Metric):
    """Base class of the metrics that read images of scenes.

    Args:
        eye: reads.
    """

    option = READER

    def __init__(self, eye: Eye):
        self.eye = eye

    @classmethod
    def load(cls, argument: str | None, image_size: int) -> Metric | None:
        return None if argument is None else cls(shared_eye(argument, image_size))


class Eye:
    """A reader that several metrics share: it reads the same images once.

    Args:
        reader: see `codi_tf.scenes.reading`.
    """

    def __init__(self, reader: Reader):
        self.reader = reader
        self._last: tuple[np.ndarray, Seen] | None = None

    def seen(self, images: ImageSet) -> Seen:
        """What is seen in the images."""
        if self._last is None or self._last[0] is not images.images:
            self._last = (images.images, self.reader.read(images.images, images.batch))
        return self._last[1]


def shared_eye(folder: str, image_size: int) -> Eye:
    """The reader in a folder, one for all metrics of an evaluation.

    Raises:
        UserError: no reader, or one that was trained on images of another size.
    """
    path = READER.path(folder).resolve()
    eye = _eye(path, changed(path))
    try:
        eye.reader.check_size(image_size, image_size)
    except UserError as error:
        raise UserError(f"{READER.flag} is {folder}: {error}; leave it out, or name another") from None
    return eye


@functools.lru_cache(maxsize=1)
def _eye(folder: Path, when: tuple) -> Eye:
    """The reader of a folder whose files are of that time."""
    from codi_tf.scenes.reading import load_reader

    return Eye(load_reader(folder))


def true_statements(originals: Originals) -> list[Statements]:
    """What is stated of the images: by their prompts, if all are captions of scenes, else by the source's captions.

    Raises:
        UserError: neither is known: these are no scenes.
    """
    prompts = originals.prompts
    if prompts is None or not all(map(is_caption, prompts)):
        prompts = originals.truth.get(CAPTION)
    if prompts is None:
        raise UserError(
            f"{READER.flag} reads rendered scenes, and nothing states what these images show: evaluate with --data "
            "scenes, or with --prompts where the images' texts are captions of scenes"
        )
    return [parse(text) for text in prompts]
