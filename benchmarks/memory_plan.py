"""python -m benchmarks.memory_plan CONFIG [section.key=value ...]: the bytes that a training holds, and none is made.

The base of the config needs only its JSON files. The trainer is built in a TensorFlow graph that never runs, so every
variable has its shape and format, and none has memory: what is counted is what `codi train` makes. Activations, and
what a library reserves for itself, come on top; `python -m benchmarks.recipes --pixels 512` measures them. The last
lines say what cards of several sizes leave for these.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path

from codi_tf import config
from codi_tf.core.arguments import path_argument
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.core.errors import UserError

CARDS = (16, 24, 40, 80)  # GiB
OF_BASES = ("compress", "guided")  # methods that distill a base without a task


def planned(experiment: config.Experiment) -> dict[str, int]:
    """The bytes on each device, by what they are for.

    "frozen" and "trained" are weights, "teacher" is a network that a method compares with, "averages" are theta- and
    the result, "gradients" are those of an update (twice with micro-batches, whose sum is kept beside), "moments" are
    the optimizer's.

    Args:
        experiment: a training with a task, or one that distills a base. Its base is a folder in the diffusers layout,
            of which the JSON files are read; a bundle counts as its base with a new adapter.

    Raises:
        UserError: a training of another kind, the base is no such folder, or the experiment cannot be built.
    """
    import tensorflow as tf

    from codi_tf.training.experiment import make_optimizer

    train = experiment.train
    if experiment.task is None and experiment.method_name not in OF_BASES:
        raise UserError(f"method {experiment.method_name} has no task: the plan is for adapted or distilled networks")
    with tf.Graph().as_default():
        model = _model(experiment)
        model.compile(make_optimizer(train, experiment.method.phase_lengths(train.steps)))
        base = model.method.base
        trained = _by_id(model.trainable_variables)
        averages = _by_id(v for part in (model.target, model.average) if part is not None for v in part.variables)
        teachers = (model.teacher, getattr(model.method, "frozen", None))
        teacher = _by_id(v for part in teachers if part is not None for v in part.variables)
        parts = (model.student, base.unet, base.vae, base.text_encoder)
        frozen = _by_id(v for part in parts if part is not None for v in part.variables)
        averages = {key: v for key, v in averages.items() if key not in trained and key not in frozen}
        teacher = {key: v for key, v in teacher.items() if not any(key in of for of in (trained, frozen, averages))}
        frozen = {key: v for key, v in frozen.items() if key not in trained}
        return {
            "frozen": _bytes(frozen.values()),
            "trained": _bytes(trained.values()),
            "teacher": _bytes(teacher.values()),
            "averages": _bytes(averages.values()),
            "gradients": _bytes(trained.values()) * (2 if train.accumulate > 1 else 1),
            "moments": _bytes(v for v in model.optimizer.variables if v.shape),
        }


def _model(experiment: config.Experiment):
    """The trainer of an experiment, in a graph."""
    from codi_tf.adapters import ADAPTERS
    from codi_tf.adapters.adapted import AdaptedUNet
    from codi_tf.checkpoints.skeleton import read_skeleton
    from codi_tf.core.precision import built_in, make_policy
    from codi_tf.io.bundle_files import model_at
    from codi_tf.model import CoDi
    from codi_tf.trainers.trainer import Trainer
    from codi_tf.training.experiment import build_task

    task = build_task(experiment)
    adaptation, memory, train = experiment.adaptation, experiment.memory, experiment.train
    folder = model_at(Path(str(experiment.base)))
    if not (folder / "unet").is_dir():
        raise UserError(f"base is {experiment.base}: name a folder in the diffusers layout; its JSON files are enough")
    with built_in(make_policy(memory.compute, memory.frozen_weights)):
        base = read_skeleton(folder)
        for part in (base.unet, base.vae, base.text_encoder):
            if part is not None:
                part.build()
    shared = {name: getattr(train, name) for name in ("ema_decay", "result_decay", "accumulate")}
    if task is None:
        with built_in(make_policy(memory.compute)):
            return Trainer(experiment.method.build(base, AdaptedUNet(base.unet)), **shared)
    adapter = adaptation.adapter
    if experiment.method.starts_from:
        adapter = ADAPTERS[adapter].for_base(base, task.condition_channels)
    options = {"method": experiment.method, "task": task, "pretrained": adaptation.pretrained, "copy": False}
    options |= {"lora": adaptation.lora, "image_size": experiment.data.image_size}
    return CoDi(base, adapter, adaptation.train, **shared, **options)


def _by_id(variables: Iterable) -> dict:
    return {id(variable): variable for variable in variables}


def _bytes(variables: Iterable) -> int:
    sizes = {"float32": 4, "bfloat16": 2, "float16": 2}
    return sum(sizes[variable.dtype] * math.prod(variable.shape) for variable in variables if variable.dtype in sizes)


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.memory_plan", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("config", type=path_argument, help="a config with a task, or that distills a base")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="replacements in the config")
    options = parser.parse_args(arguments)
    experiment = config.load(options.config, options.overrides)
    start_tensorflow()
    found = planned(experiment)
    whole = sum(found.values())
    for name, size in {**found, "in all": whole}.items():
        print(f"{name:<10}{size / 2**30:>8.2f} GiB")
    for card in CARDS:
        left = card - whole / 2**30
        print(f"of {card:<7}{left:>8.2f} GiB are left" if left > 0 else f"of {card:<7}it does not fit")


if __name__ == "__main__":
    sys.exit(run_command(_main))
