"""python -m benchmarks.full_step BASE PIXELS [NAME ...]: training steps of CoDi on Stable Diffusion, batch 1.

BASE is a checkpoint of the true size, for example from `python -m benchmarks.make_checkpoint`. Each combination of
options runs in another process, and is compared with the plain step: seconds, peak of memory, loss, gradient norm.
All are PE-CoDi with the adapter mu.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.own_process import check_base, peak_memory
from codi_tf.core.command_line import run_command, start_tensorflow
from codi_tf.core.errors import UserError

STEPS = 3
VARIANTS = {
    "plain": {},
    "recompute": {"recompute": True},
    "frozen_float16": {"weights": "float16", "recompute": True},
    "bfloat16": {"compute": "bfloat16"},
    "all": {"compute": "bfloat16", "weights": "bfloat16", "recompute": True},
}


def step(base_folder: Path, pixels: int, *, compute="float32", weights="float32", recompute=False) -> dict:
    """Run some steps; return the loss of the first, the seconds of the last, and the bytes before and at the peak."""
    start_tensorflow()
    import tensorflow as tf

    import codi_tf
    from codi_tf.trainers.optimizers import FusedAdamW

    base = codi_tf.load_stable_diffusion(base_folder, compute=compute, weights=weights)
    model = codi_tf.CoDi(base, "mu", "adapter", image_size=pixels)
    model.student.recompute_blocks(recompute)
    model.compile(optimizer=FusedAdamW(1e-4))
    run = tf.function(model.train_step, autograph=False)
    image = tf.random.stateless_uniform((1, pixels, pixels, 3), (0, 0), -1.0, 1.0)
    batch = {"image": image, "condition": tf.nn.avg_pool2d(image, 5, 1, "SAME")}
    result = {"resident": peak_memory()}
    for i in range(STEPS):
        began = time.perf_counter()
        scalars = {name: float(value) for name, value in run(batch).items()}
        result["seconds"] = time.perf_counter() - began
        if i == 0:
            result |= {"loss": scalars["loss"], "gradient_norm": scalars["gradient_norm"]}
    return {**result, "peak": peak_memory()}


def _main(arguments: list[str]) -> None:
    if len(arguments) < 2 or not arguments[1].isdigit():
        raise UserError("name a checkpoint and a number of pixels, for example: runs/sd 256")
    folder, pixels, *names = arguments
    names = names or list(VARIANTS)
    check_base(Path(folder))
    print(f"{'':<18}{'s / step':>10}{'peak':>11}{'loss':>12}{'gradient norm':>16}")
    for name in names:
        command = [sys.executable, "-m", "benchmarks.full_step", "--one", folder, pixels, json.dumps(VARIANTS[name])]
        line = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        r = json.loads(line)
        peak = f"{r['peak'] / 2**30:.1f} GiB"
        print(f"{name:<18}{r['seconds']:>10.1f}{peak:>11}{r['loss']:>12.6f}{r['gradient_norm']:>16.6f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(step(Path(sys.argv[2]), int(sys.argv[3]), **json.loads(sys.argv[4]))))
    else:
        sys.exit(run_command(_main))
