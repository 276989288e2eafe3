"""Opening a source of examples by name: a folder, shards, a pattern of paths, a TFDS name."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.data.examples import with_features
from codi_tf.data.in_memory import Photos
from codi_tf.data.pipeline import Source
from codi_tf.data.records import Records, image_files, index_files, index_tfrecord, index_webdataset
from codi_tf.data.splits import check_any, check_split
from codi_tf.data.stream import Stream, text_of
from codi_tf.data.tfds import PREFIX, open_tfds
from codi_tf.data.unreadable import read_all, warn_of_damage
from codi_tf.io import images
from codi_tf.io.image_files import EXTENSIONS, open_image

IN_MEMORY = 2e9  # bytes of decoded images; a larger folder is read from disk, example by example
_TFRECORD = re.compile(r".*(\.tfrecords?(-\d+-of-\d+)?|-\d{5}-of-\d{5})", re.IGNORECASE)
_TAR = re.compile(r".*\.tar", re.IGNORECASE)
_COMPRESSED = re.compile(r".*(\.tar|\.tfrecords?)\.\w+|.*\.tgz", re.IGNORECASE)
_OPTIONS = re.compile(r"(?P<name>.*?)\?(?P<options>\w+=[^&=]*(?:&\w+=[^&=]*)*)")
_BRACES = re.compile(r"\{(?:(?P<first>\d+)\.\.(?P<last>\d+)|(?P<words>[^{}]*,[^{}]*))\}")


def open_source(
    text: str,
    split: str | None = None,
    *,
    condition_key: str = "image",
    heldout_fraction: float = 0.1,
    seed: int = 0,
    max_unreadable: float = 0.01,
) -> Source:
    """Open the images of a data set as a source of examples.

    Args:
        text: one of

            FOLDER, of images, or of shards;
            a path or pattern of images, of TFRecord files (.tfrecord, -00000-of-00010) of tf.train.Example, or of
            WebDataset's .tar files, for example "/data/train-{000..127}.tar" or "/data/*/*.jpg";
            tfds:NAME[/CONFIG][:SPLIT], see `tfds.open_tfds`.

            After TFRecord files and TFDS names, ?image=FEATURE&text=FEATURE names the features. Companions of images
            (captions, depth maps) in folders and tar files: see `records.index_webdataset`.
        split: "train", "heldout" or None for all; a hash of the names decides, see `records.Records.of_split`.
        condition_key: "image", "depth" or "source", what the task makes conditions of.
        heldout_fraction: the share of "heldout", in [0, 1].
        seed: of the order in which records are read from disk.
        max_unreadable: the largest share of unreadable records, see `stream.Stream`, and of damaged shards.

    Returns:
        `Photos` for a folder or pattern of images that takes less than 2 GB decoded, else a `Stream`.

    Raises:
        UserError: no such data set, no image in the split, or unreadable files.
    """
    if split is not None:
        check_split(split)
    found = _OPTIONS.fullmatch(text)
    name = found["name"] if found else text
    options = dict(pair.split("=", 1) for pair in found["options"].split("&")) if found else {}
    streamed = {"condition_key": condition_key, "seed": seed, "max_unreadable": max_unreadable}
    if name.startswith(PREFIX):
        examples = open_tfds(name, split, options, heldout_fraction=heldout_fraction)
        check_any(len(examples), f"the images of {text}", split, heldout_fraction)
        warn_of_damage(examples.records.damaged, len(examples.records.paths), max_unreadable)
        return Stream(examples, **streamed)
    kind, paths = _kind_of(name)
    if options and kind != "TFRecord":
        raise UserError(f"{text}: options after ? are for TFRecord files; leave them out")
    index = {"image": index_files, "TFRecord": index_tfrecord, "tar": index_webdataset}[kind]
    records = index(paths)
    chosen = records if split is None else records.of_split(split, heldout_fraction)
    check_any(len(chosen), f"the {len(records)} images of {text}", split, heldout_fraction)
    warn_of_damage(records.damaged, len(records.paths), max_unreadable)
    if kind == "image" and condition_key == "image" and fit_in_memory(map(chosen.name, range(len(chosen))), depth=3):
        return _photos(chosen, max_unreadable)
    return Stream(with_features(chosen, options) if kind == "TFRecord" else chosen, **streamed)


def expanded(pattern: str) -> list[str]:
    """The paths that match a pattern, sorted: {000..127} and {a,b} are expanded; *, ? and [..] match existing files.

    A path without these signs is returned as it is.
    """
    braces = _BRACES.search(pattern)
    if braces is None:
        return sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]
    if braces["words"] is None:
        width, numbers = len(braces["first"]), range(int(braces["first"]), int(braces["last"]) + 1)
        words = [f"{number:0{width}}" for number in numbers]
    else:
        words = braces["words"].split(",")
    return [path for word in words for path in expanded(pattern[: braces.start()] + word + pattern[braces.end() :])]


def _kind_of(name: str) -> tuple[str, list[str]]:
    """("image", "TFRecord" or "tar", the paths)."""
    if os.path.isdir(name):
        inside = sorted(entry.path for entry in os.scandir(name) if entry.is_file())
        shards = [path for path in inside if _TFRECORD.fullmatch(path) or _TAR.fullmatch(path)]
        paths = shards or image_files(name)
        if shards and any(Path(path).suffix.lower() in EXTENSIONS for path in inside):
            raise UserError(f"{name} holds images and shards ({os.path.basename(shards[0])}); name the ones to use")
    else:
        paths = expanded(name)
        if not paths or paths == [name] and not os.path.exists(name):
            raise UserError(f"nothing is at {name}; name a folder of images, a pattern of paths, or tfds:NAME")
    kinds = {_kind_of_file(path) for path in paths}
    if len(kinds) > 1:
        raise UserError(f"{name} matches files of several kinds ({', '.join(sorted(kinds))}); name one kind")
    return kinds.pop(), paths


def _kind_of_file(path: str) -> str:
    if _COMPRESSED.fullmatch(path):
        raise UserError(f"{path} is compressed, so its records cannot be read in random order; unpack it first")
    for kind, pattern in (("TFRecord", _TFRECORD), ("tar", _TAR)):
        if pattern.fullmatch(path):
            return kind
    if Path(path).suffix.lower() in EXTENSIONS:
        return "image"
    raise UserError(f"{path} is neither an image ({', '.join(EXTENSIONS)}) nor a .tfrecord or .tar file")


def fit_in_memory(paths: Iterable[str | os.PathLike[str]], *, depth: int) -> bool:
    """Whether images of `depth` bytes per pixel take less than 2 GB together."""
    total = 0
    for path in paths:
        try:
            with open_image(path) as image:
                total += depth * image.width * image.height
        except Exception:  # reading the image will report it
            continue
        if total > IN_MEMORY:
            return False
    return True


def _photos(records: Records, max_unreadable: float) -> Photos:
    """All images, decoded."""
    paths = [records.name(i) for i in range(len(records))]
    short = [os.path.basename(path) for path in paths]
    names = short if len(set(short)) == len(short) else paths
    has_text = bool({"text", "json"} & set(records.fields))

    def read(i: int) -> tuple[np.ndarray, str]:
        return images.to_uint8(images.read_image(paths[i])), text_of(records.read(i)) if has_text else ""

    found = {names[i]: one for i, one in read_all(paths, read, max_unreadable).items()}
    prompts = {name: prompt for name, (_, prompt) in found.items()}
    return Photos({name: photo for name, (photo, _) in found.items()}, prompts=prompts if has_text else None)
