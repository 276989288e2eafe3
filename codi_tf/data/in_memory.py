"""`Photos`: a source of examples from images in memory."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.core.seeds import fold_in
from codi_tf.core.tensors import Tensor
from codi_tf.data.tokens_in_graph import is_plain
from codi_tf.data.unreadable import check_unreadable, too_small
from codi_tf.data.windows import Size, fits, max_log_zoom, shrink_factor, shrunk_side, sides
from codi_tf.io import images
from codi_tf.io.companions import IMAGE, Companion, companion
from codi_tf.tasks.draws import whole_between

PYRAMID = (1.0, 1.5, 2.25)  # every image is stored at these reductions; a window then shrinks by 1.5 at most


class Prompts(NamedTuple):
    """The prompts of images.

    Attributes:
        texts: name -> text, "" for none.
        damaged: name -> the reason why the text of an image cannot be read. If prompts are used, it is left out.
    """

    texts: dict[str, str]
    damaged: dict[str, str]


class Photos:
    """Windows of images, shrunk to the crop's size; a `pipeline.Source`.

    An image is drawn in proportion to the square root of its area, the window's side log-uniformly between image_size
    and 2.5 image_size (or the largest window of the image), its position uniformly.

    Args:
        images: name -> uint8 [H, W, 3].
        companions: name -> an array of the same size, from which the same window is cut, of the kind's `dtype` and
            `channels`: a depth map float32 [H, W, 1], or the image before an edit uint8 [H, W, 3].
        kind: of the companions, their name in `codi_tf.companions.COMPANIONS`.
        prompts: name -> text; or a function that reads them when they are needed, see `Prompts`.
        max_unreadable: the share of images that may be smaller than the crop, counted as in `stream.Stream`.
        unreadable: one line for each image that could not be read; they count, too.

    Raises:
        UserError: no image; an image without a companion or a prompt, or of another size than its companion; an unknown
            kind.
    """

    def __init__(
        self,
        images: dict[str, np.ndarray],
        companions: dict[str, np.ndarray] | None = None,
        kind: str = "",
        prompts: dict[str, str] | Callable[[], Prompts] | None = None,
        *,
        max_unreadable: float = 0.0,
        unreadable: Sequence[str] = (),
    ):
        if not images:
            raise UserError("no images to take crops from")
        self.images, self.companions, self.kind = images, companions, kind
        self._companion = IMAGE if companions is None else companion(kind)
        self.max_unreadable, self.unreadable = max_unreadable, tuple(unreadable)
        self.names = tuple(images)
        self.provides = (*(() if companions is None else (kind,)), *(() if prompts is None else ("prompt",)))
        known = prompts if isinstance(prompts, dict) else None
        for name, photo in images.items():
            for what, others in ((kind, companions), ("prompt", known)):
                if others is not None and name not in others:
                    raise UserError(f"image {name} has no {what}: add it or leave the image out")
            if companions is not None and companions[name].shape[:2] != photo.shape[:2]:
                sizes = [f"{one.shape[1]}x{one.shape[0]}" for one in (companions[name], photo)]
                raise UserError(f"image {name}: its {kind} is {sizes[0]}, the image {sizes[1]}; make them of one size")
        self._read_prompts = prompts if callable(prompts) else lambda: Prompts(known or {}, {})

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def _prompts(self) -> Prompts:
        return self._read_prompts()

    @property
    def prompts(self) -> dict[str, str] | None:
        """Name -> text, of the images whose text can be read; None for images without prompts."""
        return self._prompts.texts if "prompt" in self.provides else None

    @property
    def missing_prompts(self) -> int:
        """The number of images without a prompt; see `pipeline.Source`."""
        return sum(not self._prompts.texts.get(name) for name in self.names if name not in self._prompts.damaged)

    @property
    def plain_prompts(self) -> bool:
        """Whether all prompts are plain, see `tokens_in_graph`."""
        return self.prompts is not None and all(map(is_plain, self.prompts.values()))

    def drawer(
        self, *, image_size: Size, augment: bool, recolor: bool, prompts: bool = True
    ) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """(index int64 [], seed int32 [2]) -> an example, a function of (images, seed) only; see `pipeline.Source`."""
        texts = self._prompts if prompts and "prompt" in self.provides else None
        damaged = {} if texts is None else texts.damaged
        small = {
            name: f"image {name}: {too_small(photo.shape[:2], image_size)}"
            for name, photo in self.images.items()
            if not fits(photo.shape[:2], image_size)
        }
        bad = {**{name: f"image {name}: {damaged[name]}" for name in self.names if name in damaged}, **small}
        if bad:
            check_unreadable([*self.unreadable, *bad.values()], len(self) + len(self.unreadable), self.max_unreadable)
        names = [name for name in self.names if name not in bad]
        factors = [shrink_factor(*self.images[name].shape[:2], image_size=image_size) for name in names]
        kinds = {"image": (IMAGE, self.images)}
        if self.companions is not None:
            kinds[self.kind] = (self._companion, self.companions)
        atlases = {}
        for key, (kind, arrays) in kinds.items():
            shrunk = [_shrink(kind, arrays[name], f, image_size) for name, f in zip(names, factors, strict=True)]
            atlases[key] = _atlas([[_shrink(kind, array, factor) for factor in PYRAMID] for array in shrunk])
        places = atlases["image"][1]
        sizes = places[:, 0, 1:].astype(np.float64)  # [N, 2], of the images as they are shrunk
        weights, (tall, wide) = np.sqrt(sizes.prod(axis=1)), sides(image_size)
        with tf.device("CPU:0"):  # tf.data reads them there
            places = tf.constant(places)
            levels_of = {key: (kinds[key][0], tf.constant(atlas)) for key, (atlas, _) in atlases.items()}
            captions = None if texts is None else tf.constant([texts.texts[name] for name in names])
            cumulative = tf.constant(np.cumsum(weights / weights.sum())[:-1], tf.float32)  # [N - 1]
            max_log = tf.constant([max_log_zoom(size, image_size) for size in sizes.tolist()], tf.float32)
            levels = tf.constant(PYRAMID, tf.float32)

        def draw(index: Tensor, seed: Tensor) -> dict[str, Tensor]:
            u = tf.unstack(tf.random.stateless_uniform([5], seed))
            photo = tf.searchsorted(cumulative, u[0:1], side="right")[0]
            zoom = tf.exp(u[1] * max_log[photo])  # window / crop, in the image
            level = tf.reduce_sum(tf.cast(levels[1:] <= zoom, tf.int32))
            top, height, width = tf.unstack(places[photo, level])
            high = tf.cast(tf.round(tall * zoom / levels[level]), tf.int32)
            high = tf.clip_by_value(high, tall, tf.minimum(height, width * tall // wide))
            broad = tf.cast(tf.round(tf.cast(high, tf.float32) * (wide / tall)), tf.int32)
            broad = tf.clip_by_value(broad, wide, width)
            y, x = whole_between((0, height - high), u[2]), whole_between((0, width - broad), u[3])

            example, mirror, colors = {}, u[4] < 0.5 if augment else None, seed if recolor else None
            for key, (kind, atlas) in levels_of.items():
                window = tf.slice(atlas, [top + y, x, 0], [high, broad, atlas.shape[-1]])
                example[key] = resized(kind, window, image_size, mirror, colors)
            if captions is not None:
                example["prompt"] = captions[photo]
            return example

        return draw

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of image i."""
        height, width, _ = self.images[self.names[i]].shape
        return height, width

    def label(self, i: int) -> str:
        """The name of image i in messages."""
        return f"image {self.names[i]}"

    def chosen(self, numbers: Sequence[int]) -> Photos:
        """The source of some of the images."""
        other = copy.copy(self)
        other.names = tuple(self.names[i] for i in numbers)
        other.images = {name: self.images[name] for name in other.names}
        other.unreadable = ()  # they were counted when the images were read
        return other


