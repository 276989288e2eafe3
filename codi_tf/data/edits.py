"""Synthetic edits: instructions and formulas for their results, which need no edited images on disk.

A formula takes an image x, float32 [S, S, 3] in [-1, 1], and gives another one of that kind; v is (x + 1) / 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.core.seeds import fold_in
from codi_tf.core.tensors import Tensor
from codi_tf.data.pipeline import Source
from codi_tf.data.windows import Size
from codi_tf.io.color import LUMA
from codi_tf.tasks.draws import whole_between
from codi_tf.tasks.super_resolution import gaussian_blur

STREAM = 2  # of an example's seed, apart from the draws of the window


@dataclass(frozen=True)
class Edit:
    """One kind of edit.

    Attributes:
        apply: the image before, float32 [S, S, 3] in [-1, 1] -> the image after, of the same shape and range.
        wordings: instructions for training.
        heldout: other instructions for the same edit, for evaluation.
    """

    apply: Callable[[Tensor], Tensor]
    wordings: tuple[str, ...]
    heldout: tuple[str, ...]


class Edits:
    """Examples whose image is an edit of their source by their prompt; a `pipeline.Source`.

    The source is a window that `photos` draws. The same seed draws the edit and one of its wordings, each with equal
    probability.

    Args:
        photos: the source of the windows.
        edits: names of `EDITS`.
        wordings: "train" or "heldout".

    Raises:
        UserError: unknown wordings, an unknown edit, or no edit.
    """

    provides = ("source", "prompt")

    def __init__(self, photos: Source, edits: tuple[str, ...] | None = None, *, wordings: str = "train"):
        names = tuple(EDITS) if edits is None else tuple(edits)
        if not names:
            raise UserError(f"edits is empty: name some of {', '.join(EDITS)}")
        for name in names:
            if name not in EDITS:
                raise UserError(f"edits: unknown edit {name!r}; valid edits: {', '.join(EDITS)}")
        if wordings not in ("train", "heldout"):
            raise UserError(f"edits: wordings must be train or heldout, not {wordings!r}")
        self.photos, self.edits, self.names = photos, [EDITS[name] for name in names], photos.names
        self.prompts = [edit.heldout if wordings == "heldout" else edit.wordings for edit in self.edits]

    def __len__(self) -> int:
        return len(self.photos)

    missing_prompts = 0
    plain_prompts = True  # see `tokens_in_graph`

    def drawer(
        self, *, image_size: Size, augment: bool, recolor: bool, prompts: bool = True
    ) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """(index int64 [], seed int32 [2]) -> an example, a function of these and the photos; see `pipeline.Source`."""
        draw_photo = self.photos.drawer(image_size=image_size, augment=augment, recolor=recolor)
        counts = [len(texts) for texts in self.prompts]
        with tf.device("CPU:0"):  # tf.data reads them there
            texts = tf.constant([text for texts in self.prompts for text in texts])
            counts, firsts = tf.constant(counts), tf.constant(np.cumsum([0, *counts[:-1]]), tf.int32)

        def draw(index: Tensor, seed: Tensor) -> dict[str, Tensor]:
            source = draw_photo(index, seed)["image"]
            u = tf.unstack(tf.random.stateless_uniform([2], fold_in(seed, STREAM)))
            edit = whole_between((0, len(self.edits) - 1), u[0])
            edited = tf.switch_case(edit, [_applied(one.apply, source) for one in self.edits])
            prompt = texts[firsts[edit] + whole_between((0, counts[edit] - 1), u[1])]
            return {"image": tf.ensure_shape(edited, source.shape), "source": source, "prompt": prompt}

        return draw


def _applied(apply: Callable[[Tensor], Tensor], source: Tensor) -> Callable[[], Tensor]:
    def branch() -> Tensor:
        return apply(source)

    return branch


def luma(x: Tensor) -> Tensor:
    """0.299 R + 0.587 G + 0.114 B, float32 [..., 1] in [-1, 1]."""
    return tf.reduce_sum(x * LUMA, axis=-1, keepdims=True)


def black_and_white(x: Tensor) -> Tensor:
    """luma(x) in all channels."""
    return tf.repeat(luma(x), 3, axis=-1)


def sepia(x: Tensor) -> Tensor:
    """v^0.8, v, v^1.4 for the v of luma: brown tones from black to white."""
    return _gamma(black_and_white(x), (0.8, 1.0, 1.4))


def night(x: Tensor) -> Tensor:
    """v -> (0.2, 0.25, 0.45) v: dark and blue."""
    return (x + 1) * (0.2, 0.25, 0.45) - 1


def warmer(x: Tensor) -> Tensor:
    """v -> v^0.7, v, v^1.4: more red, less blue."""
    return _gamma(x, (0.7, 1.0, 1.4))


def colder(x: Tensor) -> Tensor:
    """v -> v^1.4, v, v^0.7: less red, more blue."""
    return _gamma(x, (1.4, 1.0, 0.7))


def inverted(x: Tensor) -> Tensor:
    """-x."""
    return -x


def blurred(x: Tensor) -> Tensor:
    """A Gaussian blur, its standard deviation 1/24 of the side."""
    sigma = x.shape[1] / 24
    return tf.clip_by_value(gaussian_blur(x, tf.constant(sigma, tf.float32), radius=round(3 * sigma)), -1.0, 1.0)


def mirrored(x: Tensor) -> Tensor:
    """Left and right exchanged."""
    return x[:, ::-1]


def upside_down(x: Tensor) -> Tensor:
    """Half a turn."""
    return x[::-1, ::-1]


def brighter(x: Tensor) -> Tensor:
    """v -> v^0.5."""
    return _gamma(x, (0.5, 0.5, 0.5))


def darker(x: Tensor) -> Tensor:
    """v -> v^2."""
    return _gamma(x, (2.0, 2.0, 2.0))


def more_contrast(x: Tensor) -> Tensor:
    """2 x, clipped."""
    return tf.clip_by_value(2 * x, -1.0, 1.0)


def less_contrast(x: Tensor) -> Tensor:
    """0.4 x."""
    return 0.4 * x


def more_color(x: Tensor) -> Tensor:
    """luma + 2 (x - luma), clipped: saturation doubled."""
    return tf.clip_by_value(luma(x) + 2 * (x - luma(x)), -1.0, 1.0)


def pixelated(x: Tensor) -> Tensor:
    """12 x 12 squares, each of its mean color."""
    size = x.shape[:2]
    squares = tf.image.resize(x, [min(12, side) for side in size], "area")
    return tf.clip_by_value(tf.image.resize(squares, size, "nearest"), -1.0, 1.0)


def posterized(x: Tensor) -> Tensor:
    """Rounded to 3 values a channel: black, half, white."""
    return tf.round(x)


def pencil(x: Tensor) -> Tensor:
    """1 - |gradient of luma| / 2 by Sobel's filter, at least -1: dark lines on white paper."""
    edges = tf.image.sobel_edges(luma(x)[tf.newaxis])[0]  # [S, S, 1, 2], at a step from black to white it is 8
    return tf.repeat(tf.maximum(1 - 0.5 * tf.norm(edges, axis=-1), -1.0), 3, axis=-1)


