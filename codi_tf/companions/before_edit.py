"""The source of a pair, as the image before an edit: NAME.source.jpg beside the target NAME.jpg."""

from __future__ import annotations

from typing import Any

from codi_tf.io.companions import COMPANIONS, Companion


@COMPANIONS.register("source")
class BeforeEdit(Companion):
    """The image before an edit, whose prompt is the instruction, or the source of a pair: float32 [S, S, 3]."""

    features = ("original_image", "input_image", "source_image", "source_img", "source")

    def has_whole_windows(self, task: Any) -> bool:
        """An instruction applies to all of an image, and so does what a task does that is not local."""
        return task.prompted or not task.is_local

    def open(self, name: str, split: str | None, task: Any, **options: Any) -> Any:
        """Synthetic edits of the embedded photos, edits of scenes, or triplets; for a task without prompts, pairs.

        Raises:
            UserError: see `Companion.open`.
        """
        from codi_tf.data.edits import Edits
        from codi_tf.data.image_pairs import open_pairs
        from codi_tf.data.in_memory import Photos
        from codi_tf.data.photos import EMBEDDED, embedded_photos
        from codi_tf.data.scenes import NAMES, PAIRS, SceneEdits
        from codi_tf.data.triplets import open_triplets

        if name in NAMES:
            return SceneEdits(split, PAIRS.get(name))
        if not task.prompted:
            return open_pairs(name, split, whole=not task.is_local, resizes=task.resizes, **options)
        if name == EMBEDDED:
            return Edits(Photos(embedded_photos(split)), wordings=split or "train")
        return open_triplets(name, split, **options)
