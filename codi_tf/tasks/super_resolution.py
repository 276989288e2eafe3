"""Super-resolution: the condition is the image blurred, shrunk, with noise and JPEG artifacts, and enlarged again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.tensors import Tensor
from codi_tf.tasks.degradations import jpeg
from codi_tf.tasks.draws import between
from codi_tf.tasks.enlarging import Enlarging
from codi_tf.tasks.options import checked_range
from codi_tf.tasks.task import TASKS


@TASKS.register("super_resolution")
@dataclass(frozen=True, kw_only=True)
class SuperResolution(Enlarging):
    """condition = up(jpeg(down(blur(image)) + noise)): each strength is drawn uniformly per image.

    Attributes:
        scale: factor between the sides of the image and of its low-resolution version; it must divide the sides.
        blur_sigma: range of the isotropic Gaussian's standard deviation, in pixels of the image before downsampling.
        noise_std: range of the Gaussian noise's standard deviation in the low-resolution version, black to white = 1.
        jpeg_quality: range of the JPEG quality, whole numbers, both ends included.

    Raises:
        UserError: an option out of its range.
    """

    scale: int = 4
    blur_sigma: tuple[float, float] = (0.2, 1.2)
    noise_std: tuple[float, float] = (0.0, 0.04)
    jpeg_quality: tuple[int, int] = (60, 95)

    def __post_init__(self) -> None:
        self.check_scale()
        for name, low, high, whole in (
            ("blur_sigma", 0, math.inf, False),
            ("noise_std", 0, 1, False),
            ("jpeg_quality", 1, 100, True),
        ):
            value = checked_range(self.name, name, getattr(self, name), low, high, whole=whole)
            object.__setattr__(self, name, value)

    def low_resolution(self, image: Tensor, seed: Tensor) -> Tensor:
        """jpeg(down(blur(image)) + noise), float32 [H / scale, W / scale, 3] in [0, 1], in whole 8-bit levels.

        Arguments and errors: see `degrade`.
        """
        low_size = self.low_size(image)
        strength_seed, noise_seed = tf.unstack(tf.random.split(seed, 2))
        u = tf.unstack(tf.random.stateless_uniform([3], strength_seed))
        sigma = between(self.blur_sigma, u[0])
        noise_std = between(self.noise_std, u[1])
        quality_low, quality_high = self.jpeg_quality
        quality = tf.cast(between((quality_low, quality_high + 1), u[2]), tf.int32)  # rounds down

        low = (image + 1) / 2
        low = gaussian_blur(low, sigma, radius=math.ceil(3 * self.blur_sigma[1]))
        low = tf.image.resize(low, low_size, "bicubic", antialias=True)  # [H/scale, W/scale, 3]
        low += noise_std * tf.random.stateless_normal(low.shape, noise_seed)
        return jpeg(low, tf.minimum(quality, quality_high))


def gaussian_blur(image: Tensor, sigma: Tensor, *, radius: int) -> Tensor:
    """(g_sigma * image)(y, x), g_sigma(d) proportional to exp(-d^2 / (2 sigma^2)) for |d| <= radius, edges mirrored.

    Args:
        image: float32 [H, W, 3], H and W at least radius.
        sigma: float32 [], in pixels; 0 leaves the image as it is.
        radius: half width of the kernel in pixels.
    """
    height, width, channels = image.shape
    radius = min(radius, height, width)
    if radius == 0:
        return image
    distance = tf.range(-radius, radius + 1, dtype=tf.float32)
    kernel = tf.nn.softmax(-0.5 * (distance / tf.maximum(sigma, 1e-3)) ** 2)  # [2 radius + 1], sum 1
    kernel = tf.tile(kernel[:, tf.newaxis], [1, channels])
    blurred = tf.pad(image, [[radius, radius], [radius, radius], [0, 0]], "SYMMETRIC")[tf.newaxis]
    for shape in ([-1, 1, channels, 1], [1, -1, channels, 1]):  # separable: down the columns, along the rows
        blurred = tf.nn.depthwise_conv2d(blurred, tf.reshape(kernel, shape), [1, 1, 1, 1], "VALID")
    return blurred[0]
