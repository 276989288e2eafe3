"""Number formats of activations: the ranges that calibration finds, and the whole numbers that stand for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from export.quantization.weights import WeightFormats

CALIBRATED = {"w8a8": "uint8", "w8a16": "uint16"}  # weight formats with int8 kernels -> the type of the activations
FLOAT = "float16"  # the format of kernels that keep float activations
MIN_RANGE = 1e-6
HEADROOM = {"uint8": 1.0, "uint16": 1.5}  # times the range that was seen: 16 bits can spare it, for other images


class Range(NamedTuple):
    """The lowest and the highest number that a tensor has held."""

    low: float
    high: float

    def __or__(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))


class Place(NamedTuple):
    """An input or an output of a product: the path of its kernel, which use of the kernel in a graph, "in" or "out"."""

    kernel: str
    use: int
    side: str


def parameters(numbers: Range, dtype: str) -> tuple[np.float32, int]:
    """(scale, zero point): x stands as round(x / scale) + zero point, of an unsigned type.

    The range is widened by the type's headroom, and to hold 0, which is then exact: maps are padded with it.
    """
    low, high = (HEADROOM[dtype] * end for end in (min(numbers.low, 0.0), max(numbers.high, 0.0)))
    most = np.iinfo(dtype).max
    scale = np.float32(max(high - low, MIN_RANGE) / most)
    return scale, int(np.clip(np.rint(-low / scale), 0, most))


class Signed(NamedTuple):
    """How a tensor stands for real numbers in LiteRT: x as round(x / scale) + zero, of a signed type."""

    dtype: str
    scale: np.float32
    zero: int


def signed_parameters(numbers: Range, formats: Calibrated) -> Signed:
    """Those of a range: of int8, as `parameters`, and of int16 around 0, because LiteRT's kernels want it so."""
    if formats.activations == "uint8":
        scale, zero = parameters(numbers, "uint8")
        return Signed("int8", scale, zero - 128)
    largest = max(HEADROOM["uint16"] * max(abs(numbers.low), abs(numbers.high)), MIN_RANGE)
    return Signed("int16", np.float32(largest / np.iinfo("int16").max), 0)


class Calibrated(WeightFormats):
    """Weight formats whose kernels have int8 and whose activations are rounded by calibrated ranges.

    Args:
        kind: one of CALIBRATED.
        ranges: of the inputs and outputs of all products in the unrolled sampler.
        floats: paths of kernels that stay float, together with their activations.
        each_step: whether each step has ranges of its own; else they share one, as a graph of one step needs it.

    Attributes:
        activations: the type of activations.
    """

    def __init__(
        self,
        kind: str,
        ranges: Mapping[Place, Range],
        *,
        floats: frozenset[str] = frozenset(),
        each_step: bool = True,
    ):
        super().__init__(kind, dict.fromkeys(floats, FLOAT))
        self.activations, self._each_step = CALIBRATED[kind], each_step
        self._ranges: dict[Place, Range] = {}
        for place, numbers in ranges.items():
            key = self._key(place)
            self._ranges[key] = self._ranges.get(key, numbers) | numbers

    def range_of(self, place: Place) -> Range:
        """The range at a place."""
        return self._ranges[self._key(place)]

    def ranges_of(self, kernel: str, side: str) -> list[Range]:
        """The ranges of all uses of a kernel."""
        return [numbers for place, numbers in self._ranges.items() if (place.kernel, place.side) == (kernel, side)]

    def _key(self, place: Place) -> Place:
        return place if self._each_step else place._replace(use=0)

    @property
    def bounds(self) -> str:
        return self.default
