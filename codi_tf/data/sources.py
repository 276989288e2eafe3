"""Loading a source by its name: `data.source` in a config, or `--data`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codi_tf.data import scenes
from codi_tf.data.depth_maps import load_stereo, open_depth
from codi_tf.data.edits import Edits
from codi_tf.data.in_memory import Photos
from codi_tf.data.open_source import open_source
from codi_tf.data.photos import PHOTOS, load_photos
from codi_tf.data.pipeline import Source
from codi_tf.data.triplets import open_triplets

if TYPE_CHECKING:
    from codi_tf.tasks import Task

EMBEDDED = "photos"


def load_source(
    name: str,
    split: str | None,
    task: Task | None = None,
    *,
    seed: int = 0,
    max_unreadable: float = 0.01,
    heldout_fraction: float = 0.1,
) -> Source:
    """Load a split of a source.

    Args:
        name: "photos" for the embedded data: photos, a stereo pair with its disparity, or synthetic edits of photos,
            by the task; "scenes" for rendered scenes, "scenes:unseen" for those whose combinations are held out, see
            `scenes.Scenes`; or a folder, shards or a TFDS name, see `open_source.open_source`, `depth_maps.open_depth`
            and `triplets.open_triplets`.
        split: "train", "heldout" or None for all.
        task: its `condition_key` names the companions that the images must have.
        seed: of the order in which records are read from disk.
        max_unreadable: the largest share of unreadable records, see `stream.Stream`.
        heldout_fraction: the share of "heldout" if the source has no such split itself, in [0, 1].

    Raises:
        UserError: no such source, an empty one, or unreadable files.
    """
    if name in (scenes.NAME, scenes.UNSEEN):
        if task is not None and task.condition_key == "source":
            return scenes.SceneEdits(split)
        return scenes.Scenes(split, unseen=name == scenes.UNSEEN)
    options = {"seed": seed, "max_unreadable": max_unreadable, "heldout_fraction": heldout_fraction}
    if task is not None and task.condition_key == "depth":
        return load_stereo(split) if name == EMBEDDED else open_depth(name, split, kind=task.condition_file, **options)
    if task is not None and task.condition_key == "source":
        return (
            Edits(Photos(_embedded(split)), wordings=split or "train")
            if name == EMBEDDED
            else open_triplets(name, split, **options)
        )
    return Photos(_embedded(split)) if name == EMBEDDED else open_source(name, split, **options)


def _embedded(split: str | None) -> dict:
    return {name: photo for one in ([split] if split else PHOTOS) for name, photo in load_photos(one).items()}
