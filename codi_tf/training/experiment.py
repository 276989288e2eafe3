"""The trainer, the data and the result of an experiment."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from codi_tf import config, data
from codi_tf.checkpoints.base import Base
from codi_tf.checkpoints.stable_diffusion import check_parts
from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.checkpoints.vocabulary import learn
from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path
from codi_tf.core.precision import built_in, make_policy
from codi_tf.core.progress import Progress
from codi_tf.data.cached import cached_batches, check_made_with, is_cache, made_with, read_cache, read_meta
from codi_tf.data.counts import Counts
from codi_tf.data.precompute import embed_once, encode_once, latent_batches
from codi_tf.data.service import served_batches
from codi_tf.data.windows import Size
from codi_tf.evaluation.features import load_features
from codi_tf.evaluation.perception.lpips import load_lpips
from codi_tf.io.bundle_files import BUNDLES, RESULTS, TOKENIZERS, WORDS
from codi_tf.io.folders import Kind, whole_folder
from codi_tf.io.json_files import write_json
from codi_tf.methods.networks import encode_condition
from codi_tf.model import CoDi
from codi_tf.tasks import Task, make_task
from codi_tf.trainers.lean import Adafactor, Lion
from codi_tf.trainers.optimizers import CosinePhases, FusedAdamW
from codi_tf.trainers.trainer import Trainer
from codi_tf.training.folder import PROVENANCE
from codi_tf.training.initialization import load_base_and_adapter

OPTIMIZERS = {"adamw": FusedAdamW, "adafactor": Adafactor, "lion": Lion}
LEARNED_FROM = 4096  # prompts of a new vocabulary


def build_task(experiment: config.Experiment) -> Task | None:
    """The task of an experiment, None where there is no condition. Raises UserError, see `tasks.make_task`."""
    if experiment.task is None:
        return None
    options = dict(experiment.task)
    return make_task(options.pop("name"), **options)


def build_trainer(experiment: config.Experiment, run: Path | None = None) -> Trainer:
    """The compiled trainer of an experiment, with fresh or pre-trained weights.

    Args:
        experiment: the experiment.
        run: the folder of the run, see `load_without_task`.

    Raises:
        UserError: a model or the weights of a perceptual network cannot be read, or do not fit the experiment.
    """
    method, train, adaptation = experiment.method, experiment.train, experiment.adaptation
    task = build_task(experiment)
    keras.utils.set_random_seed(train.seed)
    shared = {name: getattr(train, name) for name in ("ema_decay", "result_decay", "seed", "accumulate")}
    if task is None:
        base, student = load_without_task(experiment, run)
        scaled = experiment.memory.compute == "float16"
        trainer = Trainer(method.build(base, student, _perceptual(experiment)), scaled=scaled, **shared)
    else:
        base, adapter, lora = load_base_and_adapter(experiment, task)
        trainer = CoDi(
            base,
            adapter,
            adaptation.train,
            method=method,
            task=task,
            mu_rate=adaptation.mu_rate,
            lora=lora,
            **shared,
            image_size=experiment.data.image_size,
            perceptual=_perceptual(experiment),
            pretrained=adaptation.pretrained,
            copy=False,  # no other model uses the networks that were just read
        )
    if experiment.memory.recompute:
        trainer.method.recompute_blocks()
    size, multiple = experiment.data.image_size, trainer.method.multiple
    if size % multiple:
        raise UserError(f"data.image_size is {size}: for these networks it must be a multiple of {multiple}")
    for height, width in experiment.data.shapes:
        if height % multiple or width % multiple:
            raise UserError(f"data.buckets has {height}x{width}: these networks need multiples of {multiple}")
    trainer.compile(optimizer=make_optimizer(train, method.phase_lengths(train.steps)))
    return trainer


def load_without_task(experiment: config.Experiment, run: Path | None = None) -> tuple[Base | None, Any]:
    """What a training without a task starts from, in the formats of `memory`: see `MethodSettings.load`.

    A new text encoder gets its vocabulary: that which the run has, where it resumes; that of encoded examples; or one
    that is learned from the first prompts of the data.

    Args:
        experiment: the experiment.
        run: the folder of the run; None where there is none.

    Raises:
        UserError: the base does not hold what the method needs, or the data have no prompts.
    """
    method = experiment.method
    with built_in(make_policy(experiment.memory.compute)):
        base, student = method.load(experiment.base)
    if method.learns_words:
        assert base is not None and base.text_encoder is not None
        base = dataclasses.replace(base, tokenizer=_words(experiment, run, base.text_encoder.vocab_size))
        check_parts(base)
    return base, student


def _words(experiment: config.Experiment, run: Path | None, size: int) -> Tokenizer:
    """The tokenizer of a new text encoder, see `load_without_task`; of at most `size` tokens where it is learned."""
    source = experiment.data.source
    if run is not None and (run / WORDS).is_dir():
        return Tokenizer.load(run / WORDS)
    if not is_cache(source):
        return learn(data.training_prompts(load_source(experiment, "train"), LEARNED_FROM), size)
    if not (as_path(source) / WORDS).is_dir():
        raise UserError(f"{source}: was encoded for another base; encode it with this config")
    return Tokenizer.load(as_path(source) / WORDS)


def keep_words(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer of a new text encoder into the folder of a run, or of encoded examples; once."""
    if not (folder / WORDS).exists():
        with whole_folder(folder / WORDS, TOKENIZERS) as partial:
            tokenizer.save(partial)


