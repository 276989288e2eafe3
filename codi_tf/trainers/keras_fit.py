"""`fit`, `evaluate` and similar methods: their arguments are checked, and a mistake is one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from codi_tf.core.errors import UserError, user_errors
from codi_tf.methods.batches import check_values
from codi_tf.trainers.first_batch import check_replicas, watched
from codi_tf.trainers.keras_options import check_fit
from codi_tf.trainers.meters import Meters, SkippedUpdates

GENERATE = "a training is no network to call: make images with generate(condition, steps=4)"


class KerasFit(keras.Model):
    """A Keras model whose batches are dictionaries, and whose losses need no targets."""

    meters: Meters | None = None

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The means that `fit` and `evaluate` report."""
        return [] if self.meters is None else self.meters.metrics

    def fit(self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks: Any = None, **options):
        """As in Keras: `x` gives batches as dictionaries, "image" and "condition" in [-1, 1].

        Reports the means of each epoch. Skipped updates do not count; a warning gives their number.

        Args:
            x: a tf.data.Dataset, a dictionary of arrays, a PyDataset or a generator.
            y: None.
            batch_size: of a dictionary of arrays.
            epochs, verbose, callbacks, options: as in Keras; no class_weight and no sample_weight. `validation_data` is
                like `x`; its losses are "val_loss" and those of the terms.

        Raises:
            UserError: an argument that has no meaning here, or batches that cannot be trained on.
        """
        weights = {name: options.pop(name, None) for name in ("class_weight", "sample_weight")}
        check_fit("fit", y=y, **weights)
        if options.get("validation_data") is not None:
            options["validation_data"] = self._data(_alone(options["validation_data"]))
        noted = SkippedUpdates()
        if isinstance(callbacks, keras.callbacks.CallbackList):
            noted.set_model(self)
            callbacks.callbacks.append(noted)
        else:
            given = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
            callbacks = [*(callback for callback in given if callback is not None), noted]
        options.setdefault("shuffle", isinstance(x, Mapping))  # of others Keras warns that it does not shuffle them
        with user_errors():
            return super().fit(self._data(x, batch_size), None, batch_size, epochs, verbose, callbacks, **options)

    def evaluate(self, x=None, y=None, batch_size=None, verbose="auto", sample_weight=None, **options):
        """As in Keras: the means of the loss and its terms over `x`, which is like that of `fit`.

        Raises:
            UserError: see `fit`.
        """
        check_fit("evaluate", y=y, sample_weight=sample_weight)
        with user_errors():
            data = x if options.get("_use_cached_eval_dataset") else self._data(x, batch_size)
            return super().evaluate(data, None, batch_size, verbose, None, **options)

    def _data(self, data: Any, batch_size: int | None = None) -> Any:
        check_replicas(data, self.distribute_strategy.num_replicas_in_sync)
        return watched(data, check_values, batch_size)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """As in Keras, one update on a batch, a dictionary. Raises UserError, see `fit`."""
        check_fit("train_on_batch", y=y, sample_weight=sample_weight, class_weight=class_weight)
        return super().train_on_batch(watched(x, check_values), return_dict=return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """As in Keras, the losses of a batch, a dictionary. Raises UserError, see `fit`."""
        check_fit("test_on_batch", y=y, sample_weight=sample_weight)
        return super().test_on_batch(watched(x, check_values), return_dict=return_dict)

    def predict(self, *args, **options):
        """Raises UserError: `generate` makes images."""
        raise UserError(f"predict: {GENERATE}")

    def predict_on_batch(self, *args, **options):
        """Raises UserError: `generate` makes images."""
        raise UserError(f"predict_on_batch: {GENERATE}")

    def __call__(self, *args, **options):
        """Raises UserError: `generate` makes images."""
        raise UserError(f"calling the model: {GENERATE}")


def _alone(data: Any) -> Any:
    """Validation data as Keras takes it, (x,) or x, as x. Raises UserError for targets or weights beside it."""
    if not isinstance(data, tuple | list):
        return data
    check_fit("fit", **dict(zip(("y", "sample_weight"), data[1:], strict=False)))
    return data[0] if data else None
