"""python -m benchmarks.recipes BASE [NAME ...] [--pixels 512]: a training step of every configs/sd15_*.yaml.

BASE is a checkpoint of the true size, for example from `python -m benchmarks.make_checkpoint`. The embedded photos
replace the recipe's data; recipes with prompts, and all above 256 px, get captioned crops of the stereo pair. To fit
into a small machine, images have 256 px, the batch is 1, and adapted networks train the adapter alone, on a base in
bfloat16. Each recipe runs in another process, which prints the seconds of the step after tracing, the memory of the
process before the first step and at its peak, the loss and the norm of the gradient. All memory counts, that of Python
and TensorFlow, too.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.own_process import check_base, peak_memory
from codi_tf import config
from codi_tf.core.arguments import integer, path_argument
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.io.images import write_png

CONFIGS = Path("configs")
SMALL = ("train.accumulate=1", "train.steps=2", "train.warmup_steps=0")
ADAPTER_ALONE = ("adaptation.train=adapter", "memory.frozen_weights=bfloat16")
SMALL_PHOTOS = 256  # pixels: some of the embedded photos are hardly larger
CROPS = {"left": 0, "middle": 120, "right": 241}  # first columns of squares, of the stereo pair's 741


def small_overrides(path: Path, base: str, captioned: Path, pixels: int = SMALL_PHOTOS, batch: int = 1) -> list[str]:
    """The overrides that make a recipe small; `captioned` is the folder of `write_captioned`."""
    recipe = config.load(path)
    source = captioned if recipe.data.prompts or pixels > SMALL_PHOTOS else "photos"
    adapted = recipe.task is not None  # without a task, these sections are an error
    own = (f"base={base}", f"data.source={source}", f"data.image_size={pixels}", f"train.batch_size={batch}")
    return [*own, *SMALL, *(ADAPTER_ALONE if adapted else ())]


def write_captioned(folder: Path, pixels: int = SMALL_PHOTOS) -> None:
    """Write crops of the embedded stereo pair, enlarged to `pixels` or more: NAME.png, NAME.depth.png and NAME.txt."""
    from codi_tf.data.depth_maps import load_stereo
    from codi_tf.io.depth_files import write_nearness

    stereo = load_stereo()
    photo, near = stereo.images["motorcycle"], stereo.companions["motorcycle"][..., 0]  # [500, 741, 3], [500, 741]
    times = math.ceil(pixels / len(photo))
    for name, first in CROPS.items():
        columns = slice(first, first + len(photo))
        write_png(folder / f"{name}.png", photo[:, columns].repeat(times, 0).repeat(times, 1))
        write_nearness(folder / f"{name}.depth.png", near[:, columns].repeat(times, 0).repeat(times, 1))
        (folder / f"{name}.txt").write_text(f"the {name} of a motorcycle in a garage", "utf-8")


def step(name: str, base: str, pixels: int, batch_size: int, folder: Path) -> dict:
    """Run two steps of a recipe; return the figures of the second. The empty folder is for images with prompts."""
    start_tensorflow()
    import tensorflow as tf

    from codi_tf.training.experiment import build_dataset, build_trainer

    write_captioned(folder, pixels)
    path = CONFIGS / f"{name}.yaml"
    experiment = config.load(path, small_overrides(path, base, folder, pixels, batch_size))
    trainer = build_trainer(experiment)
    run = tf.function(trainer.train_step, autograph=False)
    batches = iter(build_dataset(experiment, trainer, 0))
    before, resident = _digests(trainer), peak_memory()
    for _ in range(experiment.train.steps):
        batch = next(batches)
        began = time.perf_counter()
        scalars = {key: float(value) for key, value in run(batch).items()}
        seconds = time.perf_counter() - began
    moved = sum(old != new for old, new in zip(before, _digests(trainer), strict=True))
    figures = {"seconds": seconds, "before": resident, "peak": peak_memory(), "moved": moved, "of": len(before)}
    return {**figures, **scalars}


def _digests(trainer) -> list[bytes]:
    """What each trained variable holds, in a few bytes: a copy would count as memory of the training."""
    return [hashlib.sha256(variable.numpy().tobytes()).digest() for variable in trainer.trainable_variables]


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.recipes", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("base", type=path_argument, help="a checkpoint of the true size")
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes; by default all")
    parser.add_argument("--pixels", type=integer(64, 1024), default=256)
    parser.add_argument("--batch-size", type=integer(1, 64), default=1)
    options = parser.parse_args(arguments)
    check_base(options.base)
    names = options.names or sorted(path.stem for path in CONFIGS.glob("sd15_*.yaml"))
    columns = f"{'s / step':>10}{'before':>11}{'peak':>11}{'loss':>10}{'gradient norm':>16}{'weights moved':>16}"
    print(f"{'':<24}{columns}", flush=True)
    failed = []
    own = (str(options.base), str(options.pixels), str(options.batch_size))
    for name in names:
        command = [sys.executable, "-m", "benchmarks.recipes", "--one", name, *own]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            failed.append(name)
            print(f"{name:<24}{done.stderr.strip().splitlines()[-1:] or ['ended']}", flush=True)
            continue
        r = json.loads(done.stdout.splitlines()[-1])
        if not math.isfinite(r["loss"]) or r["moved"] == 0:
            failed.append(name)
        before, peak = (f"{r[key] / 2**30:.1f} GiB" for key in ("before", "peak"))
        moved = f"{r['moved']} of {r['of']}"
        learned = f"{r['loss']:>10.4f}{r['gradient_norm']:>16.4f}{moved:>16}"
        print(f"{name:<24}{r['seconds']:>10.1f}{before:>11}{peak:>11}{learned}", flush=True)
    if failed:
        raise UserError(f"{', '.join(failed)}: the step fails, is not finite, or changes nothing")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(step(*sys.argv[2:4], *map(int, sys.argv[4:6]), Path(folder))))
    else:
        sys.exit(run_command(_main))