def _perceptual(experiment: config.Experiment):
    """The feature network of the method, images -> maps: of a folder, or LPIPS from a file; None for none."""
    path, size = experiment.method.features, experiment.data.image_size
    if path is None:
        return None
    if as_path(path).suffix != ".safetensors":
        return load_features(as_path(path)).maps
    lpips = load_lpips(path)
    if size < lpips.trunk.smallest:
        raise UserError(f"data.image_size is {size}: LPIPS ({lpips.net}) needs {lpips.trunk.smallest} or more")
    for bucket in experiment.data.shapes:
        if min(bucket) < lpips.trunk.smallest:
            raise UserError(
                f"data.buckets has {bucket[0]}x{bucket[1]}: LPIPS ({lpips.net}) needs {lpips.trunk.smallest} or more"
            )
    return lpips.maps


def make_optimizer(train: config.Train, phases: Sequence[int] = ()) -> keras.optimizers.Optimizer:
    """The optimizer with the learning rate, decay, clipping and moments of the config.

    Args:
        train: the config's section.
        phases: the updates of each phase of the method, `MethodSettings.phase_lengths`, for `train.cycles` 0.
    """
    if train.cycles == 0:
        rate = CosinePhases(train.learning_rate, phases or (train.steps,))
    elif train.decay == "cosine" and train.cycles > 1:
        rate = keras.optimizers.schedules.CosineDecayRestarts(
            train.learning_rate, math.ceil(train.steps / train.cycles), t_mul=1.0
        )
    else:
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if train.warmup_steps else train.learning_rate,
            max(train.steps - train.warmup_steps, 1),
            alpha=0.0 if train.decay == "cosine" else 1.0,  # the share of the peak that it ends at
            warmup_target=train.learning_rate if train.warmup_steps else None,
            warmup_steps=train.warmup_steps,
        )
    options = {"weight_decay": train.weight_decay or None, "global_clipnorm": train.clip_norm, "moments": train.moments}
    return OPTIMIZERS[train.optimizer](rate, **options)


def load_source(experiment: config.Experiment, split: str | None) -> data.Source:
    """The source of an experiment: a split, "train" or "heldout"; None: everything.

    For encoded examples it is the source that they were made from.

    Raises:
        UserError: see `data.load_source`.
    """
    name = experiment.data.source
    options = {key: getattr(experiment.data, key) for key in ("seed", "max_unreadable", "heldout_fraction")}
    if is_cache(name):
        made_from = read_meta(name)["data"]
        name = made_from["source"]
        options["heldout_fraction"] = made_from.get("heldout_fraction", options["heldout_fraction"])
    return data.load_source(name, split, build_task(experiment), **options)


def takes_prompts(experiment: config.Experiment) -> bool:
    """Whether the examples' prompts are used."""
    task = build_task(experiment)
    return experiment.data.prompts or (task is not None and task.prompted)


