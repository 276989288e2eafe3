"""codi convert SOURCE TARGET: write a Stable Diffusion checkpoint as a diffusers folder, or as a bundle.

A checkpoint is a diffusers folder, a single .safetensors file or a KerasCV .h5. With --task, the result is a bundle. A
bundle whose adapter is concat becomes a diffusers folder again.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from codi_tf.core.arguments import flag, path_argument
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.core.formats import FORMATS
from codi_tf.io.bundle_files import BUNDLES, CHECKPOINTS, is_bundle, model_at
from codi_tf.io.folders import check_folder
from codi_tf.tasks import make_task

if TYPE_CHECKING:
    from codi_tf.checkpoints.base import Base

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def main(arguments: list[str], prog: str = "python -m codi_tf.convert") -> None:
    """Run `codi convert`. Raises UserError, see `load_stable_diffusion`, `save_stable_diffusion` and `bundle`."""
    parser = ArgumentParser(prog=prog, doc=__doc__)
    parser.add_argument("source", type=path_argument, metavar="SOURCE", help="the checkpoint, or a bundle")
    parser.add_argument("target", type=path_argument, metavar="TARGET", help="a new folder")
    parser.add_argument("--tokenizer", type=path_argument, metavar="DIR", help="folder of vocab.json and merges.txt")
    parser.add_argument("--prediction-type", choices=PREDICTION_TYPES, help="for a 2.x file that does not state it")
    parser.add_argument("--dtype", choices=FORMATS, default="float32", help="of the weights (default: float32)")
    parser.add_argument(
        "--task", help="write a bundle for this task, of a UNet with 9 input channels (inpainting) or 8 (editing)"
    )
    options = parser.parse_args(arguments)
    options.source = model_at(options.source)
    if not options.source.exists():
        raise UserError(f"{options.source}: no such checkpoint; name a folder or a file")
    task = None if options.task is None else make_task(options.task)
    if task is not None and is_bundle(options.source):
        raise UserError(f"--task: {options.source} is a bundle already, and has a task; leave it out")
    check_folder(options.target, CHECKPOINTS if task is None else BUNDLES, replace=False)
    start_tensorflow()
    from codi_tf.bundle import from_checkpoint, write_bundle
    from codi_tf.checkpoints.stable_diffusion import describe, save_stable_diffusion

    base = _read(options)
    print(f"{options.source}: {describe(base)}")
    if task is not None:
        write_bundle(from_checkpoint(base, task), options.target, dtype=options.dtype)
    else:
        save_stable_diffusion(base, options.target, dtype=options.dtype, report=_Report())
    print(options.target)


def _read(options: argparse.Namespace) -> Base:
    """The checkpoint, or the base of a bundle, with its adapter where that is a part of the UNet in diffusers."""
    from codi_tf.bundle import merged_base
    from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion

    if is_bundle(options.source):
        merged = merged_base(options.source)
        if merged is not None:
            for name in ("tokenizer", "prediction_type"):
                if getattr(options, name) is not None:
                    raise UserError(f"{flag(name)}: {options.source} is a bundle, which says it itself")
            return merged
        print(
            f"{options.source}: a bundle; its adapter is not converted and stays in {options.source / 'adapter'}",
            file=sys.stderr,
        )
    return load_stable_diffusion(options.source, tokenizer=options.tokenizer, prediction_type=options.prediction_type)


class _Report:
    """A line on standard error for each part that is being written."""

    def __init__(self):
        self.part = None

    def __call__(self, part: str, done: int) -> None:
        if part != self.part:
            self.part = part
            print(f"writing {part}", file=sys.stderr, flush=True)
