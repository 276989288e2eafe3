"""Mixed weights: the choice of a format for each kernel, for a given file size or PSNR.

Each kernel is quantized alone and the sampler is run on a few conditions, which gives the error of the image. These
errors are assumed to add up, and kernels lose bits in the order of the error per saved byte. A given PSNR is checked on
images of the quantized network: a search finds the largest number of changes that keeps it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.core.progress import Progress
from export.emit.conditions import conditions_for
from export.emit.program import SamplerProgram
from export.quantization.sensitivity import MARGIN, decibels, most
from export.quantization.weights import WeightFormats, dequantized, is_quantized, stored_bytes

IMAGES = 2


class _Change(NamedTuple):
    """A step of one kernel from a format to the next, with the squared error of the image per saved byte."""

    price: float
    kernel: int
    saved: int


def choose(
    program: SamplerProgram, formats: Sequence[str], *, size: float | None = None, psnr: float | None = None
) -> WeightFormats:
    """Choose the format of every kernel.

    Args:
        program: the program whose weights are stored.
        formats: the formats to choose from, most bits first; activations stay float32 in all of them.
        size: bytes that the weights may take.
        psnr: dB of images, at least, against those of float32 weights.

    Raises:
        UserError: the fewest bits exceed the size, or the most bits miss the PSNR.
    """
    variables = program.variables_in_use()
    kernels = [v for v in variables if is_quantized(v)]
    largest, least = (WeightFormats(name).bytes(variables) for name in (formats[0], formats[-1]))
    if size is not None and size < least:
        what = f"{size / 1e6:.1f} MB is too little; the weights take {least / 1e6:.1f} MB at least"
        raise UserError(f"--target-size: {what}")
    images = _Images(program)
    if psnr is not None and images.psnr(WeightFormats(formats[0]), kernels) < psnr + MARGIN:
        raise UserError(f"--min-psnr: {formats[0]} weights already miss {psnr:g} dB; export with --weights float32")
    changes = _changes(kernels, formats, _errors(images, kernels, formats))

    def after(count: int) -> WeightFormats:
        """The formats after the first `count` changes."""
        level = [0] * len(kernels)
        for change in changes[:count]:
            level[change.kernel] += 1
        return WeightFormats(formats[0], {v.path: formats[i] for v, i in zip(kernels, level, strict=True) if i})

    if size is not None:
        saved = itertools.accumulate((change.saved for change in changes), initial=0)
        return after(next(count for count, total in enumerate(saved) if largest - total <= size))
    assert psnr is not None
    enough = psnr + MARGIN
    return after(most(len(changes), lambda count: images.psnr(after(count), kernels) >= enough))


def _errors(images: _Images, kernels: list, formats: Sequence[str]) -> np.ndarray:
    """float64 [kernels, formats]: the squared error of the image with one kernel quantized."""
    errors = np.zeros((len(kernels), len(formats)))
    progress = Progress("kernels quantized, one at a time", len(kernels))
    for i, kernel in enumerate(kernels):
        value = kernel.numpy()
        for j, name in enumerate(formats[1:], start=1):
            kernel.assign(dequantized(value, WeightFormats(name)(kernel)))
            errors[i, j] = images.error()
        kernel.assign(value)
        progress.update(i + 1)
    return errors


def _changes(kernels: list, formats: Sequence[str], errors: np.ndarray) -> list[_Change]:
    """All changes, the lowest error per byte first; the changes of one kernel in the order of the formats."""
    changes = []
    for i, kernel in enumerate(kernels):
        sizes = [stored_bytes(kernel.shape, WeightFormats(name)(kernel)) for name in formats]
        rising = np.maximum.accumulate(errors[i])
        price = 0.0
        for j in range(1, len(formats)):
            saved = sizes[j - 1] - sizes[j]
            if saved <= 0:  # a small kernel, which int4 leaves in float16
                break
            price = max(price, (rising[j] - rising[j - 1]) / saved)
            changes.append(_Change(price, i, saved))
    return sorted(changes, key=lambda change: change.price)


class _Images:
    """The sampler's images for a few conditions, and their error when weights change."""

    def __init__(self, program: SamplerProgram):
        conditions, _ = conditions_for(program.model, program.height, program.width)
        self._cases = [
            tuple(map(tf.constant, [] if condition is None else [condition]))
            + (tf.constant(gaussian_noise(i, program.latent_shape)),)
            for i, condition in enumerate(conditions[:IMAGES])
        ]
        self._ids = () if program.context is not None else (tf.constant(program.model.base.tokenizer([""])[0]),)
        self._run = program.trace()
        self._expected = self._images()

    def _images(self) -> list[np.ndarray]:
        return [self._run(*case, *self._ids)["image"].numpy() for case in self._cases]

    def error(self) -> float:
        """The mean squared error against the images of the unchanged weights."""
        return float(np.mean([np.square(a - b) for a, b in zip(self._images(), self._expected, strict=True)]))

    def psnr(self, weight_formats: WeightFormats, kernels: list) -> float:
        """dB, with all kernels quantized."""
        values = [kernel.numpy() for kernel in kernels]
        try:
            for kernel, value in zip(kernels, values, strict=True):
                kernel.assign(dequantized(value, weight_formats(kernel)))
            return decibels(self.error())
        finally:
            for kernel, value in zip(kernels, values, strict=True):
                kernel.assign(value)
