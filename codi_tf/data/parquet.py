"""Triplets and pairs in parquet files. Whole row groups are read at a time, so the order keeps their rows together."""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.data.examples import known_features
from codi_tf.data.permutation import permuted
from codi_tf.data.records import Damage, Unreadable
from codi_tf.data.splits import is_heldout
from codi_tf.data.unreadable import warn_of_damage
from codi_tf.io.plain_files import check_plain

FIELDS = ("image", "source", "text")
FLOOR, FACTOR = 1 << 28, 20  # bytes that any file may unpack to, and how many times its own size a larger one may
LONGEST_TEXT = 100_000  # characters of an instruction
BATCH = 128  # rows that are unpacked at a time
IN_MEMORY = 500_000_000  # bytes of cached row groups; the order shuffles within blocks of half as much


class ParquetRows:
    """Rows of parquet files; a `records.Readable`. Row groups are read as a whole and cached.

    Args:
        paths: the files.
        columns: field -> column, of FIELDS; without "text" the rows are pairs.
        groups: int64 [G, 4] of (file, row group in it, its first row counted over all files, bytes).
        rows: int64 [N], the rows that are triplets, sorted, counted over all files.
        texts: their instructions; of pairs "".
    """

    def __init__(
        self, paths: list[str], columns: dict[str, str], groups: np.ndarray, rows: np.ndarray, texts: list[str]
    ):
        self.paths, self.columns, self.groups, self.rows, self.texts = paths, columns, groups, rows, texts
        self.first = np.append(np.searchsorted(rows, groups[:, 2]), len(rows))  # [G + 1], of each group in `rows`
        self.fields = tuple(columns)
        self._order = lru_cache(maxsize=4)(self._ordered)
        self._lock, self._cached = threading.Lock(), OrderedDict()  # group -> its table, the most recently used last

    @classmethod
    def indexed(
        cls,
        paths: list[str],
        split: str | None,
        *,
        heldout_fraction: float,
        max_unreadable: float,
        fields: Collection[str] = FIELDS,
        named: Mapping[str, str] | None = None,
    ) -> ParquetRows:
        """The rows of a split.

        Args:
            paths: the files.
            split: "train", "heldout" or None for all, by a hash of the instruction, or of the file's name and the row.
            heldout_fraction: the share of "heldout".
            max_unreadable: the largest share of damaged files.
            fields: FIELDS; or without "text", pairs. Rows without an instruction are left out, with a warning.
            named: field -> the column that the user names.

        Raises:
            UserError: pyarrow is missing; a column is missing or of another type; too much is unreadable.
        """
        pyarrow = _pyarrow(paths[0])
        columns, groups, texts, keys, damaged, total = None, [], [], [], [], 0
        for number, path in enumerate(paths):
            try:
                check_plain(path)
                with pyarrow.parquet.ParquetFile(path) as file:
                    columns = _checked_columns(path, file.schema_arrow, columns, fields, named or {})
                    for group in range(file.num_row_groups):
                        about = file.metadata.row_group(group)
                        groups.append((number, group, total, about.total_byte_size))
                        total += about.num_rows
                    found = _texts(file, columns["text"], path) if "text" in columns else [""] * (total - len(texts))
                    keys += (text or f"{os.path.basename(path)}:{row}" for row, text in enumerate(found))
                    texts += found
            except (OSError, MemoryError, pyarrow.ArrowException) as error:
                groups, total = [one for one in groups if one[0] != number], len(texts)
                damaged.append(Damage(path, " ".join(str(error).split()), 0))
        if not texts:
            reason = f": {damaged[0].reason}" if damaged else ""
            raise UserError(f"no row can be read in {paths[0]}{reason}")
        warn_of_damage(damaged, len(paths), max_unreadable)
        assert columns is not None  # a text was read
        chosen = np.array(["text" not in columns or bool(text and text.strip()) for text in texts])
        if not chosen.all():
            warnings.warn(f"{paths[0]}: rows without an instruction are left out: {(~chosen).sum()}", stacklevel=4)
        if split is not None:
            chosen &= np.array([is_heldout(key, heldout_fraction) == (split == "heldout") for key in keys])
        rows = np.flatnonzero(chosen)
        return cls(paths, columns, np.array(groups, np.int64), rows, [texts[row] for row in rows])

    def __len__(self) -> int:
        return len(self.rows)

    def without_text(self) -> int:
        """0, as rows without an instruction are left out; of pairs all."""
        return 0 if "text" in self.fields else len(self)

    def read(self, i: int, fields: Collection[str] | None = None) -> dict[str, bytes]:
        """The fields of triplet i, or some of them. Raises Unreadable."""
        group = int(np.searchsorted(self.first, i, side="right")) - 1
        table, row = self._group(group), int(self.rows[i] - self.groups[group, 2])
        found = {"text": self.texts[i].encode()} if "text" in self.fields else {}
        for field in ("image", "source"):
            if fields is not None and field not in fields:
                continue
            value = table[self.columns[field]][row].as_py()
            value = value["bytes"] if isinstance(value, dict) else value
            if value is None:
                raise Unreadable(f"{self.columns[field]} is empty")
            found[field] = value
        return found

    def name(self, i: int) -> str:
        """Path and row of triplet i."""
        group = int(np.searchsorted(self.first, i, side="right")) - 1
        file = self.groups[group, 0]
        of_file = self.groups[self.groups[:, 0] == file, 2].min()
        return f"{self.paths[file]}: row {self.rows[i] - of_file}"

    def split_name(self, i: int) -> str:
        """The text that decides the split of row i: its instruction, or the file's name and the row."""
        return self.texts[i] or os.path.basename(self.name(i)).replace(": row ", ":")

    def at(self, place: int, *, seed: int, epoch: int) -> int:
        """The triplet at a place of an order that shuffles the row groups, and the triplets in blocks of row groups.

        A block fits into memory, so each row group is read once per epoch.
        """
        order, first, bounds = self._order(seed, epoch)
        block = int(np.searchsorted(bounds, place, side="right")) - 1
        start, end = int(bounds[block]), int(bounds[block + 1])
        place = start + permuted(place - start, end - start, seed=seed + 1, epoch=epoch)
        group = int(np.searchsorted(first, place, side="right")) - 1
        return int(self.first[order[group]]) + place - int(first[group])

    def _ordered(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row groups in their order, the places of their first triplets, the bounds of the blocks."""
        count = len(self.groups)
        order = np.array([permuted(place, count, seed=seed, epoch=epoch) for place in range(count)])
        first = np.concatenate([[0], np.cumsum(np.diff(self.first)[order])])
        nbytes = np.cumsum(self.groups[order, 3])
        block = nbytes // (IN_MEMORY // 2)
        begins = np.flatnonzero(np.diff(block, prepend=-1))
        return order, first[:-1], np.unique(np.append(first[begins], first[-1]))

    def _group(self, group: int):
        """The images of a row group. Raises Unreadable."""
        with self._lock:
            if group in self._cached:
                self._cached.move_to_end(group)
                return self._cached[group]
            path = self.paths[self.groups[group, 0]]
            pyarrow = _pyarrow(path)
            try:
                with pyarrow.parquet.ParquetFile(path) as file:
                    names = [self.columns["image"], self.columns["source"]]
                    table = pyarrow.Table.from_batches(_batches(file, names, path, [int(self.groups[group, 1])]))
            except (OSError, MemoryError, pyarrow.ArrowException) as error:
                raise Unreadable(f"the row group is damaged ({' '.join(str(error).split())})") from None
            self._cached[group] = table
            while len(self._cached) > 1 and sum(one.nbytes for one in self._cached.values()) > IN_MEMORY:
                self._cached.popitem(last=False)
            return table


def _texts(file, column: str, path: str) -> list[str | None]:
    """The texts of a column. Raises UserError where they are too long to be instructions."""
    texts = []
    for batch in _batches(file, [column], path):
        texts += batch.column(0).to_pylist()
        if any(len(text or "") > LONGEST_TEXT for text in texts[-len(batch) :]):
            raise UserError(
                f"{path}: a text in {column} has more than {LONGEST_TEXT:,} characters: it is no instruction"
            )
    return texts


def _batches(file, columns: list[str], path: str, groups: list[int] | None = None) -> Iterator:
    """Some columns of a file, or of some of its row groups, in batches. Raises OSError where they are far too large.

    A few bytes of a compressed file may stand for any number of rows: the size that a file states is not believed.
    """
    most = max(FLOOR, FACTOR * os.path.getsize(path))
    total, groups = 0, list(range(file.num_row_groups)) if groups is None else groups
    for batch in file.iter_batches(batch_size=BATCH, row_groups=groups, columns=columns):
        total += batch.nbytes
        if total > most:
            raise OSError(f"it unpacks to more than {most:,} bytes, {FACTOR} times its size")
        yield batch


def _pyarrow(path: str):
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UserError(f"{path}: a .parquet file needs the package pyarrow: pip install pyarrow") from None
    return pyarrow


def _checked_columns(
    path: str, schema, chosen: dict[str, str] | None, fields: Collection[str], named: Mapping[str, str]
) -> dict[str, str]:
    """Field -> column. Raises UserError for a column that is missing or of another type."""
    import pyarrow.types as types

    def is_bytes(kind) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    known = known_features()
    if chosen is None:
        if unknown := next((field for field in named if field not in fields), None):
            raise UserError(f"{path}: unknown option {unknown}; use {', '.join(fields)} (field=COLUMN)")
        chosen = {field: next((one for one in known[field] if one in schema.names), "") for field in fields}
        chosen |= named
    for field, column in chosen.items():
        if column not in schema.names:
            raise UserError(
                f"{path} has no column {column or ' or '.join(known[field])} ({field}); "
                f"name the one that holds it, ?{field}=COLUMN: {', '.join(schema.names)}"
            )
        kind = schema.field(column).type
        if field == "text" and not (types.is_string(kind) or types.is_large_string(kind)):
            raise UserError(f"{path}: column {column} is of type {kind}: instructions are texts")
        if field != "text":
            inside = kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
            if not is_bytes(inside):
                raise UserError(f"{path}: column {column} is of type {kind}: images are the bytes of their files")
    return chosen
