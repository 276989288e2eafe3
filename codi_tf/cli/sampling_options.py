"""Options, checks and progress that `codi restore` and `codi text2image` share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from codi_tf.core.command_line import ArgumentParser
from codi_tf.core.errors import UserError
from codi_tf.core.progress import Progress
from codi_tf.io.bundle_files import model_at

if TYPE_CHECKING:
    from codi_tf.models.tiny_decoder import TinyDecoder

COMPUTE = ("float32", "bfloat16", "float16")


def add_shared_options(parser: ArgumentParser, *, model: str, prompt: str) -> None:
    """Add the options of both programs; `model` and `prompt` are their lines in the help."""
    parser.add_argument("model", type=Path, help=model)
    parser.add_argument("--out", type=Path, required=True, help="the result, an RGB .png")
    parser.add_argument("--prompt", help=prompt)
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--compute", choices=COMPUTE, default=COMPUTE[0], help="number format of the networks (default: float32)"
    )
    parser.add_argument(
        "--decoder", type=Path, help="folder of a small decoder, an AutoencoderTiny, in place of the model's own"
    )


def add_sampling(parser: ArgumentParser, samplers: Iterable[str], *, steps: str, sampler: str, guidance: str) -> None:
    """Add --steps, --sampler and --guidance; the str arguments describe their defaults in the help."""
    parser.add_argument("--steps", type=int, help=f"network evaluations (default: {steps})")
    parser.add_argument("--sampler", choices=tuple(samplers), help=f"(default: {sampler})")
    parser.add_argument("--guidance", type=float, help=f"1 is none (default: {guidance})")


def fill_in(options: argparse.Namespace, defaults: Mapping[str, object]) -> None:
    """Set the options that were not given to their defaults."""
    for name, default in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, default)


def check_shared_options(options: argparse.Namespace) -> None:
    """Raise UserError for a model that is missing, a seed out of range, or a result that cannot be written."""
    if not options.model.exists():
        raise UserError(f"{options.model}: no such model; train one or name another")
    options.model = model_at(options.model)
    check_range(options, seed=(0, 2**63 - 1))
    _check_out(options.out)
    if options.decoder is not None and not options.decoder.is_dir():
        raise UserError(f"--decoder is {options.decoder}: no such folder; name that of a small decoder")


def check_range(options: argparse.Namespace, **limits: tuple[float, float]) -> None:
    """Raise UserError for a given number outside its limits."""
    for name, (low, high) in limits.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"{flag(name)} is {value}: it must be between {low} and {high}")


def flag(name: str) -> str:
    """The flag of an option: --text-guidance for text_guidance."""
    return "--" + name.replace("_", "-")


def load_small_decoder(options: argparse.Namespace) -> TinyDecoder | None:
    """Load the small decoder that --decoder names; None without it."""
    if options.decoder is None:
        return None
    from codi_tf import load_decoder

    return load_decoder(options.decoder, compute=options.compute)


def progress(label: str, total: int) -> Callable[[int], None]:
    """Return a function that shows how many steps (of all tiles) are done, and then that the image is decoded."""
    bar = Progress(label, total)

    def report(done: int) -> None:
        bar.update(done)
        if done == total:
            say("decoding")

    return report


def say(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr, flush=True)


def _check_out(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is {out}: the result is a PNG; use a name that ends in .png")
    if out.is_dir():
        raise UserError(f"--out is {out}: that is a folder; name a file")
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--out is {out}: nothing can be written into {folder}; choose another place")