def tokenizer_of(experiment: config.Experiment, base: Base) -> Tokenizer | None:
    """Prompts -> tokens, where prompts are used. Raises UserError for a base without a text encoder."""
    if not takes_prompts(experiment):
        return None
    if base.text_encoder is None or base.tokenizer is None:
        new = "method.text_encoder" if experiment.task is None else "text to a folder with text_encoder/ and tokenizer/"
        raise UserError(
            f"base is {experiment.base}: it has no text encoder, which these examples' prompts need; set {new}, or "
            "name another base"
        )
    return base.tokenizer


def class_keys(experiment: config.Experiment, base: Base, source: data.Source) -> tuple[str, ...]:
    """("class",) where the examples' classes are used, else (). Raises UserError, see `check_classes`."""
    if not experiment.data.classes:
        return ()
    check_classes(experiment, base, getattr(source, "num_classes", 0))
    return ("class",)


def check_classes(experiment: config.Experiment, base: Base, count: int) -> None:
    """Raises UserError for a base without classes, or with fewer than the examples have."""
    if not base.num_classes or base.num_classes < count:
        has = f"has {base.num_classes} classes, the examples have {count}" if base.num_classes else "has no classes"
        wanted = count + 1 if count else "one more than there are classes"
        raise UserError(
            f"data.classes is true, but the UNet {has}: set method.network.num_class_embeds to {wanted}, for these and "
            "the null class, or name another base"
        )


def check_batch(train: config.Train, replicas: int) -> None:
    """Raises UserError where the global batch cannot be divided evenly."""
    parts = replicas * train.accumulate
    if train.batch_size % parts:
        raise UserError(
            f"train.batch_size is {train.batch_size}: {replicas} replicas with {train.accumulate} micro-batches each "
            f"need a multiple of {parts}"
        )


def distributed_batches(
    experiment: config.Experiment,
    trainer: Trainer,
    strategy,
    start_step: int,
    *,
    source=None,
    image_size: Size | None = None,
):
    """The batches for `loop.make_loop`: every host reads its share of each, and every replica gets its own.

    Args:
        experiment, trainer, start_step, source, image_size: see `build_dataset`.
        strategy: a `tf.distribute.Strategy` whose replicas the batch can be divided among, see `check_batch`.

    Raises:
        UserError: see `build_dataset`.
    """
    size = experiment.train.batch_size

    def of_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
        shard = (context.input_pipeline_id, context.num_input_pipelines)
        dataset = build_dataset(experiment, trainer, start_step, source=source, shard=shard, image_size=image_size)
        if (own := context.get_per_replica_batch_size(size)) * shard[1] != size:
            dataset = dataset.rebatch(own, drop_remainder=True).prefetch(2)
        # Without this, several workers ask each other before every batch whether all still have one.
        return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))

    return strategy.distribute_datasets_from_function(of_host)


def build_dataset(
    experiment: config.Experiment,
    trainer: Trainer,
    start_step: int,
    *,
    source: data.Source | None = None,
    shard: tuple[int, int] = data.ONE_HOST,
    image_size: Size | None = None,
) -> tf.data.Dataset:
    """Batches from update `start_step` on: of images, or of latents where they are encoded once.

    `source` is that of `load_source`, split "train", for callers that need it afterwards; or a bucket's part of it.
    `shard`, (i, n), is for host i of n, whose batches are the n-th part of the global ones. `image_size` is that of a
    bucket; None: the config's.

    Raises:
        UserError: the source cannot be read or lacks what is needed; encoded examples of other settings.
    """
    make = _maker(experiment, trainer, source, shard, image_size)
    address = experiment.distribution.data_service
    if address is None:
        return make(start_step=start_step)
    return served_batches(lambda step: make(start_step=step, count=1), start_step, address, experiment.data.source)


