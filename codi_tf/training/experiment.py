"""From a config to the trainer that it describes, its data and its result on disk."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path

import keras
import tensorflow as tf

from codi_tf import config, data
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base, make_autoencoder, measure_scale
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.tiny_decoder import save_decoder
from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.core.errors import UserError
from codi_tf.core.progress import Progress
from codi_tf.data.cached import cached_batches, check_made_with, is_cache, made_with, read_cache, read_meta
from codi_tf.data.precompute import embed_once, encode_once, latent_batches
from codi_tf.evaluation.features import load_features
from codi_tf.evaluation.perception.lpips import load_lpips
from codi_tf.io.files import whole_folder
from codi_tf.methods.autoencoder import AutoencoderMethod
from codi_tf.methods.decoder import DecoderMethod
from codi_tf.methods.finetune import FinetuneMethod
from codi_tf.methods.guided import HalvingMethod
from codi_tf.methods.networks import encode_condition
from codi_tf.model import CoDi
from codi_tf.tasks import Task, make_task
from codi_tf.trainers.optimizers import FusedAdamW
from codi_tf.trainers.trainer import Trainer
from codi_tf.training.initialization import adapted, alone, to_decode, to_pretrain


def build_task(experiment: config.Experiment) -> Task | None:
    """The task of an experiment, None where there is no condition."""
    if experiment.task is None:
        return None
    options = dict(experiment.task)
    if "name" not in options:
        raise UserError("task.name is not set, for example {name: super_resolution}")
    return make_task(options.pop("name"), **options)


def build_trainer(experiment: config.Experiment) -> Trainer:
    """The compiled trainer of an experiment, with fresh or pre-trained weights."""
    method, train, adaptation, memory = experiment.method, experiment.train, experiment.adaptation, experiment.memory
    task = build_task(experiment)
    keras.utils.set_random_seed(train.seed)
    shared = {"ema_decay": train.ema_decay, "seed": train.seed, "accumulate": train.accumulate}
    if isinstance(method, config.Autoencoder):
        student = make_autoencoder(method.network)
        trainer = Trainer(AutoencoderMethod(method, student), **shared)
    elif isinstance(method, config.Decoder):
        base, student = to_decode(experiment.base, method)
        trainer = Trainer(DecoderMethod(method, base, student, _perceptual(experiment)), **shared)
    elif isinstance(method, config.Pretrain):
        base = to_pretrain(experiment.base, method)
        runs = FinetuneMethod(method, base, AdaptedUNet(base.unet, name="student"))
        trainer = Trainer(runs, **shared)
    elif task is None:  # guided distillation of a base alone
        base = alone(experiment.base)
        runs = HalvingMethod(method, base, AdaptedUNet(base.unet, name="student"))
        trainer = Trainer(runs, **shared)
    else:
        base, adapter = adapted(experiment, task)
        trainer = CoDi(
            base,
            adapter,
            adaptation.train,
            method=method,
            task=task,
            mu_rate=adaptation.mu_rate,
            scaled=memory.compute == "float16",
            **shared,
            image_size=experiment.data.image_size,
            perceptual=_perceptual(experiment),
            pretrained=adaptation.pretrained,
        )
        trainer.student.recompute_blocks(memory.recompute)
    size = experiment.data.image_size
    multiple = student.factor if isinstance(method, config.Autoencoder) else trainer.method.base.multiple
    if size % multiple:
        raise UserError(f"data.image_size is {size}: for these networks it must be a multiple of {multiple}")
    trainer.compile(optimizer=make_optimizer(train))
    return trainer


def _perceptual(experiment: config.Experiment):
    """The feature network of a method, images -> maps, if it has one: of a folder, or LPIPS from a file."""
    named, size = getattr(experiment.method, "features", None), experiment.data.image_size
    if named is None:
        return None
    if Path(named).suffix != ".safetensors":
        return load_features(Path(named)).maps
    lpips = load_lpips(named)
    if size < lpips.trunk.smallest:
        raise UserError(f"data.image_size is {size}: LPIPS ({lpips.net}) needs {lpips.trunk.smallest} or more")
    return lpips.maps


def make_optimizer(train: config.Train) -> keras.optimizers.Optimizer:
    """AdamW with the schedule of the config."""
    if train.decay == "cosine" and train.cycles > 1:
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
    return FusedAdamW(rate, weight_decay=train.weight_decay or None, global_clipnorm=train.clip_norm)


def load_source(experiment: config.Experiment, split: str | None) -> data.Source:
    """The source of an experiment: of a split, "train" or "heldout"; None: all that is there.

    Of examples that were encoded beforehand it is what they were made of.
    """
    name = experiment.data.source
    options = {key: getattr(experiment.data, key) for key in ("seed", "max_unreadable", "heldout_fraction")}
    if is_cache(name):
        made_from = read_meta(name)["data"]
        name = made_from["source"]
        options["heldout_fraction"] = made_from.get("heldout_fraction", options["heldout_fraction"])
    return data.load_source(name, split, build_task(experiment), **options)


def takes_prompts(experiment: config.Experiment) -> bool:
    """Whether the examples' texts are used."""
    task = build_task(experiment)
    return experiment.data.prompts or (task is not None and task.prompted)


