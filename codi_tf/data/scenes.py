"""Rendered scenes as sources of examples, with exact captions, depth and edits."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from codi_tf.core.errors import UserError
from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.seeds import fold_in
from codi_tf.core.tensors import Tensor
from codi_tf.data.windows import Size, square
from codi_tf.scenes.captions import caption
from codi_tf.scenes.classes import class_names, class_of
from codi_tf.scenes.domains import DOMAINS, TRANSFERS, Transfer, draw_transfer, in_domain
from codi_tf.scenes.drawing import draw_scene, with_held_out, without_held_out
from codi_tf.scenes.edits import draw_edit
from codi_tf.scenes.rendering import render

NAME, UNSEEN = "scenes", "scenes:unseen"
PAIRS = {f"{NAME}:{name}": transfer for name, transfer in TRANSFERS.items()}  # sources of edits alone
NAMES = (NAME, UNSEEN, *PAIRS)
SINGLE = {f"{NAME}:{name}": name for name in DOMAINS}  # sources of scenes of one domain
ENDLESS = 2**31 - 1  # what the length of a source says that never ends
LABELS = ("count", "shape", "color", "size", "material", "floor", "light")
SYNONYMS = 1  # stream of an example's seed


class _Endless:
    """What the two sources share: no end, and one draw that takes the size of the images."""

    names: tuple[str, ...] = ()
    missing_prompts = 0
    plain_prompts = True  # see `tokens_in_graph`
    split: str | None

    def __len__(self) -> int:
        return ENDLESS

    def drawer(
        self, *, image_size: Size, augment: bool, recolor: bool, prompts: bool = True
    ) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """(index int64 [], seed int32 [2]) -> an example, see `pipeline.Source`. Raises UserError for `recolor`."""
        if recolor:
            raise UserError("data.recolor is true: scenes have captions that name their colors; leave it out")
        side = square(image_size, "rendered scenes")
        return lambda index, seed: self.draw(fold_in(seed, _salt(self.split)), side)

    def draw(self, seed: Tensor, size: int) -> dict[str, Tensor]:
        """The example of a seed, int32 [2], with images of `size` pixels a side."""
        raise NotImplementedError


class Scenes(_Endless):
    """Scenes with captions and depth; a `pipeline.Source`. Images are not mirrored: captions name left before right.

    "prompt" is a caption, in training with synonyms; "caption" is one without.

    Examples also say what is true of the scene: LABELS are fields of `world.Scene`, "class", int32 [], is that of
    `classes.class_of`, and "objects", int32 [S, S], is the index of the object that each pixel shows, MOST_OBJECTS or
    more for none.

    Args:
        split: "train" has none of the combinations in `drawing.HELD_OUT`; "heldout" and None have all combinations,
            in other scenes.
        unseen: only scenes with one of these combinations.
        domain: only scenes of this domain, of `domains.DOMAINS`.
    """

    provides = ("depth", "prompt", "caption", "objects", "class", *LABELS)
    num_classes = len(class_names())

    def __init__(self, split: str | None, *, unseen: bool = False, domain: str | None = None):
        self.split, self.unseen, self.domain = split, unseen, domain

    def draw(self, seed: Tensor, size: int) -> dict[str, Tensor]:
        scene = draw_scene(seed)
        if self.domain is not None:
            scene = in_domain(scene, self.domain)
        if self.unseen:
            scene = with_held_out(scene, tf.random.stateless_uniform([], fold_in(seed, 2)))
        elif self.split == "train":
            scene = without_held_out(scene)
        shown = render(scene, size)
        plain = caption(scene)
        text = caption(scene, fold_in(seed, SYNONYMS)) if self.split == "train" else plain
        labels = {"class": class_of(scene)} | {name: getattr(scene, name) for name in LABELS}
        seen = {"image": shown.image, "depth": shown.depth, "objects": shown.objects}
        return {**seen, "prompt": text, "caption": plain, **labels}


class SceneEdits(_Endless):
    """Edits of scenes: "source" before, "image" after, "prompt" the instruction; a `pipeline.Source`.

    "depth" and "caption" are those of the scene after the edit, "source_caption" is that of the scene before.

    Args:
        split: "train", "heldout" or None; each has scenes of its own.
        transfer: all edits are this transfer from one domain to another. None: they are of all kinds.
    """

    provides = ("source", "prompt", "depth", "caption", "source_caption")

    def __init__(self, split: str | None, transfer: Transfer | None = None):
        self.split, self.transfer = split, transfer

    def draw(self, seed: Tensor, size: int) -> dict[str, Tensor]:
        edit = draw_edit(seed) if self.transfer is None else draw_transfer(seed, self.transfer)
        before, after = render(edit.before, size), render(edit.after, size)
        shown = {"image": after.image, "source": before.image, "depth": after.depth}
        captions = {"caption": caption(edit.after), "source_caption": caption(edit.before)}
        return {**shown, **captions, "prompt": edit.instruction}


def _salt(split: str | None) -> int:
    """A number that makes the scenes of the splits different ones."""
    return zlib.crc32((split or "all").encode()) & 0x7FFFFFFF
