"""Rendered scenes as sources of examples, with exact captions, depth and edits."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from codi_tf.core.errors import UserError
from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.seeds import fold_in
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.captions import caption
from codi_tf.scenes.drawing import draw_scene, with_held_out, without_held_out
from codi_tf.scenes.edits import draw_edit
from codi_tf.scenes.rendering import render

NAMES = NAME, UNSEEN = "scenes", "scenes:unseen"
ENDLESS = 2**31 - 1  # what the length of a source says that never ends
SYNONYMS = 1  # stream of an example's seed


class Scenes:
    """Scenes with captions and depth; a `pipeline.Source`. Images are not mirrored: captions name left before right.

    Args:
        split: "train" has none of the combinations in `drawing.HELD_OUT`; "heldout" and None have all combinations,
            in other scenes.
        unseen: only scenes with one of these combinations.
    """

    provides = ("depth", "prompt")
    names: tuple[str, ...] = ()
    missing_prompts = 0

    def __init__(self, split: str | None, *, unseen: bool = False):
        self.split, self.unseen = split, unseen

    def __len__(self) -> int:
        return ENDLESS

    def drawer(
        self, *, image_size: int, augment: bool, recolor: bool, prompts: bool = True
    ) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """(index int64 [], seed int32 [2]) -> an example, see `pipeline.Source`. Raises UserError for `recolor`."""
        _check(recolor)

        def draw(index: Tensor, seed: Tensor) -> dict[str, Tensor]:
            seed = fold_in(seed, _salt(self.split))
            scene = draw_scene(seed)
            if self.unseen:
                scene = with_held_out(scene, tf.random.stateless_uniform([], fold_in(seed, 2)))
            elif self.split == "train":
                scene = without_held_out(scene)
            shown = render(scene, image_size)
            text = caption(scene, fold_in(seed, SYNONYMS) if self.split == "train" else None)
            return {"image": shown.image, "depth": shown.depth, "prompt": text}

        return draw


class SceneEdits:
    """Edits of scenes: "source" before, "image" after, "prompt" the instruction; a `pipeline.Source`.

    Args:
        split: "train", "heldout" or None; each has scenes of its own.
    """

    provides = ("source", "prompt")
    names: tuple[str, ...] = ()
    missing_prompts = 0

    def __init__(self, split: str | None):
        self.split = split

    def __len__(self) -> int:
        return ENDLESS

    def drawer(
        self, *, image_size: int, augment: bool, recolor: bool, prompts: bool = True
    ) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """(index int64 [], seed int32 [2]) -> an example, see `pipeline.Source`. Raises UserError for `recolor`."""
        _check(recolor)

        def draw(index: Tensor, seed: Tensor) -> dict[str, Tensor]:
            edit = draw_edit(fold_in(seed, _salt(self.split)))
            before, after = render(edit.before, image_size), render(edit.after, image_size)
            return {"image": after.image, "source": before.image, "prompt": edit.instruction}

        return draw


def _check(recolor: bool) -> None:
    if recolor:
        raise UserError("data.recolor is true: scenes have captions that name their colors; leave it out")


def _salt(split: str | None) -> int:
    """A number that makes the scenes of the splits different ones."""
    return zlib.crc32((split or "all").encode()) & 0x7FFFFFFF
