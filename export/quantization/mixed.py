"""Mixed weights: every kernel in as few bits as the picture bears, for a file size or for a PSNR.

Each kernel is narrowed alone and the sampler run on a few photos, so that its own trajectory (z_t, t, c) drives the
scan: what counts is the error of the picture. Errors of single kernels are taken to add up; with that, kernels give up
bits in the order of the error that a saved byte costs. For a PSNR the sum is not trusted: the pictures of the narrowed
network are made, and the budget is moved until they are good enough.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.core.progress import Progress
from export.emit.program import SamplerProgram
from export.parity.gate import conditions_of
from export.quantization.weights import WeightFormats, left_of, shrinks, stored

KINDS = {  # from the most bits to the fewest; activations stay float32
    "tflite": ("float16", "int8_weight_only"),
    "onnx": ("float16", "int8_weight_only", "int4"),
}
PICTURES = 2
MARGIN = 1.0  # dB: the gate looks at other photos, too


class _Offer(NamedTuple):
    """A kernel narrowed from one kind to the next: squared error of the picture that a saved byte costs."""

    price: float
    place: int
    saved: int


def choose(
    program: SamplerProgram, format: str, *, size: float | None = None, psnr: float | None = None
) -> WeightFormats:
    """Which kind every kernel is kept in.

    Args:
        size: bytes that the weights may take.
        psnr: dB that pictures must keep to those of float32.

    Raises:
        UserError: a size that even the fewest bits exceed, a PSNR that even float16 misses.
    """
    variables, kinds = program.variables_in_use(), KINDS[format]
    kernels = [v for v in variables if shrinks(v)]
    most, least = (WeightFormats(kind).bytes(variables) for kind in (kinds[0], kinds[-1]))
    if size is not None and size < least:
        what = f"{size / 1e6:.1f} MB is too little; the weights take {least / 1e6:.1f} MB at least"
        raise UserError(f"--target-size: {what}")
    pictures = _Pictures(program)
    if psnr is not None and pictures.psnr(WeightFormats(kinds[0]), kernels) < psnr + MARGIN:
        raise UserError(f"--min-psnr: float16 weights already miss {psnr:g} dB; export with --weights float32")
    offers = _offers(kernels, kinds, _costs(pictures, kernels, kinds))

    def keeping(count: int) -> WeightFormats:
        """After so many offers taken."""
        level = [0] * len(kernels)
        for offer in offers[:count]:
            level[offer.place] += 1
        return WeightFormats(kinds[0], {v.path: kinds[i] for v, i in zip(kernels, level, strict=True) if i})

    if size is not None:
        taken = itertools.accumulate((offer.saved for offer in offers), initial=0)
        return keeping(next(count for count, saved in enumerate(taken) if most - saved <= size))
    low, high = 0, len(offers)
    while low < high:
        middle = (low + high + 1) // 2
        enough = pictures.psnr(keeping(middle), kernels) >= psnr + MARGIN
        low, high = (middle, high) if enough else (low, middle - 1)
    return keeping(low)


def _costs(pictures: _Pictures, kernels: list, kinds: tuple[str, ...]) -> np.ndarray:
    """float64 [kernels, kinds]: the squared error of the picture with one kernel narrowed."""
    costs = np.zeros((len(kernels), len(kinds)))
    progress = Progress("kernels narrowed, one at a time", len(kernels))
    for i, kernel in enumerate(kernels):
        value = kernel.numpy()
        for j, kind in enumerate(kinds[1:], start=1):
            kernel.assign(left_of(value, WeightFormats(kind)(kernel)))
            costs[i, j] = pictures.error()
        kernel.assign(value)
        progress.update(i + 1)
    return costs


def _offers(kernels: list, kinds: tuple[str, ...], costs: np.ndarray) -> list[_Offer]:
    """All offers, the cheapest first, those of a kernel in the order of its kinds."""
    offers = []
    for i, kernel in enumerate(kernels):
        sizes = [stored(kernel.shape, WeightFormats(kind)(kernel)) for kind in kinds]
        rising = np.maximum.accumulate(costs[i])
        price = 0.0
        for j in range(1, len(kinds)):
            saved = sizes[j - 1] - sizes[j]
            if saved <= 0:  # a small kernel, which four bits do not take
                break
            price = max(price, (rising[j] - rising[j - 1]) / saved)
            offers.append(_Offer(price, i, saved))
    return sorted(offers, key=lambda offer: offer.price)


class _Pictures:
    """The sampler's pictures of a few photos: how far weights that are changed now move them."""

    def __init__(self, program: SamplerProgram):
        conditions, _ = conditions_of(program.model, program.height, program.width)
        self._cases = [
            (tf.constant(condition[None]), tf.constant(gaussian_noise(i, program.latent_shape)))
            for i, condition in enumerate(conditions[:PICTURES])
        ]
        self._ids = () if program.context is not None else (tf.constant(program.model.base.tokenizer([""])[0]),)
        self._run = program.trace()
        self._expected = self._pictures()

    def _pictures(self) -> list[np.ndarray]:
        return [self._run(*case, *self._ids)["image"].numpy() for case in self._cases]

    def error(self) -> float:
        """The mean squared error to the pictures of the unchanged weights."""
        return float(np.mean([np.square(a - b) for a, b in zip(self._pictures(), self._expected, strict=True)]))

    def psnr(self, weight_formats: WeightFormats, kernels: list) -> float:
        """dB, with all kernels as they would be kept."""
        values = [kernel.numpy() for kernel in kernels]
        try:
            for kernel, value in zip(kernels, values, strict=True):
                kernel.assign(left_of(value, weight_formats(kernel)))
            return -10.0 * np.log10(max(self.error(), 1e-20))
        finally:
            for kernel, value in zip(kernels, values, strict=True):
                kernel.assign(value)
