"""A program for test_replicas.py: steps on one device and on two halves of it; prints what it saw as JSON.

It divides the processor, which must happen before TensorFlow starts: hence a process of its own.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import tensorflow as tf

processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)

import numpy as np  # noqa: E402
from conftest import make_model  # noqa: E402
from small_runs import experiment, make_start  # noqa: E402
from tiny import tiny_base  # noqa: E402

from codi_tf.core.replicas import Compiled  # noqa: E402
from codi_tf.core.replicas import index as replica_index  # noqa: E402
from codi_tf.data.pipeline import REPLACED  # noqa: E402
from codi_tf.data.precompute import encoder, encoder_on_each  # noqa: E402
from codi_tf.io.images import write_png  # noqa: E402
from codi_tf.methods.codi import ConditionalDistillation  # noqa: E402
from codi_tf.methods.finetune import Finetune  # noqa: E402
from codi_tf.methods.guided import Guided  # noqa: E402
from codi_tf.trainers.optimizers import FusedAdamW  # noqa: E402
from codi_tf.training.experiment import build_trainer, load_source  # noqa: E402
from codi_tf.training.feed import open_feed  # noqa: E402
from codi_tf.training.loop import STOP, make_loop  # noqa: E402
from codi_tf.training.quality import Quality  # noqa: E402

METHODS = {
    "codi": ConditionalDistillation(delta=30, drop_prompt=0.5),
    "finetune": Finetune(drop_condition=0.5),
    "halving": Guided(stage=2, steps=[4, 2], updates=2),
}
# Case -> method, and how its steps are run on two replicas.
CASES = {
    "codi": ("codi", {}),
    "codi, accumulated, two steps in a call": ("codi", {"accumulate": 2, "in_a_call": 2}),
    "finetune": ("finetune", {}),
    "halving": ("halving", {}),
}
BATCH, STEPS = 8, 4


def examples(steps: int) -> dict:
    random = np.random.default_rng(0)
    shape = (BATCH * steps, 4, 4, 4)
    values = {name: random.normal(size=shape).astype("float32") for name in ("latent", "condition_latent")}
    return values | {REPLACED: np.arange(len(values["latent"]), dtype="int32") % 3}


def batches(strategy, values: dict):
    """The iterator of a strategy over examples."""

    def of_host(context):
        own = BATCH if context is None else context.get_per_replica_batch_size(BATCH)
        return tf.data.Dataset.from_tensor_slices(values).batch(own, drop_remainder=True)

    return iter(strategy.distribute_datasets_from_function(of_host))


def trained(strategy, method, *, accumulate=1, in_a_call=1):
    """(trainer, its loop, logs) after the steps."""
    with strategy.scope():
        if isinstance(method, Guided):
            tuned = make_model(tiny_base(), method=Finetune())
            model = type(tuned)(tuned.base, tuned.student.adapter, method=method, image_size=16, accumulate=accumulate)
        else:
            model = make_model(tiny_base(), method=method, accumulate=accumulate)
        model.compile(FusedAdamW(1e-3, weight_decay=0.1, global_clipnorm=0.1))

    iterator, run, logs = batches(strategy, examples(STEPS)), make_loop(model, strategy), []
    for _ in range(STEPS // in_a_call):
        sums = run(iterator, tf.constant(in_a_call), tf.constant(0))
        shown = (*model.log_names, REPLACED)
        logs.append({name: float(value) / in_a_call for name, value in sums.items() if name in shown})
    return model, run, logs


def averages(model) -> list:
    """The variables of theta-, where there is one, and of the network that generates."""
    return [*(() if model.target is None else model.target.variables), *model.average.variables]


def furthest(a, b) -> float:
    return max(float(np.abs(x.numpy() - y.numpy()).max()) for x, y in zip(a, b, strict=True))


def copies_differ(model) -> int:
    """How many variables have different copies on the two replicas."""
    differ = 0
    for variable in (*model.variables, *model.optimizer.variables):
        copies = [np.asarray(copy) for copy in getattr(variable.value, "values", ())]
        differ += any(not np.array_equal(copies[0], copy) for copy in copies[1:])
    return differ


def poisoned(strategy, model, run) -> dict:
    """What a step changes where one replica alone sees a number that is not finite."""
    variables = (*model.student.variables, *averages(model), *model.optimizer.variables)
    before = [variable.numpy() for variable in variables]
    values = examples(1)
    values["latent"][-1, 0, 0, 0] = np.nan
    sums = run(batches(strategy, values), tf.constant(1), tf.constant(1))
    return {
        "stop": float(sums[STOP]),
        "changed": sum(not np.array_equal(old, v.numpy()) for old, v in zip(before, variables, strict=True)),
        "skipped": float(sums["skipped"]),
        "in a row": int(model.skipped_in_row.numpy()),
        "copies": copies_differ(model),
    }


def compare(one, logs_of_one, strategy, method, options: dict) -> dict:
    two, run, logs_of_two = trained(strategy, method, **options)
    start = make_model(tiny_base())
    return {
        "logs of one": logs_of_one,
        "logs of two": logs_of_two,
        "weights": furthest(one.student.variables, two.student.variables),
        "average": furthest(averages(one), averages(two)),
        "moved": furthest(one.student.unet.variables, start.student.unet.variables),
        "copies": copies_differ(two),
        "iterations": int(two.optimizer.iterations.numpy()),
        "poisoned": poisoned(strategy, two, run),
        "traced": run.experimental_get_tracing_count(),  # once, whatever the number of steps in a call
    }


def on_buckets(strategy, start: Path) -> tuple:
    """(trainer, shapes of a replica's images, logs, traces) after updates on images of two shapes."""
    changes = {"data__buckets": [[16, 32], [32, 16]], "train__batch_size": 4, "train__steps": 6}
    run = experiment(start, method={"name": "finetune"}, **changes)
    with strategy.scope():
        trainer = build_trainer(run)
    feed = open_feed(run, trainer, strategy, 0, source=load_source(run, "train"))
    loop, logs, shapes, step = make_loop(trainer, strategy), [], [], 0
    while step < 6:
        iterator, count = feed.at(step, 2)
        sums = loop(iterator, tf.constant(count), tf.constant(0))
        logs.append(float(sums["loss"]))
        shapes.append([count, *tf.nest.flatten(iterator.element_spec["image"], expand_composites=True)[0].shape])
        step += count
    return trainer, shapes, logs, loop.experimental_get_tracing_count()


def compare_buckets(halves) -> dict:
    """Updates on buckets, on one device and on two: the distance of their weights, and what each of them saw."""
    with tempfile.TemporaryDirectory() as folder:
        start = make_start(Path(folder))
        random = np.random.default_rng(1)
        for i in range(24):
            size = (20, 36) if i % 2 else (36, 20)
            write_png(start.with_name("photos") / f"{i}.png", random.integers(0, 256, (*size, 3), "uint8"))
        ends = [on_buckets(strategy, start) for strategy in (tf.distribute.get_strategy(), halves)]
    (one, *of_one), (two, *of_two) = ends
    return {
        "one": of_one,
        "two": of_two,
        "weights": furthest(one.student.variables, two.student.variables),
        "copies": copies_differ(two),
    }


def probes(strategy) -> dict:
    """What a run measures and shows: by one replica alone, and in the strategy's scope, where both compute."""
    with strategy.scope():
        model = make_model(tiny_base())
    random, replicas = np.random.default_rng(1), []
    heldout = {name: random.uniform(-1, 1, (3, 16, 16, 3)).astype("float32") for name in ("image", "condition")}

    def figures() -> dict:
        latent, c = model.base.encode(heldout["image"]), model.encode_condition(heldout["condition"])
        return {**Quality(model, heldout).figures(), "condition_use": float(model.condition_use(latent, c))}

    def noted():
        replicas.append(replica_index())
        return tf.constant(1.0)

    one = figures()
    with strategy.scope():
        two = figures()
        Compiled(noted)()
    return {"one": one, "two": two, "replicas": len(replicas)}


def encoded(strategy) -> list[bool]:
    """Whether three batches that two replicas encode are, bit by bit, those that one encodes."""
    with strategy.scope():
        base = tiny_base()
    random = np.random.default_rng(2)
    given = [{"image": tf.constant(random.uniform(-1, 1, (2, 16, 16, 3)), tf.float32)} for _ in range(3)]
    encode = encoder_on_each(base, None, strategy)
    found, alone = [*encode(given[:2]), *encode(given[2:])], encoder(base, None)
    return [np.array_equal(a["latent"], alone(b)["latent"]) for a, b in zip(found, given, strict=True)]


if __name__ == "__main__":
    alone = {name: trained(tf.distribute.get_strategy(), method) for name, method in METHODS.items()}
    halves = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])  # one: a second one would count its sums anew
    found = {
        case: compare(*alone[name][::2], halves, METHODS[name], options) for case, (name, options) in CASES.items()
    }
    found["probes"], found["encoded"] = probes(halves), encoded(halves)
    print(json.dumps({**found, "buckets": compare_buckets(halves)}))
