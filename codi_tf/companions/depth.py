"""The depth map of an image: NAME.depth.png, .tif; in folders also .npy and .pfm."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from codi_tf.core.errors import UserError
from codi_tf.core.tensors import Tensor
from codi_tf.io import depth_files
from codi_tf.io.companions import COMPANIONS, Box, Companion


@COMPANIONS.register("depth")
class Depth(Companion):
    """Nearness, float32 [S, S, 1] in any unit: larger is nearer. Holes are filled."""

    extensions = (".png", ".tif", ".tiff")
    folder_extensions = (".npy", ".pfm")
    channels = 1
    dtype = "float32"
    is_color = False

    def window(self, image: Image.Image, box: Box) -> np.ndarray:
        """A window of a grayscale disparity map, as nearness, float32 [height, width, 1].

        Raises:
            UserError: the map is in color, constant or without a known pixel.
        """
        values = np.asarray(image)
        if values.ndim != 2 or image.mode == "P":
            raise UserError(f"the depth map is of mode {image.mode}, not grayscale")
        near = depth_files.nearness(values, "disparity")
        near = depth_files.checked_nearness("the depth map", near, fill=True)[..., None]  # of the whole map
        left, top, right, bottom = box
        return near[top:bottom, left:right]

    def in_graph(self, gray: Tensor) -> Tensor:
        """The whole map, float32 [H, W, 1]; a constant one fails."""
        import tensorflow as tf

        near = tf.cast(gray, tf.float32)
        differs = tf.debugging.Assert(tf.reduce_min(near) < tf.reduce_max(near), ["the depth map is constant"])
        with tf.control_dependencies([differs]):
            return tf.identity(near)

    def open(self, name: str, split: str | None, task: Any, **options: Any) -> Any:
        """The embedded stereo pair, or images with maps, whose kind is the task's `condition_file`; None for scenes.

        Raises:
            UserError: see `Companion.open`.
        """
        from codi_tf.data.depth_maps import load_stereo, open_depth
        from codi_tf.data.photos import EMBEDDED
        from codi_tf.data.scenes import NAMES

        if name in NAMES:
            return None
        return load_stereo(split) if name == EMBEDDED else open_depth(name, split, kind=task.condition_file, **options)
