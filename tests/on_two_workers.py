"""A program for test_replicas.py: one of several workers (TF_CONFIG) trains four steps; prints what it ended with.

As JSON, with the SHA-256 of all variables of model and optimizer before and after.
"""

from __future__ import annotations

import hashlib
import json

from codi_tf import config
from codi_tf.methods.finetune import Finetune  # noqa: E402
from codi_tf.training.distribution import make_strategy

strategy = make_strategy(config.Distribution(strategy="multiworker"))  # before TensorFlow does anything else

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from conftest import make_model  # noqa: E402
from tiny import tiny_base  # noqa: E402

from codi_tf.trainers.optimizers import FusedAdamW  # noqa: E402
from codi_tf.training.loop import STOP, make_loop  # noqa: E402

BATCH, CALLS = 4, (1, 3)  # examples a step and worker; steps of each call


def examples(worker: int) -> dict:
    random, shape = np.random.default_rng(worker), (BATCH * sum(CALLS), 4, 4, 4)
    return {name: random.normal(size=shape).astype("float32") for name in ("latent", "condition_latent")}


def digest(arrays) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def state(model) -> str:
    return digest(variable.numpy() for variable in (*model.variables, *model.optimizer.variables))


if __name__ == "__main__":
    with strategy.scope():
        model = make_model(tiny_base(), method=Finetune())
        model.compile(FusedAdamW(1e-3, weight_decay=0.1, global_clipnorm=0.1))
    found = {"data": digest(examples(strategy.cluster_resolver.task_id).values()), "start": state(model)}

    def of_host(host):
        return tf.data.Dataset.from_tensor_slices(examples(host.input_pipeline_id)).batch(BATCH, drop_remainder=True)

    iterator, run = iter(strategy.distribute_datasets_from_function(of_host)), make_loop(model, strategy)
    for count in CALLS:  # the second worker wants to stop
        sums = run(iterator, tf.constant(count), tf.constant(strategy.cluster_resolver.task_id))
    found |= {"end": state(model), "stop": float(sums[STOP]), "traced": run.experimental_get_tracing_count()}
    print(json.dumps(found))
