"""Loading a source by its name: `data.source` in a config, or `--data`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codi_tf.core.errors import UserError
from codi_tf.data import scenes
from codi_tf.data.in_memory import Photos
from codi_tf.data.mixed import Mixed
from codi_tf.data.open_source import open_source
from codi_tf.data.photos import EMBEDDED, embedded_photos
from codi_tf.data.pipeline import Source
from codi_tf.data.prepared import is_prepared, open_prepared
from codi_tf.io.companions import companion
from codi_tf.io.places import sources_of

if TYPE_CHECKING:
    from codi_tf.tasks import Task


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
            `scenes.Scenes`, "scenes:noon" and the like for those of one domain, see `scenes.SINGLE`,
            "scenes:noon-to-night" and the like for pairs, see `scenes.PAIRS`; or a folder, shards or a TFDS name, see
            `open_source.open_source`, `depth_maps.open_depth` and `triplets.open_triplets`, or a folder of
            `codi prepare`; or several of these that take turns, as "scenes + photos".
        split: "train", "heldout" or None for all.
        task: its `condition_key` names the companion that the images must have.
        seed: of the order in which records are read from disk.
        max_unreadable: the largest share of unreadable records, see `stream.Stream`.
        heldout_fraction: the share of "heldout" if the source has no such split itself, in [0, 1].

    Raises:
        UserError: no such source, an empty one, or unreadable files; the task names an unknown companion.
    """
    options = {"seed": seed, "max_unreadable": max_unreadable, "heldout_fraction": heldout_fraction}
    parts = sources_of(name)
    if len(parts) > 1:
        return Mixed([load_source(part, split, task, **options) for part in parts])
    key = "image" if task is None else task.condition_key
    if is_prepared(name):
        return open_prepared(name, split, key, whole=companion(key).has_whole_windows(task), **options)
    source = companion(key).open(name, split, task, **options)
    if source is not None:
        return source
    if name in scenes.PAIRS:
        raise UserError(f"{name}: pairs of scenes, for a task whose condition is the image before an edit")
    if name in scenes.NAMES:
        return scenes.Scenes(split, unseen=name == scenes.UNSEEN)
    if name in scenes.SINGLE:
        return scenes.Scenes(split, domain=scenes.SINGLE[name])
    if name == EMBEDDED:
        return Photos(embedded_photos(split))
    return open_source(name, split, condition_key=key, **options)
