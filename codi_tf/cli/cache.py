"""codi cache CONFIG.yaml --out DIR: encode training examples once; the same command resumes."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from codi_tf import config
from codi_tf.cli.device_options import add_devices, devices_given
from codi_tf.core.arguments import integer, path_argument, text_argument
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import Interrupted, UserError, user_errors
from codi_tf.core.progress import Progress
from codi_tf.core.signals import Stop, stop_noted
from codi_tf.io.files import check_growing_folder
from codi_tf.io.locks import only_one
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
    _check(experiment, examples=examples, shard=shard, host=host, hosts=hosts)
    check_growing_folder(out)
    strategy = start_tensorflow(functools.partial(make_strategy, _devices(experiment)))
    from codi_tf.cli.cache_shards import begin, shards_of

    batch = math.gcd(shard, ENCODED)
    encoder = _Encoder(experiment, strategy, batch)
    meta = {"examples": examples, "shard": shard, **encoder.meta}
    shards = shards_of(out, meta)
    mine = shards[host::hosts]
    with (
        only_one(out / f".lock-{host}", f"encodes into {out}"),
        stop_noted("what is encoded is written after the batch under way") as stop,
    ):
        begin(out, meta)
        encoder.keep_words(out)
        missing = [one for one in mine if not one.is_whole()]
        for one in set(mine) - set(missing):
            one.forget()
        total = sum(one.size for one in mine)
        done = total - sum(one.size for one in missing)
        progress = Progress("encoding examples", max(total, 1))
        for one in missing:
            parts = one.kept(batch)
            while (there := len(parts) * batch) < one.size:
                left = -(-(one.size - there) // batch)
                parts += encoder.batches((one.first + there) // batch, at_most=left)
                there = len(parts) * batch
                progress.update(done + min(there, one.size))
                if stop and there < one.size:
                    one.keep(parts)
                    raise _stopped(stop, done + there, total)
            one.write(parts)
            done += one.size
            if stop and done < total:
                raise _stopped(stop, done, total)
    encoder.warn()
    return all(one.path.is_file() for one in shards)


def _check(experiment: config.Experiment, *, examples: int, shard: int, host: int, hosts: int) -> None:
    """Raise UserError for numbers out of range, and for an experiment whose examples are not encoded."""
    for name, value in (("--examples", examples), ("--shard", shard), ("--hosts", hosts)):
        if value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")
    if not 0 <= host < hosts:
        raise UserError(f"--host is {host}: of {hosts} hosts it must be 0 to {hosts - 1}")
    if experiment.method.examples == "images":
        name = experiment.method_name
        raise UserError(f"method {name} is trained on images, not on latents; name the config of another method")
    if experiment.data.buckets:
        raise UserError("data.buckets is set: examples of one size are encoded; set data.buckets=[]")


def _stopped(stop: Stop, done: int, total: int) -> Interrupted:
    kept = f"stopped by {{by}} after {done} of {total} examples, which are kept: the same command resumes"
    return stop.interrupted(kept)


def _devices(experiment: config.Experiment) -> config.Distribution:
    """The devices that encode. Of several workers each encodes alone: `host` and `hosts` share the work."""
    own = experiment.distribution
    return config.Distribution() if own.strategy == "multiworker" else own


class _Encoder:
    """Encodes the examples of an experiment in batches, on the devices of a strategy.

    Raises:
        UserError: the examples are encoded already; the config names something that cannot be used.

    Attributes:
        meta: what the encoded examples depend on, for meta.json.
    """

    def __init__(self, experiment: config.Experiment, strategy, batch: int):
        from codi_tf import data
        from codi_tf.data.cached import is_cache, made_with
        from codi_tf.data.counts import Counts
        from codi_tf.data.precompute import encoder_on_each
        from codi_tf.training.experiment import build_task, class_keys, load_source, tokenizer_of

        settings, task = experiment.data, build_task(experiment)
        if is_cache(settings.source):
            raise UserError(f"data.source is {settings.source}: these examples are encoded already; name the images")
        with strategy.scope():
            base, condition_space, encode_condition = _networks(experiment, task)
        self._tokenizer = tokenizer_of(experiment, base)
        self._learns_words = experiment.method.learns_words
        space = {"condition_space": condition_space, "tokenizer": self._tokenizer}
        used = ["source", "heldout_fraction", "image_size", "augment", "recolor", "seed", "prompts"]
        used += ["classes"] if settings.classes else []  # earlier versions had none
        self.meta = {
            "made_with": made_with(base, task=task, image_size=settings.image_size, **space),
            "data": {key: getattr(settings, key) for key in used},
        }
        self._source = source = load_source(experiment, "train")
        options = {key: getattr(settings, key) for key in ("image_size", "seed", "augment", "recolor")}
        options["keys"] = (*class_keys(experiment, base, source), *data.counted_keys(source))
        options |= {"batch_size": batch, "tokenizer": self._tokenizer}
        self._batches_from = functools.partial(data.batches, source, task, **options)
        self._batch, self._counts = batch, Counts([source])
        self._at_a_time, self._encode = strategy.num_replicas_in_sync, encoder_on_each(base, encode_condition, strategy)
        self._given: Iterator[dict] = iter(())
        self._next: int | None = None  # the number of the batch that the iterator gives next

    def keep_words(self, out: Path) -> None:
        """Write the tokenizer into a folder if it was learned from the examples' prompts."""
        from codi_tf.training.experiment import keep_words

        if self._tokenizer is not None and self._learns_words:
            keep_words(self._tokenizer, out)

    def batches(self, number: int, *, at_most: int) -> list[Mapping[str, np.ndarray]]:
        """Encode the batches from a number on: one for each device, and not more than `at_most`."""
        from codi_tf.data.pipeline import REPLACED

        if number != self._next:
            self._given = iter(self._batches_from(start_step=number))
        self._next = number + min(self._at_a_time, at_most)
        with user_errors():
            given: list[dict] = [next(self._given) for _ in range(number, self._next)]
            encoded = self._encode(given)
        replaced = sum(float(np.sum(one.get(REPLACED, 0))) for one in given)
        self._counts.add(self._batch * len(given), first=number * self._batch, replaced=replaced)
        return [{key: value.numpy() for key, value in part.items()} for part in encoded]

    def warn(self) -> None:
        """Warn of examples that could not be read."""
        from codi_tf.data.stream import warn_of_unreadable

        warn_of_unreadable(self._source)
        self._counts.warn_of_replaced()


def _networks(experiment: config.Experiment, task):
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


def main(arguments: list[str], prog: str = "python -m codi_tf.cache") -> None:
    """Run `codi cache`. Raises UserError and Interrupted, see `encode`."""
    parser = ArgumentParser(prog=prog, doc=__doc__)
    parser.add_argument("config", type=text_argument, help="a YAML file, as those of configs/")
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