def _gamma(x: Tensor, exponents: tuple[float, float, float]) -> Tensor:
    return tf.clip_by_value(2 * ((x + 1) / 2) ** exponents - 1, -1.0, 1.0)


EDITS = {
    "black_and_white": Edit(
        black_and_white,
        ("make it black and white", "turn it into a black and white photo", "remove the colors", "make it gray"),
        ("turn it black and white", "make the photo gray"),
    ),
    "sepia": Edit(
        sepia,
        ("make it sepia", "turn it into an old photo", "add a sepia tone", "make it look like an antique photo"),
        ("turn it into a sepia photo", "make it look old"),
    ),
    "night": Edit(
        night,
        ("make it night", "turn day into night", "as if it were night", "make it look like night time"),
        ("turn it into night", "make the photo look like night"),
    ),
    "warmer": Edit(
        warmer,
        ("make it warmer", "give it warm colors", "turn the colors warmer", "make it look like sunset"),
        ("make the colors warmer", "add a warm tone"),
    ),
    "colder": Edit(
        colder,
        ("make it colder", "give it cold colors", "turn the colors colder", "make it look like winter"),
        ("make the colors colder", "add a cold tone"),
    ),
    "inverted": Edit(
        inverted,
        ("invert the colors", "make it a negative", "turn it into a negative", "invert it"),
        ("invert the photo", "turn the photo into a negative"),
    ),
    "blurred": Edit(
        blurred,
        ("blur it", "make it blurry", "make the photo blurry", "put it out of focus"),
        ("turn it blurry", "blur the photo"),
    ),
    "mirrored": Edit(
        mirrored,
        ("mirror it", "swap left and right", "flip it horizontally", "turn it into its mirror image"),
        ("mirror the photo", "flip left and right"),
    ),
    "upside_down": Edit(
        upside_down,
        ("turn it upside down", "rotate it by 180 degrees", "put it on its head", "make it upside down"),
        ("rotate it upside down", "turn the photo upside down"),
    ),
    "brighter": Edit(
        brighter,
        ("make it brighter", "brighten it", "add more light", "turn up the light"),
        ("make the photo brighter", "brighten the photo"),
    ),
    "darker": Edit(
        darker,
        ("make it darker", "darken it", "take away light", "turn down the light"),
        ("make the photo darker", "darken the photo"),
    ),
    "more_contrast": Edit(
        more_contrast,
        ("add contrast", "more contrast", "increase the contrast", "give it strong contrast"),
        ("make the contrast strong", "add more contrast"),
    ),
    "less_contrast": Edit(
        less_contrast,
        ("less contrast", "reduce the contrast", "make it pale", "give it weak contrast"),
        ("make the contrast weak", "make the photo pale"),
    ),
    "more_color": Edit(
        more_color,
        ("make it more colorful", "more vivid colors", "increase the saturation", "give it strong colors"),
        ("make the colors more vivid", "add strong colors"),
    ),
    "pixelated": Edit(
        pixelated,
        ("pixelate it", "turn it into large pixels", "make it pixel art", "make it a mosaic"),
        ("turn it into pixel art", "pixelate the photo"),
    ),
    "posterized": Edit(
        posterized,
        ("turn it into a poster", "posterize it", "use only a few colors", "make it pop art"),
        ("make it a poster", "turn it into pop art"),
    ),
    "pencil": Edit(
        pencil,
        ("make it a pencil drawing", "turn it into a sketch", "draw it with a pencil", "turn it into a line drawing"),
        ("make it a sketch", "turn the photo into a pencil drawing"),
    ),
}
