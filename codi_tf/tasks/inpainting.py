"""Inpainting: the condition is the image without the part to fill, and the mask of that part."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

from codi_tf.core.errors import UserError
from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.showing import shown
from codi_tf.core.tensors import Tensor
from codi_tf.tasks.draws import between, whole_between
from codi_tf.tasks.options import checked_range, is_number
from codi_tf.tasks.task import TASKS, Graph, Task, Value


@TASKS.register("inpainting")
@dataclass(frozen=True, kw_only=True)
class Inpainting(Task):
    """condition = ((1 - mask) image, mask), mask 1 where the image is unknown: free-form strokes, a box or a half.

    The masks are as Palette (Saharia et al. 2022, section 4) trains with: free-form strokes as in Yu et al.
    (2019, "Free-form image inpainting with gated convolution", algorithm 1) and rectangles, and half images. Every mask
    has known and unknown pixels. Lengths are shares of the image's shorter side.

    Attributes:
        free_form, box, half: weights of the kinds of masks; 0 is never.
        strokes: range of the number of brush strokes in a free-form mask.
        stroke_segments: range of the number of straight segments in a stroke.
        stroke_angle: range of the angle, in degrees, between a segment and the stroke's direction; segments turn
            alternately to both sides.
        stroke_length: range of the length of a segment.
        stroke_width: range of the width of a stroke, 1.5 pixels at least.
        box_side: range of the sides of a box, as shares of the image's; height and width are drawn separately.

    Raises:
        UserError: an option out of its range.
    """

    has_mask: ClassVar[bool] = True
    is_local: ClassVar[bool] = True
    uses_condition_at_end: ClassVar[bool] = True

    free_form: float = 0.6
    box: float = 0.3
    half: float = 0.1
    strokes: tuple[int, int] = (1, 4)
    stroke_segments: tuple[int, int] = (4, 12)
    stroke_angle: tuple[float, float] = (48.0, 96.0)
    stroke_length: tuple[float, float] = (0.0, 0.35)
    stroke_width: tuple[float, float] = (0.05, 0.16)
    box_side: tuple[float, float] = (0.25, 0.75)

    def __post_init__(self) -> None:
        for name, weight in (("free_form", self.free_form), ("box", self.box), ("half", self.half)):
            if not is_number(weight) or weight < 0:
                raise UserError(f"{self.name}: {name} must be a number from 0 on, not {shown(weight)}")
        if self.free_form + self.box + self.half == 0:
            raise UserError(f"{self.name}: free_form, box and half are all 0: one kind of mask must be drawn")
        for name, low, high, whole in (
            ("strokes", 1, 100, True),
            ("stroke_segments", 1, 100, True),
            ("stroke_angle", 0, 180, False),
            ("stroke_length", 0, 2, False),
            ("stroke_width", 0, 1, False),
            ("box_side", 0, 1, False),
        ):
            object.__setattr__(self, name, checked_range(self.name, name, getattr(self, name), low, high, whole=whole))

    def degrade(self, image: Tensor, seed: Tensor) -> Tensor:
        """condition = ((1 - mask) image, mask), a function of (image, seed) only.

        Args:
            image: float32 [H, W, 3] in [-1, 1], static shape.
            seed: int32 [2].

        Returns:
            float32 [H, W, 4]: the image in [-1, 1], 0 where it is unknown, and the mask, 1 where it is unknown, else 0.
        """
        height, width, _ = image.shape
        return _condition(image, self.mask(height, width, seed) > 0)

    def condition_from_image(self, image: Tensor) -> Tensor:
        """The condition of a user's image and mask.

        Args:
            image: float32 [..., H, W, 4] in [-1, 1]: the image, with anything in its unknown part, and the mask, above
                0 where the image is unknown. A condition is its own condition.

        Returns:
            float32 [..., H, W, 4], as from `degrade`.
        """
        return _condition(image[..., :3], image[..., 3:] > 0)

    def finish(self, images: Tensor, condition: Tensor) -> Tensor:
        """mask images + (1 - mask) condition: the known pixels are the condition's, exactly.

        Args:
            images: float32 [..., H, W, 3] in [-1, 1], generated from the condition.
            condition: float32 [..., H, W, 4], see `degrade`.

        Returns:
            float32 [..., H, W, 3] in [-1, 1].
        """
        return tf.where(condition[..., 3:] > 0, images, condition[..., :3])

    def emit_condition(self, g: Graph, image: Value) -> Value:
        """`condition_from_image` in the operations of an exported graph."""
        mask = g.greater(g.channels(image, 3, 4), 0.0)
        known = g.multiply(g.channels(image, 0, 3), g.affine(mask, -1.0, 1.0))
        return g.concatenate(known, mask)

    def emit_finish(self, g: Graph, image: Value, condition: Value) -> Value:
        """`finish` in the operations of an exported graph."""
        mask = g.channels(condition, 3, 4)
        known = g.multiply(g.channels(condition, 0, 3), g.affine(mask, -1.0, 1.0))
        return g.add(g.multiply(image, mask), known)

    def mask(self, height: int, width: int, seed: Tensor) -> Tensor:
        """A mask of any of the three kinds, float32 [H, W, 1]: 1 where the image is unknown, else 0.

        Args:
            height, width: at least 2.
            seed: int32 [2]; the mask is a function of the size and the seed only.
        """
        kind_seed, seed = tf.unstack(tf.random.split(seed, 2))
        total = self.free_form + self.box + self.half
        bounds = tf.constant([self.free_form / total, (self.free_form + self.box) / total], tf.float32)
        kind = tf.reduce_sum(tf.cast(tf.random.stateless_uniform([], kind_seed) >= bounds, tf.int32))
        kinds = (self.free_form_mask, self.box_mask, half_mask)
        drawn = tf.switch_case(kind, [functools.partial(draw, height, width, seed) for draw in kinds])
        return tf.ensure_shape(drawn, [height, width, 1])

    def free_form_mask(self, height: int, width: int, seed: Tensor) -> Tensor:
        """Brush strokes of straight segments with round ends, float32 [H, W, 1].

        A stroke starts anywhere in the image in a random direction, zigzags about it, and is reflected at the image's
        edges. Should the strokes cover the whole image, the mask is a half instead.
        """
        count_seed, stroke_seed, segment_seed, half_seed = tf.unstack(tf.random.split(seed, 4))
        most_strokes, most_segments = self.strokes[1], self.stroke_segments[1]
        side = float(min(height, width))
        size = tf.constant([height, width], tf.float32)
        u = tf.random.stateless_uniform([most_strokes, 5], stroke_seed)
        v = tf.random.stateless_uniform([most_strokes, most_segments, 2], segment_seed)

        turn = between(self.stroke_angle, v[:, :, 0]) * (math.pi / 180)  # [strokes, segments]
        direction = 2 * math.pi * u[:, :1] + turn * (-1.0) ** tf.range(most_segments, dtype=tf.float32)
        length = side * between(self.stroke_length, v[:, :, 1:])
        steps = length * tf.stack([tf.sin(direction), tf.cos(direction)], axis=-1)  # [strokes, segments, 2]: y, x
        start = u[:, tf.newaxis, 1:3] * size
        points = tf.concat([start, start + tf.cumsum(steps, axis=1)], axis=1)  # [strokes, segments + 1, 2]
        points = size - tf.abs(tf.math.floormod(points, 2 * size) - size)  # mirrored at the edges, back into the image
        radius = tf.maximum(side * between(self.stroke_width, u[:, 3]) / 2, 0.75)  # at least one pixel's center
        radius = tf.tile(radius[:, tf.newaxis, tf.newaxis], [1, most_segments, 1])
        segments = tf.concat([points[:, :-1], points[:, 1:], radius], axis=-1)  # [strokes, segments, 5]

        strokes = whole_between(self.strokes, tf.random.stateless_uniform([], count_seed))
        drawn = tf.range(most_segments) < whole_between(self.stroke_segments, u[:, 4:])
        drawn &= tf.range(most_strokes)[:, tf.newaxis] < strokes
        mask = painted(tf.boolean_mask(segments, drawn), height, width)
        return tf.where(tf.reduce_all(mask > 0), half_mask(height, width, half_seed), mask)

    def box_mask(self, height: int, width: int, seed: Tensor) -> Tensor:
        """A rectangle of whole pixels, anywhere in the image, float32 [H, W, 1]; never the whole image."""
        u = tf.unstack(tf.random.stateless_uniform([4], seed))
        rows = _interval(height, between(self.box_side, u[0]), u[1])
        columns = _interval(width, between(self.box_side, u[2]), u[3])
        return tf.expand_dims(tf.cast(rows[:, tf.newaxis] & columns, tf.float32), axis=-1)


def half_mask(height: int, width: int, seed: Tensor) -> Tensor:
    """The upper, lower, left or right half, each equally likely, float32 [H, W, 1]; an odd side's is rounded down."""
    rows, columns = tf.range(height)[:, tf.newaxis], tf.range(width)
    halves = (
        rows < height // 2,
        rows >= height - height // 2,
        columns < width // 2,
        columns >= width - width // 2,
    )
    masks = tf.stack([tf.cast(tf.broadcast_to(half, [height, width]), tf.float32) for half in halves])
    return masks[tf.random.stateless_uniform([], seed, 0, len(halves), tf.int32)][..., tf.newaxis]


