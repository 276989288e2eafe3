"""The demo's training at its true sizes on random latents, for several benchmarks."""

from __future__ import annotations

from pathlib import Path

from codi_tf import config

CONFIG = Path(__file__).parents[1] / "configs" / "photos_codi.yaml"


def trainer_and_batch() -> tuple:
    """(the demo's config, its compiled trainer, a batch of random latents)."""
    import tensorflow as tf

    from codi_tf.training.experiment import build_trainer

    settings = config.load(CONFIG)
    trainer, size = build_trainer(settings), settings.data.image_size
    shape = trainer.latent_shape(settings.train.batch_size, size, size)
    batch = {name: tf.random.stateless_normal(shape, (0, i)) for i, name in enumerate(("latent", "condition_latent"))}
    return settings, trainer, batch
