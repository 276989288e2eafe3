"""From a config to the trainer that it describes, its data and its result on disk."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from codi_tf import config, data
from codi_tf.adapters import Adapter, read_adapter
from codi_tf.base import Base, make_autoencoder, make_unet, measure_scale
from codi_tf.convert.checkpoint import load_stable_diffusion
from codi_tf.convert.folder import save_base
from codi_tf.errors import UserError
from codi_tf.features import load_features
from codi_tf.files import whole_folder
from codi_tf.latents import encode_once, latent_batches
from codi_tf.methods.autoencoder import AutoencoderMethod
from codi_tf.methods.finetune import FinetuneMethod
from codi_tf.methods.guided import HalvingMethod
from codi_tf.methods.networks import seen
from codi_tf.model import CoDi, is_bundle, load
from codi_tf.models.adapter import AdaptedUNet
from codi_tf.optimizers import FusedAdamW
from codi_tf.progress import Progress
from codi_tf.tasks import Task, make_task
from codi_tf.trainer import Trainer


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
    if isinstance(method, config.Autoencoder):
        student = make_autoencoder(method.network)
        trainer = Trainer(AutoencoderMethod(method, student), ema_decay=train.ema_decay, seed=train.seed)
    elif isinstance(method, config.Pretrain):
        source = load_stable_diffusion(experiment.base)
        unet = source.unet if method.network is None else make_unet(method.network)
        base = _with_unet(Base(unet, source.vae, {**source.scheduler, **method.scheduler}), experiment.base)
        runs = FinetuneMethod(method, base, AdaptedUNet(base.unet, name="student"))
        trainer = Trainer(runs, ema_decay=train.ema_decay, seed=train.seed)
    elif task is None:  # guided distillation of a base alone
        base = _with_unet(load_stable_diffusion(experiment.base), experiment.base)
        runs = HalvingMethod(method, base, AdaptedUNet(base.unet, name="student"))
        trainer = Trainer(runs, ema_decay=train.ema_decay, seed=train.seed)
    else:
        base, adapter = _start(experiment, task)
        trainer = CoDi(
            base,
            adapter,
            adaptation.train,
            method=method,
            task=task,
            ema_decay=train.ema_decay,
            mu_rate=adaptation.mu_rate,
            seed=train.seed,
            image_size=experiment.data.image_size,
            perceptual=_perceptual(method),
            pretrained=adaptation.pretrained,
        )
        trainer.student.recompute_blocks(memory.recompute)
    size = experiment.data.image_size
    multiple = student.factor if isinstance(method, config.Autoencoder) else trainer.method.base.multiple
    if size % multiple:
        raise UserError(f"data.image_size is {size}: for these networks it must be a multiple of {multiple}")
    trainer.compile(optimizer=make_optimizer(train))
    return trainer


def _start(experiment: config.Experiment, task: Task) -> tuple[Base, str | Adapter]:
    """The base of an experiment and its adapter: of the bundle in `base`, of `adaptation.start`, or a new one."""
    adaptation, memory = experiment.adaptation, experiment.memory
    formats = {"compute": memory.compute, "weights": memory.frozen_weights}
    if is_bundle(experiment.base):
        bundle = load(experiment.base, **formats)
        theirs = {"task": bundle.task, "adaptation.adapter": bundle.adaptation.adapter, "adaptation.start": None}
        ours = {"task": task, "adaptation.adapter": adaptation.adapter, "adaptation.start": adaptation.start}
        for key, value in theirs.items():
            if ours[key] != value:
                raise UserError(f"{key} is {ours[key]}, in the bundle {experiment.base} it is {value}: use the same")
        return bundle.base, bundle.student.adapter
    if isinstance(experiment.method, config.Consistency | config.Guided):
        raise UserError(f"base is {experiment.base}: method {experiment.method_name} starts from a fine-tuned bundle")
    base = load_stable_diffusion(experiment.base, **formats)
    if adaptation.start is None:
        return base, adaptation.adapter
    return base, read_adapter(adaptation.adapter, Path(adaptation.start), base, task.condition_channels)


def _with_unet(base: Base, path: str) -> Base:
    if base.unet is None:
        raise UserError(f"base is {path}: it has no UNet; name another one, or set method.network")
    return base


def _perceptual(method):
    folder = getattr(method, "features", None)
    return None if folder is None else load_features(Path(folder)).maps


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


def load_images(settings: config.Data, split: str) -> dict[str, np.ndarray]:
    """The photos of a split of an experiment's source."""
    return data.load_photos(split) if settings.source == "photos" else data.load_folder(settings.source, split)


def build_dataset(experiment: config.Experiment, trainer: Trainer, start_step: int) -> tf.data.Dataset:
    """Batches from step `start_step` on: of images, or of latents where they are encoded once."""
    settings, train = experiment.data, experiment.train
    photos, task = load_images(settings, "train"), build_task(experiment)
    shared = {key: getattr(settings, key) for key in ("image_size", "seed", "augment", "recolour")}
    if not settings.encode_once or isinstance(experiment.method, config.Autoencoder):
        return data.batches(photos, task, batch_size=train.batch_size, start_step=start_step, **shared)
    if settings.encode_once < train.batch_size:
        raise UserError(f"data.encode_once is {settings.encode_once}: it must be at least train.batch_size")
    count, progress = settings.encode_once, Progress("encoding examples", settings.encode_once)
    images = data.batches(photos, task, batch_size=32, **shared)
    base, student = trainer.method.base, trainer.student
    latents = encode_once(base, images, count, progress.update, see=functools.partial(seen, base, student))
    return latent_batches(latents, batch_size=train.batch_size, seed=settings.seed, start_step=start_step)


def save_result(experiment: config.Experiment, trainer: Trainer, folder: Path, provenance: dict) -> None:
    """Write what was trained: a bundle, or a base in the diffusers layout."""
    if isinstance(trainer, CoDi):
        trainer.save(folder, provenance=provenance)
        return
    with whole_folder(folder) as partial:
        if isinstance(experiment.method, config.Autoencoder):
            vae = trainer.average
            sample = next(iter(build_dataset(experiment, trainer, 0)))["image"]
            vae.scaling_factor = measure_scale(vae, sample)
            base = Base(None, vae, {"beta_schedule": "squaredcos_cap_v2"})
        else:
            base = Base(trainer.average.unet, trainer.method.base.vae, trainer.method.base.scheduler)
        save_base(base, partial)
