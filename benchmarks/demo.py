"""The training of a config at its true sizes on random latents, for several benchmarks. By default it is the demo's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codi_tf import config

CONFIG = Path(__file__).parents[1] / "configs" / "photos_codi.yaml"


def trainer_and_batch(path: str | Path = CONFIG, overrides: Sequence[str] = ()) -> tuple:
    """(the config, its compiled trainer, a batch of random latents, conditions and tokens as the config needs them)."""
    import tensorflow as tf

    from codi_tf.training.experiment import build_trainer, takes_prompts

    settings = config.load(path, overrides)
    trainer, size, count = build_trainer(settings), settings.data.image_size, settings.train.batch_size
    base = trainer.method.base
    side = size // base.vae.factor
    latent = (count, side, side, base.vae.latent_channels)
    shapes = {"latent": latent}
    if settings.task is not None:
        adapter, channels = trainer.student.adapter, trainer.task.condition_channels
        if adapter.condition_space == "image":
            shapes["condition"] = (count, size, size, channels)
        else:
            shapes["condition_latent"] = (*latent[:3], adapter.input_channels(base, channels))
    batch = {name: tf.random.stateless_normal(shape, (0, i)) for i, (name, shape) in enumerate(shapes.items())}
    if takes_prompts(settings):
        highest = base.text_encoder.vocab_size
        batch["tokens"] = tf.random.stateless_uniform((count, 77), (0, 2), 0, highest, tf.int32)
    return settings, trainer, batch
