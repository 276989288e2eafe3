"""Buckets: images of several shapes, in batches of one shape at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.core.progress import Progress
from codi_tf.data.pipeline import Source
from codi_tf.data.records import Unreadable
from codi_tf.data.unreadable import check_unreadable
from codi_tf.data.windows import fits

Shape = tuple[int, int]  # height and width of a bucket's images, in pixels

ROUND = 64  # batches of a round, about: in each round every bucket has its share of them
NAMED = 3  # of the sizes of images in a message


def bucket_of(size: tuple[int, int], buckets: Sequence[Shape]) -> int | None:
    """The number of an image's bucket: of those that are no larger than it, one of the nearest aspect ratio.

    Of several as near, it is the largest. None: all are larger than the image.
    """

    def distance(number: int) -> tuple[float, int]:
        height, width = buckets[number]
        return abs(math.log(size[0] / size[1]) - math.log(height / width)), -height * width

    return min((n for n, bucket in enumerate(buckets) if fits(size, bucket)), key=distance, default=None)


def sources_of_buckets(source: Any, buckets: Sequence[Shape], name: str) -> list[Source]:
    """The images of each bucket, as sources of their own.

    The sizes of images on disk are read from their headers, once. An image that is smaller than every bucket counts as
    unreadable.

    Args:
        source: a `pipeline.Source`.
        buckets: (height, width) of each.
        name: of the source, for messages.

    Raises:
        UserError: the sizes of the source's images are not known in advance; too many images are unreadable; no image
            is in one of the buckets.
    """
    if not hasattr(source, "chosen") or source.chosen([]) is None:
        raise UserError(f"data.buckets is set, but the images of {name} cannot be sorted by their sizes: remove it")
    places: list[list[int]] = [[] for _ in buckets]
    bad, sizes, progress = [], set(), Progress("reading the sizes of images", len(source))
    for i in range(len(source)):
        try:
            size = source.size(i)
        except Unreadable as reason:
            bad.append(f"{source.label(i)}: {reason}")
        else:
            found = bucket_of(size, buckets)
            sizes.add(size)
            if found is None:
                bad.append(f"{source.label(i)}: it is {size[0]}x{size[1]}, smaller than every bucket")
            else:
                places[found].append(i)
        progress.update(i + 1)
    for (height, width), numbers in zip(buckets, places, strict=True):
        if not numbers:
            there = ", ".join(f"{h}x{w}" for h, w in sorted(sizes)[:NAMED]) + (", ..." if len(sizes) > NAMED else "")
            raise UserError(
                f"data.buckets has {height}x{width}, and no image of {name} is for it (they are {there}): remove it"
            )
    check_unreadable(bad, len(source), source.max_unreadable)
    return [source.chosen(numbers) for numbers in places]


@dataclass(frozen=True)
class Turns:
    """Which bucket the batches of a run are of: batch k is a function of (the buckets' numbers of images, seed, k).

    Batches come in rounds. In each, every bucket has batches in proportion to its images, at least one, in an order of
    the round's own.

    Attributes:
        images: the number of images of each bucket.
        seed: of the order.
    """

    images: tuple[int, ...]
    seed: int

    @property
    def shares(self) -> list[int]:
        """The batches of each bucket in a round."""
        return [max(1, round(ROUND * count / sum(self.images))) for count in self.images]

    def at(self, step: int) -> int:
        """The bucket of batch `step`."""
        number, place = divmod(step, sum(self.shares))
        return int(self._order(number)[place])

    def before(self, step: int) -> list[int]:
        """How many of the first `step` batches are of each bucket."""
        number, place = divmod(step, sum(self.shares))
        begun = np.bincount(self._order(number)[:place], minlength=len(self.images))
        return [number * share + int(own) for share, own in zip(self.shares, begun, strict=True)]

    def _order(self, number: int) -> np.ndarray:
        """The buckets of a round's batches."""
        buckets = np.repeat(np.arange(len(self.images)), self.shares)
        return np.random.default_rng([self.seed, number]).permutation(buckets)
