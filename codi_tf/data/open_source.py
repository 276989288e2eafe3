"""Opening a source of examples by name: a folder, shards, a pattern of paths, a TFDS name."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable

from codi_tf.core.errors import UserError
from codi_tf.core.paths import is_folder, is_remote, is_there, matching
from codi_tf.core.showing import printable
from codi_tf.data.examples import with_features
from codi_tf.data.in_memory import Photos
from codi_tf.data.left_out import FILES, LeftOut, warn_of_left_out
from codi_tf.data.pipeline import Source
from codi_tf.data.prompts import prompts_of
from codi_tf.data.records import Records, index_files, index_tfrecord, index_webdataset
from codi_tf.data.splits import check_any, check_split
from codi_tf.data.stream import Stream
from codi_tf.data.tfds import PREFIX, open_tfds
from codi_tf.data.unreadable import read_all, warn_of_damage
from codi_tf.io import images
from codi_tf.io.bundle_files import is_pairs
from codi_tf.io.image_files import EXTENSIONS, open_image
from codi_tf.io.listing import files_below, is_hidden
from codi_tf.io.naming import field_of, is_image
from codi_tf.io.places import folder_pair

IN_MEMORY = 2e9  # bytes of decoded images; a larger folder is read from disk, example by example
MAX_NUMBERS = 1_000_000  # in {000..127}
_SHARDS = {
    "TFRecord": re.compile(r".*(\.tfrecords?(-\d+-of-\d+)?|-\d{5}-of-\d{5})", re.IGNORECASE | re.DOTALL),
    "tar": re.compile(r".*\.tar", re.IGNORECASE | re.DOTALL),
}
_COMPRESSED = re.compile(r".*(\.tar|\.tfrecords?)\.\w+|.*\.tgz", re.IGNORECASE | re.DOTALL)
_OPTIONS = re.compile(r"(?P<name>.*?)\?(?P<options>\w+=[^&=]*(?:&\w+=[^&=]*)*)")
_SIGNS = re.compile(r"[*?\[{]")
_BRACES = re.compile(r"\{(?:(?P<first>\d+)\.\.(?P<last>\d+)|(?P<words>[^{}]*,[^{}]*))\}")


def open_source(
    text: str,
    split: str | None = None,
    *,
    condition_key: str = "image",
    heldout_fraction: float = 0.1,
    seed: int = 0,
    max_unreadable: float = 0.01,
    in_memory: bool = True,
) -> Source:
    """Open the images of a data set as a source of examples.

    Args:
        text: one of

            FOLDER, of images or of shards, in it or in its subfolders;
            a path or pattern of images, of TFRecord files (.tfrecord, -00000-of-00010) of tf.train.Example, or of
            WebDataset's .tar files, for example "/data/train-{000..127}.tar" or "/data/*/*.jpg";
            tfds:NAME[/CONFIG][:SPLIT], see `tfds.open_tfds`.

            After TFRecord files and TFDS names, ?image=FEATURE&text=FEATURE names the features. Companions of images
            (captions, depth maps) in folders and tar files: see `records.index_webdataset`.
        split: "train", "heldout" or None for all; a hash of the names decides, see `records.Records.of_split`.
        condition_key: what the task makes conditions of, the "image" or a companion.
        heldout_fraction: the share of "heldout", in [0, 1].
        seed: of the order in which records are read from disk.
        max_unreadable: the largest share of unreadable records, see `stream.Stream`, and of damaged shards.
        in_memory: whether few images are decoded at once.

    Returns:
        `Photos` for a folder or pattern of images that takes less than 2 GB decoded and `in_memory`, else a `Stream`.

    Raises:
        UserError: no such data set, no image in the split, or unreadable files.
    """
    if split is not None:
        check_split(split)
    name, options = with_options(text)
    streamed = {"condition_key": condition_key, "seed": seed, "max_unreadable": max_unreadable}
    if name.startswith(PREFIX):
        examples = open_tfds(name, split, options, heldout_fraction=heldout_fraction)
        check_any(len(examples), f"the images of {text}", split, heldout_fraction)
        warn_of_damage(examples.records.damaged, len(examples.records.paths), max_unreadable)
        return Stream(examples, **streamed)
    pair = (name, os.path.join(name, "gt")) if is_pairs(name) else folder_pair(name)
    if pair is not None:
        what = "pairs to evaluate on" if is_pairs(name) else "pairs, for task pairs and to evaluate on"
        raise UserError(f"{name} holds {what}; to take its images alone, name {pair[1]}")
    kind, paths, others = _kind_of(name)
    if options and kind != "TFRecord":
        raise UserError(f"{text}: options after ? are for TFRecord files; leave them out")
    index = {"image": index_files, "TFRecord": index_tfrecord, "tar": index_webdataset}[kind]
    records = index(paths)
    chosen = records if split is None else records.of_split(split, heldout_fraction)
    check_any(len(chosen), f"the {len(records)} images of {text}", split, heldout_fraction)
    warn_of_damage(records.damaged, len(records.paths), max_unreadable)
    warn_of_left_out(f"{name}: {FILES}", records.left_out.joined(LeftOut.of(map(os.path.basename, others))))
    alone = kind == "image" and condition_key == "image"
    if in_memory and alone and fit_in_memory(map(chosen.name, range(len(chosen))), depth=3):
        return _photos(chosen, max_unreadable)
    return Stream(with_features(chosen, options) if kind == "TFRecord" else chosen, **streamed)


def with_options(text: str) -> tuple[str, dict[str, str]]:
    """The name of a source, and what stands after it: "NAME?image=FEATURE" is NAME and {"image": "FEATURE"}."""
    found = None if is_there(text) else _OPTIONS.fullmatch(text)  # a folder's name may look like options
    if found is None:
        return text, {}
    return found["name"], dict(pair.split("=", 1) for pair in found["options"].split("&"))


def expanded(pattern: str) -> list[str]:
    """The paths that match a pattern, sorted: {000..127} and {a,b} are expanded; *, ? and [..] match existing files.

    A path without these signs is returned as it is.

    Raises:
        UserError: a range of more than MAX_NUMBERS paths.
    """
    braces = _BRACES.search(pattern)
    if braces is None:
        if not glob.has_magic(pattern):
            return [pattern]
        return matching(pattern) if is_remote(pattern) else sorted(glob.glob(pattern, recursive=True))
    if braces["words"] is None:
        width, numbers = len(braces["first"]), range(int(braces["first"]), int(braces["last"]) + 1)
        if len(numbers) > MAX_NUMBERS:
            raise UserError(f"{pattern}: {braces[0]} are more than {MAX_NUMBERS:,} paths; use * for them")
        words = [f"{number:0{width}}" for number in numbers]
    else:
        words = braces["words"].split(",")
    return [path for word in words for path in expanded(pattern[: braces.start()] + word + pattern[braces.end() :])]


def _kind_of(name: str) -> tuple[str, list[str], list[str]]:
    """("image", "TFRecord" or "tar"; the paths; what cannot be read or is of no such kind)."""
    if is_folder(name):
        paths, others = files_below(name)
    else:
        paths, others = _matching(name)
    if paths == [name]:
        return _kind_of_file(name), paths, others
    found = {kind: [path for path in paths if pattern.fullmatch(path)] for kind, pattern in _SHARDS.items()}
    kinds = [kind for kind, shards in found.items() if shards]
    image = next((path for path in paths if is_image(path)), None)
    if not kinds and image is not None:
        return "image", paths, others
    if image is not None:
        shard = found[kinds[0]][0]
        raise UserError(
            f"{name} holds images and shards ({os.path.basename(shard)}); name the ones to use, by a pattern"
        )
    if len(kinds) > 1:
        raise UserError(f"{name} holds shards of several kinds ({', '.join(kinds)}); name one kind, by a pattern")
    if not kinds:
        compressed = next((path for path in paths if _COMPRESSED.fullmatch(path)), None)
        if compressed is None and is_folder(name):
            held = LeftOut.of(paths).kinds
            raise UserError(
                f"no image in folder {name}{f' (it holds {held})' if held else ''}; expected files ending in "
                f"{', '.join(EXTENSIONS)}"
            )
        raise _no_kind(compressed or next(iter(paths or others)))
    shards = found[kinds[0]]
    return kinds[0], shards, [*sorted(set(paths) - set(shards)), *others]


def _matching(pattern: str) -> tuple[list[str], list[str]]:
    """The files that match a pattern, and those in folders that match it; and what cannot be read there."""
    files: list[str] = []
    others: list[str] = []
    matched = expanded(pattern)
    if not matched or matched == [pattern] and not is_there(pattern):
        raise UserError(f"nothing is at {pattern}; name a folder of images, a pattern of paths, or tfds:NAME")
    fixed = os.path.dirname(_SIGNS.split(pattern, maxsplit=1)[0])  # the folders that the pattern names
    for path in matched:
        below, asked = path[len(fixed) :], pattern[len(fixed) :]
        if is_hidden(below) and not is_hidden(asked):
            continue
        if is_folder(path):
            inside, unread = files_below(path)
            files += inside
            others += unread
        elif is_remote(path) or os.path.isfile(path) or not os.path.lexists(path):  # of a missing one its reader tells
            files.append(path)
        else:
            others.append(f"{path} (not a file)")
    if not files and not others:
        raise UserError(f"nothing but hidden files is at {pattern}; name a folder of images or a pattern of paths")
    return list(dict.fromkeys(files)), list(dict.fromkeys(others))


def _kind_of_file(path: str) -> str:
    for kind, pattern in _SHARDS.items():
        if pattern.fullmatch(path):
            return kind
    if not is_image(path):
        raise _no_kind(path)
    return "image"


def _no_kind(path: str) -> UserError:
    if _COMPRESSED.fullmatch(path):
        return UserError(f"{path} is compressed, so its records cannot be read in random order; unpack it first")
    if field_of(path)[1] not in (None, "image"):
        return UserError(f"{path} is a companion of an image: name that image")
    return UserError(f"{path} is neither an image ({', '.join(EXTENSIONS)}) nor a .tfrecord or .tar file")


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
    """All images, decoded; their texts are read when they are needed."""
    paths = [records.name(i) for i in range(len(records))]
    short = [printable(os.path.basename(path)) for path in paths]
    names = short if len(set(short)) == len(short) else list(map(printable, paths))
    found, bad = read_all(paths, lambda i: images.to_uint8(images.read_image(paths[i])), max_unreadable)
    photos = {names[i]: photo for i, photo in found.items()}
    prompts = prompts_of(records, {names[i]: i for i in found})
    return Photos(photos, prompts=prompts, max_unreadable=max_unreadable, unreadable=bad)
