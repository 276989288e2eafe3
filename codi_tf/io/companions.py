"""The base class of companions, which belong to an image pixel by pixel, and their registry. Needs no TensorFlow."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from PIL import Image

from codi_tf.core.registry import Registry
from codi_tf.core.tensors import Tensor
from codi_tf.io.image_files import EXTENSIONS
from codi_tf.io.images import rgb_pixels

COMPANIONS: Registry[type[Companion]] = Registry("companion", "COMPANIONS", "codi_tf.companions")
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


class Companion:
    """What can come with an image, pixel by pixel: NAME.KIND.png beside NAME.jpg, KIND its name in the registry.

    The defaults are those of another RGB image. A companion from outside overrides what differs:

        @COMPANIONS.register("labels")
        class Labels(Companion):
            extensions, channels, is_color, resampling = (".png",), 1, False, "nearest"

            def window(self, image, box):
                return np.asarray(image.crop(box))[..., np.newaxis]

    Where a record has several files, all are cut alike. In an example, the companion is float32 [S, S, channels].

    Attributes:
        extensions: of its files, in lower case.
        folder_extensions: of files that only `open` reads, from folders; they are no field of a record.
        features: names of the feature of a tf.train.Example, or of the parquet column, that holds it in public data
            sets, the most likely first. (): only if the user names it.
        channels: of a window.
        dtype: of a window, a name of NumPy's.
        is_color: whether a window is RGB in 0 .. 255: it becomes [-1, 1], and where the image's colors change, its
            colors change alike.
        resampling: how a window is made smaller, a method of `tf.image.resize`.
    """

    extensions: ClassVar[tuple[str, ...]] = EXTENSIONS
    folder_extensions: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()
    channels: ClassVar[int] = 3
    dtype: ClassVar[str] = "uint8"
    is_color: ClassVar[bool] = True
    resampling: ClassVar[str] = "area"

    def window(self, image: Image.Image, box: Box) -> np.ndarray:
        """A window of a decoded file, `dtype` [height, width, channels]. Raises UserError for a file that is unfit."""
        return rgb_pixels(image.crop(box))

    def in_graph(self, gray: Tensor) -> Tensor:
        """`window` of a whole decoded PNG in gray, in operations of TensorFlow that fail for a file that is unfit.

        Where `window` is a method of its own and this one is not, Python cuts the windows in training.

        Args:
            gray: uint16 [H, W, 1]; of a file with fewer bits 0 .. 255.

        Returns:
            `dtype` [H, W, channels].
        """
        raise NotImplementedError

    def mirrored(self, window: Tensor) -> Tensor:
        """A window [S, S, channels] of the image that is mirrored left to right."""
        return window[:, ::-1]

    def has_whole_windows(self, task: Any) -> bool:
        """Whether windows are as large as the image, for a `Task` whose conditions are made of this companion."""
        return False

    def open(self, name: str, split: str | None, task: Any, **options: Any) -> Any:
        """The source of a name in `data.load_source`, if this companion has one of its own there; else None.

        Without one, `data.open_source.open_source` reads the name.

        Args:
            name: what the user names: "photos", "scenes", a folder, shards, ...
            split: "train", "heldout" or None for all.
            task: the `Task`.
            options: seed, max_unreadable and heldout_fraction of `data.load_source`.

        Returns:
            A `data.Source`, or None.

        Raises:
            UserError: the source has no such companions, or cannot be read.
        """
        return None


IMAGE = Companion()  # the image itself


def companion(name: str) -> Companion:
    """The companion with a name; "image" stands for the image itself. Raises UserError for an unknown name."""
    return IMAGE if name == "image" else COMPANIONS[name]()