def resized(kind: Companion, window: Tensor, size: Size, mirror: Tensor | None, seed: Tensor | None) -> Tensor:
    """A window of an image or a companion, as an example has it.

    Args:
        kind: its companion, or `IMAGE`.
        window: [H, W, channels].
        size: of the result, S or (height, width).
        mirror: bool [], whether it is mirrored; None: it is not.
        seed: int32 [2], of the example, for the change of colors; None: they stay.

    Returns:
        float32 [height, width, channels]; of colors in [-1, 1].
    """
    value = tf.cast(tf.image.resize(window, sides(size), kind.resampling), tf.float32)
    value = value if mirror is None else tf.where(mirror, kind.mirrored(value), value)
    if not kind.is_color:
        return value
    return in_range(value) if seed is None else recolored(in_range(value), fold_in(seed, 1))


def in_range(pixels: Tensor) -> Tensor:
    """0 .. 255 -> [-1, 1], both float32 of any shape; a resize may exceed the range by rounding."""
    return tf.clip_by_value(pixels / 127.5 - 1, -1.0, 1.0)


def recolored(image: Tensor, seed: Tensor) -> Tensor:
    """The same image in other colors: channels permuted, each with its own gamma, exp(U(-0.5, 0.5)).

    With few images, this keeps a model from memorizing their colors.

    Args:
        image: float32 [H, W, 3] in [-1, 1].
        seed: int32 [2].
    """
    order = tf.argsort(tf.random.stateless_uniform([3], seed))
    gamma = tf.exp(tf.random.stateless_uniform([3], fold_in(seed, 1), -0.5, 0.5))
    return 2 * ((tf.gather(image, order, axis=-1) + 1) / 2) ** gamma - 1


def _atlas(pyramids: list[list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """All levels of all images below one another, padded at the right: a crop is then one slice of one tensor.

    Returns:
        atlas [sum of heights, largest width, C], places int32 [images, levels, 3] of (top, height, width).
    """
    levels = [level for pyramid in pyramids for level in pyramid]
    heights = [level.shape[0] for level in levels]
    tops = np.cumsum([0, *heights[:-1]])
    first = levels[0]
    atlas = np.zeros((sum(heights), max(level.shape[1] for level in levels), first.shape[2]), first.dtype)
    for top, level in zip(tops, levels, strict=True):
        atlas[top : top + level.shape[0], : level.shape[1]] = level
    places = np.array([(top, *level.shape[:2]) for top, level in zip(tops, levels, strict=True)], np.int32)
    return atlas, places.reshape(len(pyramids), -1, 3)


def _shrink(kind: Companion, array: np.ndarray, factor: float, smallest: Size = 1) -> np.ndarray:
    """An image or a companion [H, W, C], made smaller by the factor, no side below `smallest`."""
    if factor == 1:
        return array
    leasts = zip(array.shape[:2], sides(smallest), strict=True)
    height, width = (shrunk_side(side, factor, least) for side, least in leasts)
    if kind.is_color:
        return images.to_uint8(images.resize(array / np.float32(255), height, width))
    return tf.image.resize(array, [height, width], kind.resampling).numpy()  # a map has no range to clip to
