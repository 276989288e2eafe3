"""codi cache CONFIG.yaml --out DIR: encode training examples once; the same command resumes."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from codi_tf import config
from codi_tf.cli.device_options import add_devices, devices_given
from codi_tf.config import places
from codi_tf.core.arguments import integer, path_argument, text_argument
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import UserError, user_errors
from codi_tf.core.signals import stop_noted
from codi_tf.io.files import check_growing_folder, check_settings, whole_file
from codi_tf.io.hashing import file_sha256
from codi_tf.io.locks import only_one
from codi_tf.io.tensor_files import TensorToWrite, read_header, write_tensors
from codi_tf.training.distribution import make_strategy

ENCODED = 32  # examples at a time, or fewer where a shard is no multiple of it
SHARD = 1024
MAX_COUNT, MAX_SHARD = 1_000_000_000, 100_000  # a shard is held in memory


def encode(
    experiment: config.Experiment, out: Path, *, examples: int, shard: int = SHARD, host: int = 0, hosts: int = 1
) -> bool:
    """Encode the first examples of an experiment's data into files. Complete shards are not encoded again.

    Writes meta.json, shard-00000.safetensors, ... and a checksum file for each shard; every file appears whole or not
    at all. Example i depends on (data, seed, i) alone, and all batches have one size. So the same processor writes the
    same bytes, however often the work is interrupted and however many hosts share it.

    Args:
        experiment: whose data, task, autoencoder and devices are used; training on the folder may differ in the rest.
        out: the folder.
        examples: N; training uses each of them once per epoch. (Without a cache, no example is used twice.)
        shard: examples per file.
        host, hosts: encode shards `host`, `host` + `hosts`, ... only.

    Returns:
        Whether all shards, of all hosts, exist now.

    Raises:
        UserError: `out` holds something else, or another process is encoding the same part of it; the config names
            something that cannot be used.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; what was encoded of the current shard is kept, the same call goes on.
    """
    _check_number("--examples", examples)
    _check_number("--shard", shard)
    _check_number("--hosts", hosts)
    if not 0 <= host < hosts:
        raise UserError(f"--host is {host}: of {hosts} hosts it must be 0 to {hosts - 1}")
    if experiment.method.examples == "images":
        name = experiment.method_name
        raise UserError(f"method {name} is trained on images, not on latents; name the config of another method")
    if experiment.data.buckets:
        raise UserError("data.buckets is set: examples of one size are encoded; set data.buckets=[]")
    check_growing_folder(out)
    strategy = start_tensorflow(functools.partial(make_strategy, _devices(experiment)))
    from codi_tf import data
    from codi_tf.core.progress import Progress
    from codi_tf.data.cached import is_cache, made_with, shard_paths, shard_sizes
    from codi_tf.data.counts import Counts
    from codi_tf.data.pipeline import REPLACED
    from codi_tf.data.precompute import encoder_on_each
    from codi_tf.data.stream import warn_of_unreadable
    from codi_tf.training.experiment import build_task, class_keys, keep_words, load_source, tokenizer_of

    settings, task = experiment.data, build_task(experiment)
    if is_cache(settings.source):
        raise UserError(f"data.source is {settings.source}: these examples are encoded already; name the images")
    with strategy.scope():
        base, condition_space, encode_condition = _encoder(experiment, task)
    tokenizer = tokenizer_of(experiment, base)
    used = ["source", "heldout_fraction", "image_size", "augment", "recolor", "seed", "prompts"]
    used += ["classes"] if settings.classes else []  # earlier versions had none
    meta = {
        "examples": examples,
        "shard": shard,
        "made_with": made_with(
            base, task=task, image_size=settings.image_size, condition_space=condition_space, tokenizer=tokenizer
        ),
        "data": {key: getattr(settings, key) for key in used},
    }
    source = load_source(experiment, "train")
    paths, sizes = shard_paths(out, meta), shard_sizes(meta)
    mine = range(host, len(paths), hosts)
    batch = math.gcd(shard, ENCODED)
    options = {key: getattr(settings, key) for key in ("image_size", "seed", "augment", "recolor")}
    options["keys"] = (*class_keys(experiment, base, source), *data.counted_keys(source))
    counts = Counts([source])
    batches_from = functools.partial(data.batches, source, task, batch_size=batch, tokenizer=tokenizer, **options)
    encode_batches = encoder_on_each(base, encode_condition, strategy)
    batches: Iterator[dict] = iter(())
    at = None  # the next batch of the iterator
    with (
        only_one(out / f".lock-{host}", f"encodes into {out}"),
        stop_noted("what is encoded is written after the batch under way") as stop,
    ):
        _begin(out, meta)
        if tokenizer is not None and experiment.method.learns_words:
            keep_words(tokenizer, out)
        missing = [number for number in mine if not _is_whole(paths[number], sizes[number])]
        for number in set(mine) - set(missing):
            _remove_begun(paths[number])
        done, total = sum(sizes[number] for number in mine if number not in missing), sum(sizes[n] for n in mine)
        progress = Progress("encoding examples", max(total, 1))
        for number in missing:
            parts = _begun(paths[number], batch)
            while (first := len(parts) * batch) < sizes[number]:
                place = (number * shard + first) // batch
                if place != at:  # otherwise the iterator is at the right place
                    batches = iter(batches_from(start_step=place))
                at = place + min(strategy.num_replicas_in_sync, -(-(sizes[number] - first) // batch))
                with user_errors():
                    given: list[dict] = [next(batches) for _ in range(place, at)]
                    encoded = encode_batches(given)
                parts += [{key: value.numpy() for key, value in part.items()} for part in encoded]
                replaced = sum(float(np.sum(one.get(REPLACED, 0))) for one in given)
                counts.add(batch * len(given), first=place * batch, replaced=replaced)
                there = len(parts) * batch
                progress.update(done + min(there, sizes[number]))
                if stop and there < sizes[number]:
                    _write_shard(_begun_path(paths[number]), _joined(parts))
                    raise stop.interrupted(
                        f"stopped by {{by}} after {done + there} of {total} examples, which are kept: the same command "
                        "resumes"
                    )
            _write_shard(paths[number], {key: part[: sizes[number]] for key, part in _joined(parts).items()})
            _remove_begun(paths[number])
            done += sizes[number]
            if stop and done < total:
                raise stop.interrupted(
                    f"stopped by {{by}} after {done} of {total} examples, which are kept: the same command resumes"
                )
    warn_of_unreadable(source)
    counts.warn_of_replaced()
    return all(path.is_file() for path in paths)


def _devices(experiment: config.Experiment) -> config.Distribution:
    """The devices that encode. Of several workers each encodes alone: `host` and `hosts` share the work."""
    own = experiment.distribution
    return config.Distribution() if own.strategy == "multiworker" else own


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Batches of examples as one."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _begun_path(path: Path) -> Path:
    """Where the first batches of a shard are kept when the work is interrupted."""
    return path.with_name(f".begun-{path.name}")


def _begun(path: Path, batch: int) -> list[dict[str, np.ndarray]]:
    """The first batches of a shard, as far as they are kept; without those of a damaged file."""
    kept = _begun_path(path)
    try:
        tensors, _ = read_header(kept)
        count = min(tensor.shape[0] for tensor in tensors.values())
        if count % batch or not _is_whole(kept, count):
            return []
        arrays = {key: tensor.read() for key, tensor in tensors.items()}
    except (UserError, ValueError):
        return []
    return [{key: array[i : i + batch] for key, array in arrays.items()} for i in range(0, count, batch)]


def _remove_begun(path: Path) -> None:
    from codi_tf.data.cached import checksum_file

    for left in (_begun_path(path), checksum_file(_begun_path(path))):
        left.unlink(missing_ok=True)


def _encoder(experiment: config.Experiment, task):
    """The base, the condition space of its adapter, and the function that encodes conditions (None without a task)."""
    from codi_tf.adapters import ADAPTERS
    from codi_tf.methods.networks import encode_in_space
    from codi_tf.training.experiment import load_without_task
    from codi_tf.training.initialization import load_base_and_adapter

    if task is None:
        base, _ = load_without_task(experiment)
        assert base is not None  # the method is trained on latents
        return base, "latent", None
    base, adapter, _ = load_base_and_adapter(experiment, task)
    space = (ADAPTERS[adapter] if isinstance(adapter, str) else adapter).condition_space
    return base, space, functools.partial(encode_in_space, base, condition_space=space, has_mask=task.has_mask)


def _begin(out: Path, meta: dict) -> None:
    """Write meta.json, in which a relative source counts from `out`, or check that the existing one is equal."""
    from codi_tf.data.cached import META, read_meta

    path = out / META
    if not path.is_file():
        if out.exists() and not (out.is_dir() and all(entry.name.startswith(".") for entry in out.iterdir())):
            raise UserError(f"{out}: already exists, without {META}; choose another --out")
        written = copy.deepcopy(meta)
        places.write_down(written, out)
        with whole_file(path) as partial:
            partial.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        return
    earlier = read_meta(out)
    places.adopt(earlier, meta)
    check_settings(out, earlier, meta)


def _is_whole(path: Path, count: int) -> bool:
    """Whether a shard exists and has the bytes that were written. If not, it is encoded again."""
    from codi_tf.data.cached import is_intact

    try:
        tensors, _ = read_header(path)
        return all(tensor.shape[0] == count for tensor in tensors.values()) and is_intact(path)
    except (OSError, ValueError):  # a UserError is a ValueError
        return False


def _write_shard(path: Path, encoded: Mapping[str, np.ndarray]) -> None:
    from codi_tf.data.cached import checksum_file

    tensors = {key: TensorToWrite(value.dtype, value.shape, value.__array__) for key, value in sorted(encoded.items())}
    with whole_file(path) as partial:
        write_tensors(partial, tensors)
        line = f"{file_sha256(partial)}  {path.name}\n"  # as sha256sum writes and checks it
    with whole_file(checksum_file(path)) as partial:
        partial.write_text(line, encoding="utf-8")


def _check_number(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name} is {value}: it must be at least 1")


def main(arguments: list[str], prog: str = "python -m codi_tf.cache") -> None:
    """Run `codi cache`. Raises UserError and Interrupted, see `encode`."""
    parser = ArgumentParser(prog=prog, description="Encode training examples once. The same command resumes.")
    parser.add_argument("config", type=text_argument, help="a file of configs/")
    parser.add_argument("--out", type=path_argument, required=True, help="folder of the encoded examples")
    parser.add_argument(
        "--examples", type=integer(1, MAX_COUNT), help="how many; by default data.encode_once of the config"
    )
    parser.add_argument("--shard", type=integer(1, MAX_SHARD), default=SHARD, help="examples per file (default: 1024)")
    parser.add_argument(
        "--host", type=integer(0, MAX_COUNT), default=0, help="number of this machine among several, from 0"
    )
    parser.add_argument("--hosts", type=integer(1, MAX_COUNT), default=1, help="how many machines share the work")
    add_devices(parser, [one for one in config.STRATEGIES if one != "multiworker"])  # --hosts shares the work
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values in place of the config's")
    options = parser.parse_intermixed_args(arguments)
    experiment = config.load(options.config, [*options.overrides, *devices_given(options)])
    examples = experiment.data.encode_once if options.examples is None else options.examples
    if not examples:
        raise UserError("--examples is not given, and data.encode_once is 0: give the number of examples to encode")
    settings = {"examples": examples, "shard": options.shard, "host": options.host, "hosts": options.hosts}
    if encode(experiment, options.out, **settings):
        print(f"all {examples} examples are encoded; train on them with data.source={options.out}")
    else:
        print(f"{options.out}: done; shards of other hosts are still missing")
