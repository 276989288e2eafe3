"""A program for test_replicas.py: `fit` on one device and on two halves of it; prints what it saw as JSON."""

from __future__ import annotations

import json

import tensorflow as tf

processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)

import keras  # noqa: E402
import numpy as np  # noqa: E402
from conftest import make_model  # noqa: E402
from tiny import tiny_base  # noqa: E402

from codi_tf.core.errors import UserError  # noqa: E402
from codi_tf.trainers.optimizers import FusedAdamW  # noqa: E402

random = np.random.default_rng(0)
EXAMPLES = {name: random.normal(size=(10, 4, 4, 4)).astype("float32") for name in ("latent", "condition_latent")}


def batches(count: int, size: int = 4, **options):
    examples = {name: value[:count] for name, value in EXAMPLES.items()}
    return tf.data.Dataset.from_tensor_slices(examples).batch(size, **options)


def model(optimizer=FusedAdamW):
    made = make_model(tiny_base(), train="adapter")
    made.compile(optimizer(1e-3))
    return made


def line_of(call) -> str:
    try:
        call()
    except UserError as error:
        return str(error)
    return "nothing was refused"


def fitted(optimizer=FusedAdamW):
    made = model(optimizer)
    whole = {"drop_remainder": True}
    validation = batches(8, **whole)
    history = made.fit(batches(10, **whole), epochs=2, validation_data=validation, verbose=0).history
    return {name: list(map(float, values)) for name, values in history.items()}, made


if __name__ == "__main__":
    one, alone = fitted()
    halves = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    with halves.scope():
        two, both = fitted()
    found = {"one": one, "two": two}
    pairs = zip(alone.variables, both.variables, strict=True)
    found["furthest"] = max(float(np.abs(a.numpy() - b.numpy()).max()) for a, b in pairs)
    with halves.scope():
        keras_own = fitted(keras.optimizers.AdamW)[0]
        made = model()
        found["odd"] = line_of(lambda: made.fit(batches(10, 5, drop_remainder=True), verbose=0))
        found["partial"] = line_of(lambda: made.fit(batches(9), verbose=0))
        found["arrays"] = line_of(lambda: made.fit(EXAMPLES, batch_size=4, verbose=0))
        found["evaluation"] = line_of(lambda: made.evaluate(batches(9), verbose=0))
        found["updates"] = int(made.optimizer.iterations.numpy())
        found["clip"] = line_of(lambda: made.compile(keras.optimizers.AdamW(1e-3, clipnorm=1.0)))
    found["keras"] = keras_own
    found["scope"] = line_of(lambda: made.compile("adamw"))
    print(json.dumps(found))