def _maker(
    experiment: config.Experiment,
    trainer: Trainer,
    source: data.Source | None,
    shard: tuple[int, int],
    image_size: Size | None,
) -> Callable[..., tf.data.Dataset]:
    """A function of `start_step` and `count` that makes the batches of a run, see `build_dataset`."""
    settings, train = experiment.data, experiment.train
    share = experiment.method.drop_prompt
    if share and not (takes_prompts(experiment) or settings.classes):
        raise UserError(f"method.drop_prompt is {share}, but no prompts are used: set data.prompts=true, or make it 0")
    by_prompt = experiment.method.guided == "prompt" and experiment.method.guidance_range not in (None, [1.0, 1.0])
    if by_prompt and not takes_prompts(experiment):
        raise UserError("method.guided is prompt, but no prompts are used: set data.prompts=true")
    batch = {"batch_size": train.batch_size // shard[1], "shard": shard}
    if is_cache(settings.source):
        return _cached(experiment, trainer, batch)
    source, task = source or load_source(experiment, "train"), build_task(experiment)
    shared = {key: getattr(settings, key) for key in ("seed", "augment", "recolor")}
    shared["image_size"] = image_size or settings.image_size
    if experiment.method.examples == "images":
        keys = (*experiment.method.needs, *data.counted_keys(source))
        return functools.partial(data.batches, source, task, keys=keys, **batch, **shared)
    shared["tokenizer"] = tokenizer_of(experiment, trainer.method.base)
    shared["keys"] = class_keys(experiment, trainer.method.base, source)
    if not settings.encode_once:
        shared["keys"] += data.counted_keys(source, shared["tokenizer"])
        return functools.partial(data.batches, source, task, **batch, **shared)
    if settings.encode_once < train.batch_size:
        raise UserError(f"data.encode_once is {settings.encode_once}: it must be at least train.batch_size")
    count, progress = settings.encode_once, Progress("encoding examples", settings.encode_once)
    shared["keys"] += data.counted_keys(source)
    images, counts = data.batches(source, task, batch_size=32, **shared), Counts([source])
    base, student = trainer.method.base, trainer.student
    encode = functools.partial(encode_condition, base, student)
    latents = encode_once(base, images, count, progress.update, encode_condition=encode, counts=counts)
    counts.warn_of_replaced()
    latents, contexts = (latents, None) if experiment.method.trains_text else embed_once(base, latents)
    return functools.partial(latent_batches, latents, seed=settings.seed, contexts=contexts, **batch)


def _cached(experiment: config.Experiment, trainer: Trainer, batch: dict) -> Callable[..., tf.data.Dataset]:
    """A maker of batches of the examples that `python -m codi_tf.cache` encoded."""
    settings = experiment.data
    if experiment.method.examples == "images":
        raise UserError(
            f"data.source is {settings.source}: method {experiment.method_name} is trained on images, not on latents"
        )
    base, task = trainer.method.base, build_task(experiment)
    tokenizer, condition_space = tokenizer_of(experiment, base), trainer.student.condition_space
    wanted = made_with(
        base, task=task, image_size=settings.image_size, condition_space=condition_space, tokenizer=tokenizer
    )
    check_made_with(settings.source, wanted)
    examples = read_cache(settings.source, near=not experiment.distribution.feeds_elsewhere)
    if tokenizer is None:
        examples.pop("tokens", None)
    elif "tokens" not in examples:
        raise UserError(f"{settings.source}: was encoded without prompts; encode it with data.prompts=true")
    if not settings.classes:
        examples.pop("class", None)
    elif "class" not in examples:
        raise UserError(f"{settings.source}: was encoded without classes; encode it with data.classes=true")
    else:
        check_classes(experiment, base, int(np.max(examples["class"])) + 1)
    examples, contexts = (examples, None) if experiment.method.trains_text else embed_once(base, examples)
    return functools.partial(cached_batches, examples, seed=settings.seed, contexts=contexts, **batch)


def result_kind(experiment: config.Experiment) -> Kind:
    """What the result of an experiment is: a bundle where there is a task."""
    return RESULTS if experiment.task is None else BUNDLES


def save_result(experiment: config.Experiment, trainer: Trainer, folder: Path, provenance: dict) -> None:
    """Write the result: a bundle where there is a task, else what the method makes (`Method.save`).

    `provenance`, plain data, is in the bundle's codi.json, or in provenance.json.

    Raises:
        UserError: see `CoDi.save`, `Method.save` and `whole_folder`.
    """
    if isinstance(trainer, CoDi):
        trainer.save(folder, provenance=provenance)
        return

    def first_batch() -> Any:
        return next(iter(_maker(experiment, trainer, None, data.ONE_HOST, None)(start_step=0)))

    with whole_folder(folder, result_kind(experiment)) as partial:
        trainer.method.save(trainer.average, partial, first_batch)
        write_json(partial / PROVENANCE, provenance)
