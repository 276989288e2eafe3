"""python -m studies.latency [--width 320] [--size 512] [--rounds 5] [--compute bfloat16] [--page docs/paper_figures.md]

The table of latencies of CoDi's appendix A, in one run: CoDi, a ControlNet and an LDM (the condition's latent at the
input) at 4 steps, and the LDM at 50, from a condition image to the image, batch 1. Weights are random: the time does
not depend on them. A width of 320 is that of Stable Diffusion 1.x, which takes 14 GB. With --page, the table also
replaces the page's part between its marks.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from codi_tf.cli.sampling_options import COMPUTE
from codi_tf.core.arguments import integer, path_argument
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.core.errors import UserError
from studies.common.pages import around, write_part
from studies.common.tables import markdown

PART = "latency"  # of the page
FEW, MANY = 4, 50
PAPER = {  # ms on a TPUv5
    f"CoDi, {FEW} steps": 107,
    f"ControlNet, {FEW} steps": 107,
    f"LDM, {FEW} steps": 103,
    f"LDM, {MANY} steps": 977,
}
REFERENCE = f"LDM, {FEW} steps"


def layout(width: int) -> tuple[dict, dict]:
    """The arguments of a UNet whose first level has `width` channels, and of its autoencoder, as Stable Diffusion's."""
    of_vae = width * 2 // 5  # 128 for 320
    groups = math.gcd(width, of_vae, 32)
    widths, widths_of_vae = ([first, 2 * first, 4 * first, 4 * first] for first in (width, of_vae))
    heads = max(width // 40, 1)
    unet = {"block_out_channels": widths, "attention_head_dim": heads, "norm_num_groups": groups}
    return unet, {"block_out_channels": widths_of_vae, "norm_num_groups": groups}


def make_base(width: int, compute: str):
    """A `Base` of that layout with random weights."""
    from codi_tf.checkpoints.base import Base, make_autoencoder, make_unet
    from codi_tf.core.precision import built_in, make_policy

    unet, vae = layout(width)
    with built_in(make_policy(compute)):
        return Base(make_unet(unet), make_autoencoder(vae), {"beta_schedule": "scaled_linear"})


def systems(base, size: int) -> dict[str, Callable[[], object]]:
    """Row of the table -> a call that makes one image of `size` pixels."""
    import codi_tf

    condition = np.random.default_rng(0).integers(0, 256, (size, size, 3), "uint8")
    shared = {"image_size": size}
    codi = codi_tf.CoDi(base, "mu", "adapter", **shared)
    controlnet = codi_tf.CoDi(base, "controlnet", "adapter", method=codi_tf.Finetune(), **shared)
    ldm = codi_tf.CoDi(base, "concat", method=codi_tf.Finetune(), **shared)
    return {
        f"CoDi, {FEW} steps": lambda: codi.generate(condition, steps=FEW),
        f"ControlNet, {FEW} steps": lambda: controlnet.generate(condition, steps=FEW),
        f"LDM, {FEW} steps": lambda: ldm.generate(condition, steps=FEW),
        f"LDM, {MANY} steps": lambda: ldm.generate(condition, steps=MANY),
    }


def measure(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds [rounds] of each candidate. They take turns, so that other work on the machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(1 + rounds):  # the first one traces
        for name, run in candidates.items():
            began = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}


def table(seconds: dict[str, np.ndarray]) -> str:
    """The table: median and quartiles in ms, and the ratio to the LDM at 4 steps, beside the paper's."""
    lines = []
    for name, values in seconds.items():
        low, middle, high = np.percentile(1e3 * values, (25, 50, 75))
        ratio = np.median(values / seconds[REFERENCE])
        paper = f"{PAPER[name]} ms, {PAPER[name] / PAPER[REFERENCE]:.2f}"
        lines.append((name, f"{middle:,.0f} [{low:,.0f}, {high:,.0f}]", f"{ratio:.2f}", paper))
    return markdown(("", "ms [quartiles]", f"to {REFERENCE}", "paper (TPUv5)"), lines)


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m studies.latency", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--width", type=integer(20, 1280), default=320, help="channels of the first level (320)")
    parser.add_argument("--size", type=integer(64, 2048), default=512, help="of the images, in pixels (512)")
    parser.add_argument("--rounds", type=integer(1, 1000), default=5, help="that are measured (5)")
    parser.add_argument("--compute", choices=COMPUTE, default=COMPUTE[0], help="number format (default: float32)")
    parser.add_argument("--page", type=path_argument, help="a page of the documentation that gets the table")
    options = parser.parse_args(arguments)
    for flag, value, unit in (("--width", options.width, 20), ("--size", options.size, 64)):
        if value % unit:
            raise UserError(f"{flag} is {value}: it must be a multiple of {unit}")
    if options.page is not None:
        around(options.page, PART)
    start_tensorflow()
    text = table(measure(systems(make_base(options.width, options.compute), options.size), options.rounds))
    print(text)
    if options.page is not None:
        write_part(options.page, f"{text}\n{_about(options)}", PART)


def _about(options: argparse.Namespace) -> str:
    command = f"python -m studies.latency --width {options.width} --size {options.size} --rounds {options.rounds}"
    return f"`{command} --compute {options.compute}`, {_processor()}, {os.cpu_count()} threads."


def _processor() -> str:
    """The name of the processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(run_command(_main))
