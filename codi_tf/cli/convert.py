"""codi convert SOURCE TARGET: write a Stable Diffusion checkpoint as a diffusers folder."""

from __future__ import annotations

import sys

from codi_tf.core.arguments import path_argument
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.core.formats import FORMATS
from codi_tf.io.bundle_files import CHECKPOINTS, is_bundle
from codi_tf.io.folders import check_folder

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def main(arguments: list[str], prog: str = "python -m codi_tf.convert") -> None:
    """Run `codi convert`. Raises UserError, see `load_stable_diffusion` and `save_stable_diffusion`."""
    parser = ArgumentParser(
        prog=prog,
        description="Read a Stable Diffusion checkpoint (a diffusers folder, a single .safetensors file, a KerasCV "
        ".h5) and write it as a diffusers folder.",
    )
    parser.add_argument("source", type=path_argument, metavar="SOURCE", help="the checkpoint")
    parser.add_argument("target", type=path_argument, metavar="TARGET", help="a new folder")
    parser.add_argument("--tokenizer", type=path_argument, metavar="DIR", help="folder of vocab.json and merges.txt")
    parser.add_argument("--prediction-type", choices=PREDICTION_TYPES, help="for a 2.x file that does not state it")
    parser.add_argument("--dtype", choices=FORMATS, default="float32", help="of the weights (default: float32)")
    options = parser.parse_args(arguments)
    if not options.source.exists():
        raise UserError(f"{options.source}: no such checkpoint; name a folder or a file")
    check_folder(options.target, CHECKPOINTS, replace=False)
    start_tensorflow()
    from codi_tf.checkpoints.stable_diffusion import describe, load_stable_diffusion, save_stable_diffusion

    if is_bundle(options.source):
        print(
            f"{options.source}: a bundle; its adapter is not converted and stays in {options.source / 'adapter'}",
            file=sys.stderr,
        )
    base = load_stable_diffusion(options.source, tokenizer=options.tokenizer, prediction_type=options.prediction_type)
    print(f"{options.source}: {describe(base)}")
    save_stable_diffusion(base, options.target, dtype=options.dtype, report=_Report())
    print(options.target)


class _Report:
    """A line on standard error for each part that is being written."""

    def __init__(self):
        self.part = None

    def __call__(self, part: str, done: int) -> None:
        if part != self.part:
            self.part = part
            print(f"writing {part}", file=sys.stderr, flush=True)
