"""What `fit` and `evaluate` report: means over an epoch, that Keras resets, and a warning of skipped updates."""

from __future__ import annotations

import math
import warnings

import keras
import tensorflow as tf
from keras import ops

from codi_tf.core import replicas


class EpochMean(keras.metrics.Mean):
    """A mean over examples. Unlike Keras' it is NaN, not 0, as long as there are none: 0 would be the best loss."""

    def result(self):
        return ops.where(ops.greater(self.count, 0.0), super().result(), math.nan)


class Meters:
    """The means of a training: of the loss, its terms and the norm of the gradient, and the number of skipped updates.

    Keras resets them at the start of an epoch and of an evaluation. Examples count equally, whatever the size of their
    batch; updates that were skipped do not count.

    Args:
        terms: names of the loss's terms.
    """

    def __init__(self, terms: tuple[str, ...]):
        self.means = [EpochMean(name, dtype="float32") for name in ("loss", *terms, "gradient_norm")]
        self.skipped = keras.metrics.Sum("skipped", dtype="float32")

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Keras' metrics, by the names of the logs of `Trainer.train_step`."""
        return [*self.means, self.skipped]

    @property
    def seen(self):
        """The number of examples since the last reset, float32 []."""
        return self.means[0].count.value

    def record(self, logs: dict, examples) -> None:
        """Add the logs of an update on `examples` examples, those of this replica, inside a step."""
        skipped = logs["skipped"]
        weight = (1.0 - skipped) * tf.cast(examples, tf.float32)
        for mean in self.means:
            mean.update_state(tf.where(skipped > 0, 0.0, logs[mean.name]), sample_weight=weight)
        self.skipped.update_state(skipped / replicas.count())  # Keras adds up the replicas' sums

    def tested(self, logs: dict, examples) -> dict:
        """Add the losses of a batch of an evaluation; returns the means so far."""
        means = [mean for mean in self.means if mean.name in logs]
        for mean in means:
            mean.update_state(logs[mean.name], sample_weight=tf.cast(examples, tf.float32))
        return {mean.name: mean.result() for mean in means}


class SkippedUpdates(keras.callbacks.Callback):
    """Warns at the end of an epoch in which updates were skipped."""

    def on_epoch_end(self, epoch, logs=None):
        """One warning an epoch. Overflows of a scaled loss are no fault, unless its scale does not get over them."""
        skipped = round(float((logs or {}).get("skipped", 0)))
        if skipped and not (self.model.scaled and not int(self.model.skipped_in_row.numpy())):
            warnings.warn(
                f"epoch {epoch + 1}: {skipped} updates were skipped, their loss or gradient was not finite; lower the "
                "learning rate, or look for examples that are not finite",
                stacklevel=2,
            )
