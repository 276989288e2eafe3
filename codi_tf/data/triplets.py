"""Triplets of image, instruction and edited image: InstructPix2Pix's folders, parquet files, and plain folders."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_FILE
from codi_tf.core.paths import as_path, is_folder, is_regular, is_remote
from codi_tf.core.showing import shown
from codi_tf.data.examples import Examples
from codi_tf.data.left_out import FILES, LeftOut, warn_of_left_out
from codi_tf.data.open_source import expanded, open_source, with_options
from codi_tf.data.parquet import ParquetRows
from codi_tf.data.records import Records, Unreadable, index_files
from codi_tf.data.splits import check_any, check_split, is_heldout
from codi_tf.data.stream import Stream
from codi_tf.data.unreadable import too_small
from codi_tf.data.windows import Size, fits, window_of
from codi_tf.io.inside import check_name, named_file
from codi_tf.io.json_files import parse_json, read_json_list
from codi_tf.io.listing import files_below
from codi_tf.io.naming import field_of
from codi_tf.io.plain_files import read_plain

SEEDS, PROMPT = "seeds.json", "prompt.json"  # of InstructPix2Pix's data
CAPTIONS = {"caption": "output", "source_caption": "input"}  # field -> entry of prompt.json, where there is one
PARQUET = ".parquet"
MOST_BYTES = 1 << 28  # of seeds.json


def open_triplets(
    name: str | os.PathLike[str],
    split: str | None = None,
    *,
    heldout_fraction: float = 0.1,
    seed: int = 0,
    max_unreadable: float = 0.01,
) -> Stream:
    """Open a source of edits: "image" is the edited image, "source" the image before, "prompt" the instruction.

    Args:
        name: one of

            a folder with seeds.json, as InstructPix2Pix's data come: PROMPT/SEED_0.jpg before, PROMPT/SEED_1.jpg after,
            PROMPT/prompt.json with the instruction under "edit", and, if the first one has them, captions before and
            after the edit under "input" and "output";
            a .parquet file, a folder or a pattern of them, with columns as in `examples.known_features`: images as the
            bytes of their files, directly or as "bytes" of a struct; after its name, ?source=COLUMN&image=COLUMN
            &text=COLUMN names other columns;
            a folder of NAME.source.jpg, NAME.jpg and NAME.txt;
            any other source of `open_source.open_source`, with the same fields.
        split: "train", "heldout" or None for all, by a hash of the prompt's folder, of the instruction (parquet), or of
            the file name. So no prompt's folder, and no instruction of a parquet file, is in both.
        heldout_fraction: the share of "heldout", in [0, 1].
        seed: of the order.
        max_unreadable: the largest share of unreadable triplets, see `stream.Stream`.

    Raises:
        UserError: no such source, no triplet in the split, no instructions or no images before the edits, wrong types.
    """
    if split is not None:
        check_split(split)
    name = os.fspath(name)
    shared: dict[str, Any] = {"heldout_fraction": heldout_fraction, "max_unreadable": max_unreadable}
    if is_regular(os.path.join(name, SEEDS)):
        triplets = PromptFolders.listed(as_path(name), split, heldout_fraction)
    elif paths := parquet_files(with_options(name)[0]):
        named = with_options(name)[1]
        triplets = ParquetRows.indexed(
            paths, split, named=named, heldout_fraction=heldout_fraction, max_unreadable=max_unreadable
        )
    elif has_sources(name):
        triplets = source_files(name, split, heldout_fraction)
    else:
        source = open_source(name, split, condition_key="source", seed=seed, **shared)
        assert isinstance(source, Stream)  # images in memory have no companions
        for key, what in (("source", "images before the edits"), ("prompt", "instructions")):
            if key not in source.provides:
                remedy = (
                    "name the features that hold them: ?source=FEATURE&image=FEATURE&text=FEATURE"
                    if isinstance(source.records, Examples)
                    else "edits are NAME.source.jpg, NAME.jpg and NAME.txt, or name other data"
                )
                raise UserError(f"{name} has no {what}; {remedy}")
        triplets = source.records
    check_any(len(triplets), f"the triplets of {name}", split, heldout_fraction)
    return Triplets(triplets, condition_key="source", seed=seed, max_unreadable=max_unreadable)


class Triplets(Stream):
    """A `Stream` whose windows are as large as the image, because an instruction applies to all of it.

    Triplets of parquet files, which are read in row groups, are shuffled within blocks, see `ParquetRows.at`.
    """

    whole = True

    def record_at(self, place: int, epoch: int) -> int:
        """The triplet at a place of an epoch's order: a permutation of 0 .. N - 1."""
        if isinstance(self.records, ParquetRows):
            return self.records.at(place, seed=self.seed, epoch=epoch)
        return super().record_at(place, epoch)

    def window_size(self, u: float, size: tuple[int, int], image_size: Size) -> tuple[int, int]:
        """The largest window of an image (height, width). Raises Unreadable if it is smaller than image_size."""
        if not fits(size, image_size):
            raise Unreadable(too_small(size, image_size))
        return window_of(size[0], size, image_size)


