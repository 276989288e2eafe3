"""python -m benchmarks.recipes BASE [NAME ...]: one training step of every configs/sd15_*.yaml at 256 px.

BASE is a checkpoint of the true size, for example from `python -m benchmarks.make_checkpoint`. The embedded photos take
the place of the recipe's data; the adapter alone is trained, on a base in bfloat16, batch 1, because what the recipes
ask for does not fit into a small machine. Each recipe runs in a process of its own: seconds of the step after tracing,
peak of memory, loss and the gradient's norm.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

from codi_tf.cli import run_command, start_tensorflow
from codi_tf.errors import UserError

CONFIGS = Path("configs")
SMALL = (
    "data.source=photos",
    "data.image_size=256",
    "data.prompts=false",  # the embedded photos have none; instructions are part of their task
    "adaptation.train=adapter",
    "memory.frozen_weights=bfloat16",
    "train.batch_size=1",
    "train.steps=2",
    "train.warmup_steps=0",
)


def step(name: str, base: str) -> dict:
    """Two steps of a recipe: the figures of the second."""
    start_tensorflow()
    import tensorflow as tf

    from codi_tf import config
    from codi_tf.experiment import build_dataset, build_trainer

    told = config.load(CONFIGS / f"{name}.yaml").data.prompts
    experiment = config.load(
        CONFIGS / f"{name}.yaml", [f"base={base}", *SMALL, *(["method.drop_prompt=0.0"] if told else [])]
    )
    trainer = build_trainer(experiment)
    run = tf.function(trainer.train_step, autograph=False)
    batches = iter(build_dataset(experiment, trainer, 0))
    before = [variable.numpy() for variable in trainer.trainable_variables]
    for _ in range(experiment.train.steps):
        batch = next(batches)
        began = time.perf_counter()
        scalars = {key: float(value) for key, value in run(batch).items()}
        seconds = time.perf_counter() - began
    moved = sum(bool((old != new.numpy()).any()) for old, new in zip(before, trainer.trainable_variables, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak": peak, "moved": moved, "of": len(before), **scalars}


def _main(arguments: list[str]) -> None:
    if not arguments or not Path(arguments[0]).is_dir():
        raise UserError("name a checkpoint; make one with python -m benchmarks.make_checkpoint")
    base, *names = arguments
    names = names or sorted(path.stem for path in CONFIGS.glob("sd15_*.yaml"))
    print(f"{'':<24}{'s / step':>10}{'peak':>11}{'loss':>10}{'gradient norm':>16}{'weights moved':>16}", flush=True)
    failed = []
    for name in names:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.recipes", "--one", name, base], capture_output=True, text=True
        )
        if done.returncode:
            failed.append(name)
            print(f"{name:<24}{done.stderr.strip().splitlines()[-1:] or ['ended']}", flush=True)
            continue
        r = json.loads(done.stdout.splitlines()[-1])
        if not math.isfinite(r["loss"]) or r["moved"] == 0:
            failed.append(name)
        peak, moved = f"{r['peak'] / 2**30:.1f} GiB", f"{r['moved']} of {r['of']}"
        print(
            f"{name:<24}{r['seconds']:>10.1f}{peak:>11}{r['loss']:>10.4f}{r['gradient_norm']:>16.4f}{moved:>16}",
            flush=True,
        )
    if failed:
        raise UserError(f"{', '.join(failed)}: no step, or one that is not finite or changes nothing")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(step(*sys.argv[2:4])))
    else:
        sys.exit(run_command(_main))
