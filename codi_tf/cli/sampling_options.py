"""Options, checks and progress that `codi restore` and `codi text2image` share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from codi_tf.checkpoints.lora_files import check_loras
from codi_tf.core.arguments import add_loras, finite_number, integer, path_argument, seed_number
from codi_tf.core.command_line import ArgumentParser
from codi_tf.core.errors import UserError
from codi_tf.core.progress import Progress
from codi_tf.io.bundle_files import another_model, check_is_folder, decoder_at, model_at

if TYPE_CHECKING:
    from codi_tf.models.tiny_decoder import TinyDecoder

STRENGTH = 0.8
COMPUTE = ("float32", "bfloat16", "float16")


OUT = "the result, an RGB .png, .jpg, .webp, .tif, ..."
OUT_FOLDER = f"{OUT}; of a folder of images, the folder of their results"


def add_shared_options(parser: ArgumentParser, *, model: str, prompt: str, out: str = OUT_FOLDER) -> None:
    """Add the options of both programs; `model`, `prompt` and `out` are their lines in the help."""
    parser.add_argument("model", type=path_argument, help=model)
    parser.add_argument("--out", type=path_argument, required=True, help=out)
    parser.add_argument("--prompt", help=prompt)
    parser.add_argument("--seed", type=seed_number, default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--compute", choices=COMPUTE, default=COMPUTE[0], help="number format of the networks (default: float32)"
    )
    parser.add_argument(
        "--decoder",
        type=path_argument,
        help="a small decoder, an AutoencoderTiny, in place of the model's own: its folder, or photos-decoder",
    )
    add_loras(parser)


def add_sampling(parser: ArgumentParser, samplers: Iterable[str], *, steps: str, sampler: str, guidance: str) -> None:
    """Add --steps, --sampler and --guidance; the str arguments describe their defaults in the help."""
    parser.add_argument("--steps", type=integer(1, 1000), help=f"network evaluations (default: {steps})")
    parser.add_argument("--sampler", choices=tuple(samplers), help=f"(default: {sampler})")
    parser.add_argument("--guidance", type=finite_number(), help=f"1 is none (default: {guidance})")


def add_start(parser: argparse._ActionsContainer, *, size: str) -> None:
    """Add --image and --strength, SDEdit's; `size` says in the help what becomes of an image of another size."""
    parser.add_argument("--image", type=path_argument, help=f"an image to start from in place of noise; {size}")
    parser.add_argument(
        "--strength",
        type=finite_number(0, 1, above=True),
        help=f"how much --image changes, above 0 and at most 1 (default: {STRENGTH})",
    )


def check_start(options: argparse.Namespace, steps: int) -> tuple[float, int]:
    """The strength, and the number of `steps` that are left; without an image (1.0, steps).

    Raises:
        UserError: a strength without an image, or one that leaves no step.
    """
    if options.image is None:
        if options.strength is not None:
            raise UserError("--strength: there is no --image to start from; give one or leave it out")
        return 1.0, steps
    strength = STRENGTH if options.strength is None else options.strength
    if int(steps * strength) == 0:
        raise UserError(f"--strength {strength} of --steps {steps} leaves no step; raise one of them")
    return strength, int(steps * strength)


def fill_in(options: argparse.Namespace, defaults: Mapping[str, object]) -> None:
    """Set the options that were not given, or that the program does not have, to their defaults."""
    for name, default in defaults.items():
        if getattr(options, name, None) is None:
            setattr(options, name, default)


def existing_model(path: Path) -> Path:
    """The folder or file of a model, see `bundle_files.model_at`. Raises UserError if there is none."""
    path = model_at(path)
    check_is_folder(path)
    if not path.exists():
        raise UserError(f"{path}: no such model, here or among those that come with codi_tf; {another_model(path)}")
    return path


def check_shared_options(options: argparse.Namespace) -> None:
    """Raise UserError for a model or a small decoder that is missing."""
    options.model = existing_model(options.model)
    if options.decoder is not None:
        options.decoder = decoder_at(options.decoder)
    check_loras(options.lora)


def load_small_decoder(options: argparse.Namespace) -> TinyDecoder | None:
    """Load the small decoder that --decoder names; None without it. Raises UserError, see `load_decoder`."""
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
