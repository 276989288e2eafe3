"""Reading encoded examples (made by `codi cache`): a folder of memory-mapped shards."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_EXAMPLES
from codi_tf.core.paths import as_path
from codi_tf.core.progress import Progress
from codi_tf.core.tensors import Tensor
from codi_tf.data.left_out import warn_of_left_out
from codi_tf.data.mapped import row_reader
from codi_tf.data.permutation import permuted_in_graph
from codi_tf.data.pipeline import ONE_HOST
from codi_tf.data.prompts import tokenizer_sha256
from codi_tf.data.records import PATIENCE
from codi_tf.io.hashing import arrays_sha256, file_sha256
from codi_tf.io.json_files import read_json
from codi_tf.io.places import is_data_set, resolved
from codi_tf.io.remote import kept_copy
from codi_tf.io.schema import Anything, Keyed, Number, Record, Text, Whole
from codi_tf.io.tensor_files import StoredTensor, read_header
from codi_tf.tasks import Task, task_config

META = "meta.json"
SCHEMA = Record(
    {
        "examples": Whole(1, MAX_EXAMPLES),
        "shard": Whole(1, MAX_EXAMPLES),
        "made_with": Keyed(Anything()),
        "data": Record({"source": Text()}, {"heldout_fraction": Number(0, 1)}),
    }
)
MOST_SHARDS = 100_000
THREADS = min(8, os.cpu_count() or 1)  # that check shards


class ShardedArray:
    """An array [N, ...] whose rows are in several memory-mapped files. Only rows that are used are read.

    Args:
        parts: in their order.

    Attributes:
        parts: where the rows are.
    """

    def __init__(self, parts: Sequence[StoredTensor]):
        self.parts = tuple(parts)
        self._parts = [np.memmap(kept_copy(p.path), p.dtype, "r", offset=p.start, shape=p.shape) for p in parts]
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.dtype = self._parts[0].dtype
        self.shape = (int(self._ends[-1]), *self._parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, numbers) -> np.ndarray:
        """The rows of these numbers, int [M] -> [M, ...]."""
        numbers = np.asarray(numbers)
        rows = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for place, (number, part) in enumerate(zip(numbers, self._ends.searchsorted(numbers, "right"), strict=True)):
            rows[place] = self._parts[part][number - self._ends[part]]  # counted from the end of its part
        return rows

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """All of it, in memory."""
        return np.concatenate(self._parts).astype(dtype or self.dtype, copy=False)


def is_cache(name: str | os.PathLike[str]) -> bool:
    """Whether a folder holds encoded examples."""
    return (as_path(name) / META).is_file()


def read_cache(folder: str | os.PathLike[str], *, near: bool = True) -> dict[str, ShardedArray]:
    """Read the examples of a folder, as from `precompute.encode_once`.

    The hash beside each shard is checked first, on several threads: about a second a gigabyte on each. A shard without
    one is named in a warning.

    Args:
        folder: of `codi cache`. A remote one is copied to this machine, for as long as the process runs.
        near: whether batches are made here; where other machines make them, each reads the remote folder.

    Returns:
        {"latent": float32 [N, h, w, 4]} and, if they are there, "condition_latent" [N, ...], "tokens" int32 [N, M],
        "class" int32 [N].

    Raises:
        UserError: no such folder; a shard is missing or damaged, or does not fit the others.
    """
    folder = as_path(folder)
    meta = read_meta(folder)
    folder = kept_copy(folder) if near else folder
    shards = [read_header(_existing(path))[0] for path in shard_paths(folder, meta)]
    first = {key: (tensor.dtype, tensor.shape[1:]) for key, tensor in shards[0].items()}
    for path, shard, count in zip(shard_paths(folder, meta), shards, shard_sizes(meta), strict=True):
        if {key: (tensor.dtype, tensor.shape[1:]) for key, tensor in shard.items()} != first or any(
            tensor.shape[0] != count for tensor in shard.values()
        ):
            raise UserError(f"{path}: does not fit the other shards; delete it and run codi cache again")
    _check_hashes(shard_paths(folder, meta))
    return {key: ShardedArray([shard[key] for shard in shards]) for key in first}


def read_meta(folder: str | os.PathLike[str]) -> dict:
    """The description of a folder of encoded examples: "examples", "shard", "made_with", "data".

    Raises:
        UserError: the folder has none, or a damaged one.
    """
    path = as_path(folder) / META
    if not path.exists():
        raise UserError(f"{folder}: no encoded examples; make them with codi cache")
    try:
        meta = read_json(path)
        SCHEMA.check(meta, "")
        if -(-meta["examples"] // meta["shard"]) > MOST_SHARDS:
            raise ValueError(f"it has more than {MOST_SHARDS:,} shards")
        if "sees" in meta["made_with"]:  # the name of 0.1.0
            meta["made_with"]["condition_space"] = meta["made_with"].pop("sees")
        if "recolour" in meta["data"]:  # the name of 0.1.0
            meta["data"] = {"recolor" if key == "recolour" else key: value for key, value in meta["data"].items()}
        if not is_data_set(meta["data"]["source"]):
            meta["data"]["source"] = resolved(meta["data"]["source"], path.parent)
    except ValueError as error:
        raise UserError(f"{path}: not readable ({error}); encode the examples again") from None
    return meta


def shard_sizes(meta: Mapping) -> list[int]:
    """The number of examples in each shard."""
    count, shard = meta["examples"], meta["shard"]
    return [min(shard, count - start) for start in range(0, count, shard)]


def shard_paths(folder: Path, meta: Mapping) -> list[Path]:
    """The paths of the shards, whether they exist or not."""
    return [folder / f"shard-{number:05}.safetensors" for number in range(len(shard_sizes(meta)))]


def made_with(
    base, *, task: Task | None, image_size: int, condition_space: str, tokenizer: Tokenizer | None = None
) -> dict:
    """What encoded examples depend on, except the images. A training that uses them must have the same.

    Args:
        base: a `codi_tf.checkpoints.base.Base`.
        task: of the conditions, if there are any.
        image_size: S.
        condition_space: in which the adapter takes conditions, see `adapters.adapted.Adapter`.
        tokenizer: of the prompts, if they are used.
    """
    digest = arrays_sha256(variable.numpy() for variable in base.vae.variables)
    autoencoder = {"sha256": digest, "scaling_factor": float(base.vae.scaling_factor)}
    autoencoder["compute"] = base.vae.compute_dtype
    if not base.vae.variables:  # of pixels: it has no weights that would tell it from another
        autoencoder["patch_size"] = base.vae.patch_size
    options = None if task is None else task_config(task)
    made = {"image_size": image_size, "task": options, "condition_space": condition_space, "autoencoder": autoencoder}
    made["tokenizer"] = None if tokenizer is None else {"sha256": tokenizer_sha256(tokenizer)}
    return json.loads(json.dumps(made))  # tuples become lists, as they do in the file


def check_made_with(folder: str | os.PathLike[str], wanted: Mapping) -> None:
    """Check that the examples of a folder were made for this training; see `made_with`.

    If one of the two has no tokenizer, tokenizers are not compared: prompts are not used, or there are none.

    Raises:
        UserError: they were made with other settings.
    """
    made = read_meta(folder)["made_with"]
    for key in {**wanted, **made}:
        theirs, ours = made.get(key), wanted.get(key)
        if theirs != ours and not (key == "tokenizer" and None in (theirs, ours)):
            raise UserError(
                f"{folder}: was encoded with {key} = {theirs}, this training has {ours}; use the same, or encode the "
                "examples again"
            )


def cached_batches(
    examples: Mapping[str, ShardedArray | np.ndarray],
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    contexts: np.ndarray | None = None,
    shard: tuple[int, int] = ONE_HOST,
    count: int | None = None,
) -> tf.data.Dataset:
    """Infinite batches of encoded examples, drawn without replacement within an epoch; batch k depends on (seed, k).

    Unlike `precompute.latent_batches`, it reads rows when they are needed, and computes their order without a table.
    All of it is operations of TensorFlow.

    Args:
        examples: from `read_cache`, or from `precompute.embed_once` of that.
        batch_size: B, of this host.
        seed: of the order.
        start_step: the first batch.
        contexts: from `precompute.embed_once`: "context" float32 [B, M, D] replaces "prompt".
        shard: (i, n): this is host i of n.
        count: the number of batches; None: they do not end.

    Raises:
        UserError: fewer examples than a batch.
    """
    total, (host, hosts) = len(next(iter(examples.values()))), shard
    per_epoch = total // (batch_size * hosts)
    if not per_epoch:
        raise UserError(f"{total} encoded examples are fewer than a batch of {batch_size * hosts}; encode more of them")
    with tf.init_scope():  # within a function, arrays in memory do not belong to it
        draw = _row_reader(examples)
        embedded = None if contexts is None else tf.constant(contexts)

    @tf.autograph.experimental.do_not_convert
    def row(index: Tensor) -> dict[str, Tensor]:
        step, place = index // batch_size, index % batch_size
        first = (step % per_epoch * hosts + host) * batch_size
        return draw(permuted_in_graph(first + place, total, seed=seed, epoch=step // per_epoch))

    def with_context(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        context = tf.gather(embedded, batch.pop("prompt"))
        return {**batch, "context": context}

    rows = tf.data.Dataset.range(start_step * batch_size, np.iinfo(np.int64).max)
    rows = rows if count is None else rows.take(count * batch_size)
    rows = rows.map(row, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = rows.batch(batch_size, drop_remainder=True)
    return (batches if embedded is None else batches.map(with_context)).prefetch(2)


def _row_reader(examples: Mapping[str, ShardedArray | np.ndarray]) -> Callable[[Tensor], dict[str, Tensor]]:
    """A function from the number of an example, int64 [], to its values; arrays in memory become constants."""
    stored = {key: array.parts for key, array in examples.items() if isinstance(array, ShardedArray)}
    shards = [dict(zip(stored, parts, strict=True)) for parts in zip(*stored.values(), strict=True)]
    tables = {key: tf.constant(array) for key, array in examples.items() if not isinstance(array, ShardedArray)}
    read = row_reader(shards) if shards else lambda number: {}

    def row(number: Tensor) -> dict[str, Tensor]:
        return {**read(number), **{key: table[number] for key, table in tables.items()}}

    return row


def checksum_file(shard: Path) -> Path:
    """The file with the hash of a shard, in the form of sha256sum."""
    return shard.with_suffix(".sha256")


def is_intact(shard: Path) -> bool:
    """Whether a shard has the bytes that were written for it. Raises OSError, ValueError for no hash."""
    digest, name = checksum_file(shard).read_text(encoding="utf-8").split(maxsplit=1)
    return (file_sha256(shard), shard.name) == (digest.lower(), name.strip())


def _check_hashes(shards: Sequence[Path]) -> None:
    """Raises UserError for a shard that is damaged; warns of those without a hash."""
    unchecked, progress, began = [], Progress("checking encoded examples", len(shards)), time.monotonic()

    def check(shard: Path) -> bool | None:
        try:
            return is_intact(shard)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{checksum_file(shard)}: not readable ({error}); encode the examples again") from None

    with ThreadPoolExecutor(THREADS) as pool:
        for done, (shard, intact) in enumerate(zip(shards, pool.map(check, shards), strict=True), start=1):
            if intact is None:
                unchecked.append(shard.name)
            elif not intact:
                pool.shutdown(cancel_futures=True)
                raise UserError(
                    f"{shard}: is damaged, its bytes do not fit {checksum_file(shard).name}; delete it and run "
                    "codi cache again, which encodes it anew"
                )
            if time.monotonic() - began > PATIENCE:
                progress.update(done)
    warn_of_left_out(f"{shards[0].parent}: the checks of shards without a .sha256 file", unchecked)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: does not exist yet; run the same codi cache again, which continues")
    return path
