"""Real-world super-resolution: the condition is the image degraded twice, as cameras, programs and uploads do."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from itertools import accumulate

from codi_tf.core.errors import UserError
from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.showing import shown
from codi_tf.core.tensors import Tensor
from codi_tf.tasks.degradations import (
    RESIZES,
    filtered,
    gaussian_kernel,
    gaussian_noise,
    jpeg,
    plateau_kernel,
    poisson_noise,
    resized,
    sinc_kernel,
)
from codi_tf.tasks.draws import between, whole_between
from codi_tf.tasks.enlarging import Enlarging
from codi_tf.tasks.options import checked_range, is_number
from codi_tf.tasks.task import TASKS

KERNELS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
DIRECTIONS = ("up", "down", "keep")
SINC_CUTOFF = (math.pi / 3, math.pi)
WIDE_SINC_CUTOFF = (math.pi / 5, math.pi)  # of blur kernels of 13 pixels and more, which can hold a lower cutoff


@TASKS.register("real_world")
@dataclass(frozen=True, kw_only=True)
class RealWorld(Enlarging):
    """condition = up(last(round 2(round 1(image)))), round = jpeg(resize(blur * image) + noise).

    The second-order degradation of Real-ESRGAN (Wang et al. 2021, section 3). The options have the names and the values
    of Real-ESRGAN's training options; those that end in 2 belong to the second round. A round blurs, resizes, adds
    either Gaussian or Poisson noise, and compresses. The second round blurs only sometimes, and its JPEG is replaced by
    the last step: resizing to the final size and sometimes a sinc filter, with JPEG before or after both. All strengths
    are drawn per image, uniformly in their ranges unless noted.

    Attributes:
        scale: factor between the sides of the image and of its low-resolution version; it must divide the sides.
        kernel_range: the smallest and the largest side of kernels; an odd number in between is drawn.
        kernel_prob: weights of the kinds of blur in `KERNELS`: Gaussian, generalized Gaussian or plateau,
            each isotropic or not; an anisotropic kernel has two sigmas and any direction.
        sinc_prob: probability of a sinc filter instead, its cutoff uniform in [pi/3, pi], or [pi/5, pi] from 13 pixels.
        blur_sigma: range of the standard deviations, in pixels.
        betag_range, betap_range: of the shape of generalized Gaussian and plateau kernels: below and above 1 equally
            likely, uniform in each part.
        resize_prob: weights of enlarging, shrinking and keeping the size.
        resize_range: the factor is drawn between 1 and the second number if enlarged, the first and 1 if shrunk; by
            area, bilinear or bicubic interpolation. In the second round it is a factor of the final size.
        gaussian_noise_prob: probability of Gaussian noise; else it is Poisson noise.
        noise_range: of the Gaussian noise's standard deviation, in levels of 8 bits.
        poisson_scale_range: of the factor of the Poisson noise, see `degradations.poisson_noise`.
        gray_noise_prob: probability that the noise is the same in the three channels.
        jpeg_range: of the JPEG quality, whole numbers, both ends included.
        second_blur_prob: probability of a blur in the second round; in the first it is 1.
        final_sinc_prob: probability of the last step's sinc filter.

    Raises:
        UserError: an option out of its range.
    """

    scale: int = 4
    kernel_range: tuple[int, int] = (7, 21)

    kernel_prob: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_prob: float = 0.1
    blur_sigma: tuple[float, float] = (0.2, 3.0)
    betag_range: tuple[float, float] = (0.5, 4.0)
    betap_range: tuple[float, float] = (1.0, 2.0)
    resize_prob: tuple[float, float, float] = (0.2, 0.7, 0.1)
    resize_range: tuple[float, float] = (0.15, 1.5)
    gaussian_noise_prob: float = 0.5
    noise_range: tuple[float, float] = (1.0, 30.0)
    poisson_scale_range: tuple[float, float] = (0.05, 3.0)
    gray_noise_prob: float = 0.4
    jpeg_range: tuple[int, int] = (30, 95)

    second_blur_prob: float = 0.8
    kernel_prob2: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_prob2: float = 0.1
    blur_sigma2: tuple[float, float] = (0.2, 1.5)
    betag_range2: tuple[float, float] = (0.5, 4.0)
    betap_range2: tuple[float, float] = (1.0, 2.0)
    resize_prob2: tuple[float, float, float] = (0.3, 0.4, 0.3)
    resize_range2: tuple[float, float] = (0.3, 1.2)
    gaussian_noise_prob2: float = 0.5
    noise_range2: tuple[float, float] = (1.0, 25.0)
    poisson_scale_range2: tuple[float, float] = (0.05, 2.5)
    gray_noise_prob2: float = 0.4
    jpeg_range2: tuple[int, int] = (30, 95)

    final_sinc_prob: float = 0.8

    def __post_init__(self) -> None:
        self.check_scale()
        self._check_range("kernel_range", 1, 99, whole=True)
        if any(size % 2 == 0 for size in self.kernel_range):
            raise UserError(f"{self.name}: kernel_range must be two odd numbers, not {shown(self.kernel_range)}")
        for name in ("second_blur_prob", "final_sinc_prob"):
            self._check_probability(name)
        for suffix in ("", "2"):
            for name in ("sinc_prob", "gaussian_noise_prob", "gray_noise_prob"):
                self._check_probability(name + suffix)
            self._check_weights("kernel_prob" + suffix, KERNELS)
            self._check_weights("resize_prob" + suffix, DIRECTIONS)
            for name, low, high in (
                ("blur_sigma", 0, math.inf),
                ("betag_range", 0.1, 10),
                ("betap_range", 0.1, 10),
                ("resize_range", 0.01, 10),
                ("noise_range", 0, 255),
                ("poisson_scale_range", 0, math.inf),
            ):
                self._check_range(name + suffix, low, high)
            low, high = getattr(self, "resize_range" + suffix)
            if not low <= 1 <= high:
                wanted = f"go from 1 or less to 1 or more, not {(low, high)}"
                raise UserError(f"{self.name}: resize_range{suffix} must {wanted}")
            self._check_range("jpeg_range" + suffix, 1, 100, whole=True)

    def low_resolution(self, image: Tensor, seed: Tensor) -> Tensor:
        """The degraded image before it is enlarged, float32 [H / scale, W / scale, 3] in [0, 1], in whole 8-bit levels.

        Arguments and errors: see `degrade`.
        """
        height, width, _ = image.shape
        low_size = self.low_size(image)
        first_seed, first_jpeg_seed, second_seed, last_seed = tf.unstack(tf.random.split(seed, 4))
        first, second = self.rounds
        low = first.degrade((image + 1) / 2, (height, width), first_seed)  # [h, w, 3], of varying size
        low = jpeg(low, whole_between(self.jpeg_range, tf.random.stateless_uniform([], first_jpeg_seed)))
        low = second.degrade(low, low_size, second_seed)
        low = self._last(low, low_size, last_seed)
        return tf.ensure_shape(tf.round(255 * tf.clip_by_value(low, 0.0, 1.0)) / 255, [*low_size, 3])

    @property
    def rounds(self) -> tuple[Round, Round]:
        """The two rounds with their options."""
        shared = {"kernel_range": self.kernel_range}
        drawn = [field.name for field in dataclasses.fields(Round) if field.name not in ("kernel_range", "blur_prob")]
        first, second = ({name: getattr(self, name + suffix) for name in drawn} for suffix in ("", "2"))
        return Round(blur_prob=1.0, **shared, **first), Round(blur_prob=self.second_blur_prob, **shared, **second)

    def _last(self, image: Tensor, size: tuple[int, int], seed: Tensor) -> Tensor:
        """Resizing and sinc filter, then JPEG, or JPEG first, with equal probability; float32 [*size, 3]."""
        u = tf.unstack(tf.random.stateless_uniform([6], seed))
        mode, quality = whole_between((0, len(RESIZES) - 1), u[0]), whole_between(self.jpeg_range2, u[1])
        kernel = sinc_kernel(_odd_between(self.kernel_range, u[2]), between(SINC_CUTOFF, u[3]))

        def small(image: Tensor) -> Tensor:
            image = tf.ensure_shape(resized(image, *size, mode), [*size, 3])
            return tf.cond(
                u[4] < self.final_sinc_prob,
                functools.partial(filtered, image, kernel),
                functools.partial(tf.identity, image),
            )

        def jpeg_last() -> Tensor:
            return jpeg(small(image), quality)

        def jpeg_first() -> Tensor:
            return small(jpeg(image, quality))

        return tf.cond(u[5] < 0.5, jpeg_last, jpeg_first)

    def _check_range(self, name: str, low: float, high: float, *, whole: bool = False) -> None:
        object.__setattr__(self, name, checked_range(self.name, name, getattr(self, name), low, high, whole=whole))

    def _check_probability(self, name: str) -> None:
        value = getattr(self, name)
        if not is_number(value) or not 0 <= value <= 1:
            raise UserError(f"{self.name}: {name} must be a number from 0 to 1, not {shown(value)}")

    def _check_weights(self, name: str, kinds: tuple[str, ...]) -> None:
        value = getattr(self, name)
        well_formed = isinstance(value, tuple | list) and len(value) == len(kinds)
        if not (well_formed and all(is_number(v) and v >= 0 for v in value) and sum(value) > 0):
            wanted = f"{len(kinds)} weights from 0 on, not all 0, of {', '.join(kinds)}"
            raise UserError(f"{self.name}: {name} must be {wanted}, not {shown(value)}")
        object.__setattr__(self, name, tuple(value))


@dataclass(frozen=True, kw_only=True)
class Round:
    """Blur, resizing and noise of one round; the attributes are those of `RealWorld`, and `blur_prob`."""

    kernel_range: tuple[int, int]
    blur_prob: float
    kernel_prob: tuple[float, ...]
    sinc_prob: float
    blur_sigma: tuple[float, float]
    betag_range: tuple[float, float]
    betap_range: tuple[float, float]
    resize_prob: tuple[float, float, float]
    resize_range: tuple[float, float]
    gaussian_noise_prob: float
    noise_range: tuple[float, float]
    poisson_scale_range: tuple[float, float]
    gray_noise_prob: float

    def degrade(self, image: Tensor, size: tuple[int, int], seed: Tensor) -> Tensor:
        """Blurred, resized to `size` times a drawn factor, noisy: float32 [h, w, 3] in [0, 1], a function of the seed.

        Args:
            image: float32 [H, W, 3] in [0, 1].
            size: height and width that the factor multiplies, in pixels.
            seed: int32 [2].
        """
        blur_seed, kernel_seed, resize_seed, noise_seed = tf.unstack(tf.random.split(seed, 4))

        def blurred() -> Tensor:
            return filtered(image, self.kernel(kernel_seed))

        blurs = tf.random.stateless_uniform([], blur_seed) < self.blur_prob
        image = tf.cond(blurs, blurred, functools.partial(tf.identity, image))
        u = tf.unstack(tf.random.stateless_uniform([3], resize_seed))
        factor = self.factor(u[0], u[1])
        height, width = (tf.maximum(1, tf.cast(tf.round(side * factor), tf.int32)) for side in size)
        image = resized(image, height, width, whole_between((0, len(RESIZES) - 1), u[2]))
        return tf.clip_by_value(image + self.noise(image, noise_seed), 0.0, 1.0)

    def kernel(self, seed: Tensor) -> Tensor:
        """A blur kernel, float32 [size, size]."""
        u = tf.unstack(tf.random.stateless_uniform([9], seed))
        kind = _choice(self.kernel_prob, u[0])
        size = _odd_between(self.kernel_range, u[1])
        sigma = between(self.blur_sigma, tf.stack([u[2], tf.where(kind % 2 == 0, u[2], u[3])]))  # even: isotropic
        angle = between((0.0, math.pi), u[4])
        cutoff = between(tuple(tf.where(size < 13, *c) for c in zip(SINC_CUTOFF, WIDE_SINC_CUTOFF, strict=True)), u[5])
        betag = tf.where(kind < 2, 1.0, _around_1(self.betag_range, u[6], u[7]))
        betap = _around_1(self.betap_range, u[6], u[7])
        kernels = (
            functools.partial(gaussian_kernel, size, sigma, angle, beta=betag),
            functools.partial(plateau_kernel, size, sigma, angle, beta=betap),
            functools.partial(sinc_kernel, size, cutoff),
        )
        return tf.switch_case(tf.where(u[8] < self.sinc_prob, 2, tf.where(kind < 4, 0, 1)), kernels)

    def factor(self, u: Tensor, v: Tensor) -> Tensor:
        """The factor of the size, float32 []; u and v uniform in [0, 1)."""
        low, high = self.resize_range
        return tf.stack([between((1.0, high), v), between((low, 1.0), v), 1.0])[_choice(self.resize_prob, u)]

    def noise(self, image: Tensor, seed: Tensor) -> Tensor:
        """The noise to be added to the image, float32 [h, w, 1 or 3]."""
        strength_seed, noise_seed = tf.unstack(tf.random.split(seed, 2))
        u = tf.unstack(tf.random.stateless_uniform([3], strength_seed))
        sigma, scale = between(self.noise_range, u[1]), between(self.poisson_scale_range, u[1])
        gray = u[2] < self.gray_noise_prob
        return tf.cond(
            u[0] < self.gaussian_noise_prob,
            functools.partial(gaussian_noise, image, sigma, noise_seed, gray=gray),
            functools.partial(poisson_noise, image, scale, noise_seed, gray=gray),
        )


def _odd_between(bounds: tuple[int, int], u: Tensor) -> Tensor:
    low, high = bounds
    return low + 2 * whole_between((0, (high - low) // 2), u)


def _around_1(bounds: tuple[float, float], u: Tensor, v: Tensor) -> Tensor:
    """Below and above 1 with equal probability, uniform in each part of the range; u and v in [0, 1)."""
    low, high = bounds
    middle = min(max(low, 1.0), high)
    return tf.where(u < 0.5, between((low, middle), v), between((middle, high), v))


def _choice(weights: tuple[float, ...], u: Tensor) -> Tensor:
    """int32 [], i with probability weights[i] / sum(weights); u in [0, 1)."""
    bounds = [total / sum(weights) for total in accumulate(weights)][:-1]
    return tf.reduce_sum(tf.cast(u >= tf.constant(bounds, tf.float32), tf.int32))