def painted(segments: Tensor, height: int, width: int) -> Tensor:
    """1 where min over segments |p - nearest point of the segment| <= radius for the pixel's center p, else 0.

    Args:
        segments: float32 [N, 5] of (y, x) of one end, (y, x) of the other, radius; in pixels, 0 at the image's edge.
        height, width: of the image.

    Returns:
        float32 [H, W, 1].
    """
    rows = tf.range(height, dtype=tf.float32)[:, tf.newaxis] + 0.5
    columns = tf.range(width, dtype=tf.float32) + 0.5

    def paint(mask: Tensor, segment: Tensor) -> Tensor:  # one after another, with the memory of one image
        y, x, end_y, end_x, radius = tf.unstack(segment)
        dy, dx = end_y - y, end_x - x
        squared = tf.maximum(dy * dy + dx * dx, 1e-12)  # a segment may be a point
        share = tf.clip_by_value((rows - y) * (dy / squared) + (columns - x) * (dx / squared), 0.0, 1.0)  # [H, W]
        distance = tf.square(rows - y - share * dy) + tf.square(columns - x - share * dx)
        return mask | (distance <= radius * radius)

    mask = tf.foldl(paint, segments, initializer=tf.zeros([height, width], tf.bool))
    return tf.cast(mask, tf.float32)[..., tf.newaxis]


def _condition(image: Tensor, unknown: Tensor) -> Tensor:
    return tf.concat([tf.where(unknown, 0.0, image), tf.cast(unknown, tf.float32)], axis=-1)


def _interval(size: int, share: Tensor, u: Tensor) -> Tensor:
    """Bool [size], true on an interval of 1 to size - 1 whole pixels, each place equally likely."""
    length = tf.clip_by_value(tf.cast(tf.round(share * size), tf.int32), 1, size - 1)
    start = whole_between((0, size - length), u)
    place = tf.range(size)
    return (place >= start) & (place < start + length)
