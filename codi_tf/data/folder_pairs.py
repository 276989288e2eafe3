"""Pairs of folders to evaluate on, LOW:HIGH: what is given to models and what is wanted of them, matched by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.data.prompts import prompts_of
from codi_tf.data.records import index_files
from codi_tf.io.conditions import condition_files, marked_masks
from codi_tf.io.depth_files import photo_files
from codi_tf.io.images import read_image, resize

if TYPE_CHECKING:
    from codi_tf.tasks import Task

NAMED = 3  # names in a message


def read_folder_pair(low: str, high: str, task: Task, count: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the first pairs of two folders: their examples, and their names.

    Pairs are files of one name in both folders, whatever their extensions: LOW/NAME.jpg, as a user would give it to a
    model of the task, and HIGH/NAME.png, the original. For super-resolution LOW has the small images, or enlarged ones;
    for tasks with a mask also LOW/NAME.mask.png; for depth the maps; for tasks that resize, images of any size. A
    caption or an instruction is HIGH/NAME.txt.
    All are held in memory.

    Args:
        low, high: the folders.
        task: makes the conditions.
        count: the number of pairs.

    Returns:
        {"image": float32 [count, H, W, 3] in [-1, 1], "condition": float32 [count, H, W, task.condition_channels], and
        if each has one "prompt": str [count], of dtype object}, and each pair's NAME, with its subfolder, sorted.

    Raises:
        UserError: files without a partner, or of another size; fewer pairs; a file that cannot be read.
    """
    originals, given = photo_files(high), condition_files(low, task.condition_file)
    check_partners(low, given, high, originals)
    if count > len(originals):
        raise UserError(f"{low}:{high} are {len(originals)} pairs, not {count}; ask for fewer")
    names = list(originals)[:count]
    images = [read_image(originals[name]) for name in names]
    for name, image in zip(names, images, strict=True):
        if image.shape != images[0].shape:
            first = f"{_size(images[0])}, as {originals[names[0]]}"
            raise UserError(f"{originals[name]}: {_size(image)}, not {first}; cut all originals to one size")
    masks = marked_masks(low) if task.has_mask else {}
    conditions = [
        _condition(given[name], masks.get(name), task, image) for name, image in zip(names, images, strict=True)
    ]
    condition = np.asarray(task.condition_from_image(2 * np.stack(conditions) - 1))
    examples = {"image": 2 * np.stack(images) - 1, "condition": condition}
    prompts = _prompts([originals[name] for name in names])
    return examples | ({} if prompts is None else {"prompt": prompts}), names


def check_partners(low: str, given: Mapping[str, Path], high: str, originals: Mapping[str, Path]) -> None:
    """Raise UserError where a file of two folders, by their NAMEs, has no partner in the other."""
    for folder, there, others in ((low, given, originals), (high, originals, given)):
        if missing := [name for name in others if name not in there]:
            raise UserError(f"{folder} has none of the name of {others[missing[0]]}{_and_more(missing)}; pair them all")


def _condition(path: Path, mask: Path | None, task: Task, original: np.ndarray) -> np.ndarray:
    """A condition as the task reads it, of its original's size: float32 [H, W, 3 or 4] in [0, 1]."""
    condition = task.read_condition(path, mask)
    wanted, sizes = original.shape[:2], [original.shape[:2]]
    if task.has_low_resolution:
        scale = getattr(task, "scale")  # noqa: B009  (of `Enlarging`)
        if tuple(scale * side for side in condition.shape[:2]) == wanted:
            return resize(condition, *wanted)
        sizes = [(wanted[0] // scale, wanted[1] // scale), wanted]
    if task.resizes:
        return condition if condition.shape[:2] == wanted else resize(condition, *wanted)
    if condition.shape[:2] != wanted:
        texts = " or ".join(f"{width}x{height}" for height, width in sizes)
        raise UserError(f"{path}: {_size(condition)}, but its original is {_size(original)}; it must be {texts}")
    return condition


def _prompts(paths: Sequence[Path]) -> np.ndarray | None:
    """The texts beside images, str [N] of dtype object; None if one has none."""
    records = index_files([os.fspath(path) for path in paths])
    read = prompts_of(records, {records.name(i): i for i in range(len(records))})
    prompts = None if read is None else read()
    if prompts is None:
        return None
    for name, reason in prompts.damaged.items():
        raise UserError(f"{name}: {reason}; write its text again")
    texts = [prompts.texts[os.fspath(path)] for path in paths]
    return np.array(texts, object) if all(texts) else None


def _and_more(names: Sequence[str]) -> str:
    more = len(names) - 1
    return f" and of {more} more" if more else ""


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