class PromptFolders:
    """The layout of InstructPix2Pix's data; a `records.Readable`. Each pair of images is one triplet.

    Args:
        folder: with the prompts' folders.
        prompts: the names of these.
        pairs: (number of the prompt, seed) of each triplet.
    """

    def __init__(self, folder: Path, prompts: list[str], pairs: list[tuple[int, str]]):
        self.folder, self.prompts, self.pairs = folder, prompts, pairs
        self.fields = ("image", "source", "text", *self._captions())

    @classmethod
    def listed(cls, folder: Path, split: str | None, heldout_fraction: float) -> PromptFolders:
        """The entries of seeds.json, [["PROMPT", ["SEED", ...]], ...], in a split.

        Raises:
            UserError: a file of another form, or names that lead out of the folder.
        """
        path = folder / SEEDS
        listed = read_json_list(path, most_bytes=MOST_BYTES)
        if not listed:
            raise UserError(f'{path} must be a list of ["PROMPT", ["SEED", ...]]; make it again')
        prompts, pairs = [], []
        for entry in listed:
            if not (
                isinstance(entry, list)
                and len(entry) == 2
                and isinstance(entry[0], str)
                and isinstance(entry[1], list)
                and all(type(seed) in (str, int) for seed in entry[1])
            ):
                raise UserError(f'{path}: an entry is {shown(entry)}, not ["PROMPT", ["SEED", ...]]; make it again')
            check_name(entry[0], path)
            for seed in entry[1]:
                check_name(str(seed), path)
            if split is None or is_heldout(entry[0], heldout_fraction) == (split == "heldout"):
                pairs += ((len(prompts), str(seed)) for seed in entry[1])
                prompts.append(entry[0])
        return cls(folder, prompts, pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def without_text(self) -> int:
        """0: a triplet without an instruction is unreadable."""
        return 0

    def read(self, i: int, fields: Collection[str] | None = None) -> dict[str, bytes]:
        """The fields of triplet i; the texts are left out if `fields` does not name "text".

        Raises:
            Unreadable: a file is missing, or the instruction is not a str.
        """
        prompt, seed = self.pairs[i]
        names = (f"{self.prompts[prompt]}/{name}" for name in (PROMPT, f"{seed}_0.jpg", f"{seed}_1.jpg"))
        wanted = fields is None or "text" in fields
        try:
            about, *images = (named_file(self.folder, name, SEEDS) for name in names)
            before, after = (read_plain(path, MAX_FILE) for path in images)
            if not wanted:
                return {"image": after, "source": before}
            texts = parse_json(read_plain(about, MAX_FILE), PROMPT)
        except OSError as error:
            raise Unreadable(f"{Path(error.filename).name}: {error.strerror or error}") from None
        except UserError as error:
            raise Unreadable(str(error)) from None
        edit = texts.get("edit")
        if not isinstance(edit, str) or not edit.strip():
            raise Unreadable(f'{PROMPT}: "edit" is {shown(edit)}, not a text')
        captions = {field: texts[entry] for field, entry in CAPTIONS.items() if isinstance(texts.get(entry), str)}
        encoded = {field: text.encode("utf-8", "replace") for field, text in {"text": edit, **captions}.items()}
        return {"image": after, "source": before, **encoded}

    def _captions(self) -> tuple[str, ...]:
        """The captions that the first triplet has: both or none."""
        try:
            first = named_file(self.folder, f"{self.prompts[0]}/{PROMPT}", SEEDS)
            about = parse_json(read_plain(first, MAX_FILE), PROMPT)
        except (OSError, UserError, IndexError):  # reading the triplet will report it
            return ()
        return tuple(CAPTIONS) if all(isinstance(about.get(entry), str) for entry in CAPTIONS.values()) else ()

    def name(self, i: int) -> str:
        """Folder and seed of triplet i."""
        prompt, seed = self.pairs[i]
        return f"{self.folder / self.prompts[prompt]}: {seed}"

    def split_name(self, i: int) -> str:
        """The name that decides the split of triplet i, that of its prompt's folder."""
        return self.prompts[self.pairs[i][0]]


def parquet_files(name: str) -> list[str]:
    """The parquet files that match a name, sorted; [] if the name is none of parquet files."""
    if is_folder(name):
        paths, others = files_below(name)
        found = [path for path in paths if path.lower().endswith(PARQUET)]
        if found:
            _check_local(name)
            strangers = sorted({*paths, *others} - {*found})
            warn_of_left_out(f"{name}: files beside the parquet files", [os.path.basename(one) for one in strangers])
        return found
    if not name.lower().endswith(PARQUET):
        return []
    _check_local(name)
    paths = expanded(name)
    missing = next((path for path in paths if not os.path.isfile(path)), None)
    if missing is not None or not paths:
        raise UserError(f"no such parquet file: {missing or name}")
    return paths


def _check_local(name: str) -> None:
    if is_remote(name):
        raise UserError(f"{name}: parquet files are read from this machine alone; write them there with codi prepare")


def has_sources(name: str) -> bool:
    """Whether a name is that of a folder with NAME.source.jpg in it."""
    return is_folder(name) and any(field_of(path)[1] == "source" for path in files_below(name)[0])


def source_files(folder: str, split: str | None, heldout_fraction: float, *, prompted: bool = True) -> Records:
    """The triplets of a folder, or if not `prompted` its pairs, whose texts do not matter.

    Images without a source, or without an instruction, are left out and named in a warning.
    """
    paths, others = files_below(folder)
    records = index_files(paths)
    warn_of_left_out(f"{folder}: {FILES}", records.left_out.joined(LeftOut.of(map(os.path.basename, others))))
    complete = np.full(len(records), True)
    texts = [records.places[field].file >= 0 for field in ("text", "json") if field in records.places]
    instructed = np.any(texts, axis=0) if texts else ~complete
    for what, there in (
        ("a NAME.source image", records.places["source"].file >= 0 if "source" in records.places else ~complete),
        ("an instruction, NAME.txt,", instructed | (not prompted)),
    ):
        incomplete = [os.path.basename(records.name(i)) for i in np.flatnonzero(complete & ~there).tolist()]
        warn_of_left_out(f"{folder}: images without {what}", incomplete)
        complete &= there
    if not complete.any():
        wanted = "triplet: NAME.source.jpg, NAME.jpg and NAME.txt" if prompted else "pair: NAME.source.jpg and NAME.jpg"
        raise UserError(f"{folder} has no {wanted}")
    records = records.chosen(complete)
    return records if split is None else records.of_split(split, heldout_fraction)