def tokenizer_of(experiment: config.Experiment, base: Base) -> Tokenizer | None:
    """Texts -> tokens, where texts are used. Raises UserError for a base that has no use for them."""
    if not takes_prompts(experiment):
        return None
    if base.text_encoder is None or base.tokenizer is None:
        raise UserError(
            f"base is {experiment.base}: it has no text encoder, and these examples come with texts; set text to a "
            "folder with text_encoder/ and tokenizer/, or name another base"
        )
    return base.tokenizer


def check_batch(train: config.Train, replicas: int) -> None:
    """Whether the global batch can be divided. Raises UserError where it cannot."""
    parts = replicas * train.accumulate
    if train.batch_size % parts:
        raise UserError(
            f"train.batch_size is {train.batch_size}: {replicas} replicas with {train.accumulate} micro-batches each "
            f"need a multiple of {parts}"
        )


def distributed_batches(experiment: config.Experiment, trainer: Trainer, strategy, start_step: int, *, source=None):
    """The iterable of batches that `loop.make_loop` takes: every host reads its own share, every replica its own.

    Args:
        experiment, trainer, start_step, source: see `build_dataset`.
        strategy: a `tf.distribute.Strategy` whose replicas the batch can be divided among, see `check_batch`.
    """
    size = experiment.train.batch_size

    def of_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
        shard = (context.input_pipeline_id, context.num_input_pipelines)
        dataset = build_dataset(experiment, trainer, start_step, source=source, shard=shard)
        own = context.get_per_replica_batch_size(size)
        return dataset if own * shard[1] == size else dataset.rebatch(own, drop_remainder=True).prefetch(2)

    return strategy.distribute_datasets_from_function(of_host)


def build_dataset(
    experiment: config.Experiment,
    trainer: Trainer,
    start_step: int,
    *,
    source: data.Source | None = None,
    shard: tuple[int, int] = data.ONE_HOST,
) -> tf.data.Dataset:
    """Batches from step `start_step` on: of images, or of latents where they are encoded once.

    `source` is that of `load_source`, split "train", where the caller wants to ask it something afterwards. `shard`,
    (i, n), is for host i of n, whose batches are the n-th part of the global ones.
    """
    settings, train = experiment.data, experiment.train
    if getattr(experiment.method, "drop_prompt", 0.0) and not takes_prompts(experiment):
        share = experiment.method.drop_prompt
        raise UserError(f"method.drop_prompt is {share}, but no prompts are used: set data.prompts=true, or make it 0")
    batch = {"batch_size": train.batch_size // shard[1], "shard": shard, "start_step": start_step}
    if is_cache(settings.source):
        return _cached(experiment, trainer, batch)
    source, task = source or load_source(experiment, "train"), build_task(experiment)
    shared = {key: getattr(settings, key) for key in ("image_size", "seed", "augment", "recolor")}
    if isinstance(experiment.method, config.OF_IMAGES):
        return data.batches(source, task, **batch, **shared)
    shared["tokenizer"] = tokenizer_of(experiment, trainer.method.base)
    if not settings.encode_once:
        return data.batches(source, task, **batch, **shared)
    if settings.encode_once < train.batch_size:
        raise UserError(f"data.encode_once is {settings.encode_once}: it must be at least train.batch_size")
    count, progress = settings.encode_once, Progress("encoding examples", settings.encode_once)
    images = data.batches(source, task, batch_size=32, **shared)
    base, student = trainer.method.base, trainer.student
    latents = encode_once(
        base, images, count, progress.update, encode_condition=functools.partial(encode_condition, base, student)
    )
    latents, contexts = embed_once(base, latents)
    return latent_batches(latents, seed=settings.seed, contexts=contexts, **batch)


def _cached(experiment: config.Experiment, trainer: Trainer, batch: dict) -> tf.data.Dataset:
    """Batches of what `python -m codi_tf.cache` encoded."""
    settings = experiment.data
    if isinstance(experiment.method, config.OF_IMAGES):
        raise UserError(
            f"data.source is {settings.source}: method {experiment.method_name} is trained on images, not on latents"
        )
    base, task = trainer.method.base, build_task(experiment)
    tokenizer, condition_space = tokenizer_of(experiment, base), trainer.student.condition_space
    wanted = made_with(
        base, task=task, image_size=settings.image_size, condition_space=condition_space, tokenizer=tokenizer
    )
    check_made_with(settings.source, wanted)
    examples = read_cache(settings.source)
    if tokenizer is None:
        examples.pop("tokens", None)
    elif "tokens" not in examples:
        raise UserError(f"{settings.source}: was encoded without texts; encode it with data.prompts=true")
    examples, contexts = embed_once(base, examples)
    return cached_batches(examples, seed=settings.seed, contexts=contexts, **batch)


def save_result(experiment: config.Experiment, trainer: Trainer, folder: Path, provenance: dict) -> None:
    """Write what was trained: a bundle, a base in the diffusers layout, or a small decoder."""
    if isinstance(trainer, CoDi):
        trainer.save(folder, provenance=provenance)
        return
    with whole_folder(folder) as partial:
        if isinstance(experiment.method, config.Decoder):
            save_decoder(trainer.average, partial)
            return
        if isinstance(experiment.method, config.Autoencoder):
            vae = trainer.average
            sample = next(iter(build_dataset(experiment, trainer, 0)))["image"]
            vae.scaling_factor = measure_scale(vae, sample)
            base = Base(None, vae, {"beta_schedule": "squaredcos_cap_v2"})
        else:
            base = dataclasses.replace(trainer.method.base, unet=trainer.average.unet)
        save_base(base, partial)
