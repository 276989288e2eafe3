"""python -m benchmarks.lora_step BASE [section.key=value ...]: a step that trains a LoRA against one that trains all.

BASE is a checkpoint of the true size, for example from `python -m benchmarks.make_checkpoint`. Both steps are of
configs/sd15_concat_lora.yaml, on random latents of 256 px, batch 1: CoDi with the adapter concat, in the formats of the
config unless overrides change them. One trains the UNet, the other the LoRA over the frozen UNet. Each runs in its own
process, one after the other, because both together need more than 17 GB. For the same reason the optimizer is
Adafactor, and theta- is the only average: AdamW would add 7 GB to the step that trains all.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.own_process import check_base, peak_memory
from codi_tf.core.arguments import integer, path_argument
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow

CONFIG = Path(__file__).parents[1] / "configs" / "sd15_concat_lora.yaml"
SMALL = ("train.batch_size=1", "train.accumulate=1", "train.optimizer=adafactor", "train.result_decay=0")
VARIANTS = {
    "all": ("adaptation.train=all", "adaptation.lora=null", "memory.frozen_weights=float32"),
    "lora": (),
}
BAR = 0.75


def step(overrides: list[str], count: int) -> dict:
    """Make updates. Returns the seconds of each but the first, which is traced, and bytes before and at the peak."""
    start_tensorflow()
    import tensorflow as tf

    from benchmarks.demo import trainer_and_batch

    _, trainer, batch = trainer_and_batch(CONFIG, overrides)
    run = tf.function(trainer.update, autograph=False)
    resident, seconds = peak_memory(), []
    for _ in range(1 + count):
        began = time.perf_counter()
        loss = float(run(batch)["loss"])
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds[1:], "loss": loss, "resident": resident, "peak": peak_memory()}


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.lora_step", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("base", type=path_argument, help="a checkpoint of the true size")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="replacements in the config")
    parser.add_argument("--pixels", type=integer(64, 1024), default=256)
    parser.add_argument("--steps", type=integer(1, 100), default=5, help="updates that are timed; the median counts")
    options = parser.parse_args(arguments)
    check_base(options.base)
    own = [f"base={options.base}", f"data.image_size={options.pixels}", *SMALL, *options.overrides]
    medians = []
    print(f"{'':<6}{'s / step':>10}{'least':>8}{'most':>8}{'before':>11}{'peak':>11}{'loss':>11}")
    for name, changes in VARIANTS.items():
        command = [sys.executable, "-m", "benchmarks.lora_step", "--one", str(options.steps), *own, *changes]
        r = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
        medians.append(statistics.median(r["seconds"]))
        before, peak = (f"{r[key] / 2**30:.1f} GiB" for key in ("resident", "peak"))
        times = f"{medians[-1]:>10.2f}{min(r['seconds']):>8.2f}{max(r['seconds']):>8.2f}"
        print(f"{name:<6}{times}{before:>11}{peak:>11}{r['loss']:>11.6f}", flush=True)
    print(f"{'ratio':<6}{medians[1] / medians[0]:>10.2f}   (bar: {BAR})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(step(sys.argv[3:], int(sys.argv[2]))))
    else:
        sys.exit(run_command(_main))
