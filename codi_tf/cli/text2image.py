"""codi text2image CHECKPOINT --prompt ".." --out out.png: an image from a prompt, by a Stable Diffusion checkpoint.

Takes whatever `codi_tf.load_stable_diffusion` reads. With --image, the image is made from the prompt and that image.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from codi_tf.cli.sampling_options import (
    add_sampling,
    add_shared_options,
    check_shared_options,
    fill_in,
    load_small_decoder,
    progress,
    say,
)
from codi_tf.core.arguments import finite_number, integer, path_argument
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.diffusion.samplers import CHECKPOINT_SAMPLERS
from codi_tf.inference.rendering import MAX_SIDE
from codi_tf.io.bundle_files import is_bundle
from codi_tf.io.images import read_image, resize
from codi_tf.io.outputs import check_not_read
from codi_tf.io.save_image import write_image

if TYPE_CHECKING:
    from codi_tf.inference.text_to_image import TextToImage

STRENGTH = 0.8
MAX_GUIDANCE = 1000
DEFAULTS = {  # of the options of this program; shared ones have theirs in the parser
    "negative_prompt": "",
    "sampler": "dpm++",
    "steps": 20,
    "guidance": 7.5,
    "height": None,
    "width": None,
    "image": None,
    "strength": None,
    "tokenizer": None,
    "prediction_type": None,
}


def add_own_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that only checkpoints take."""
    parser.add_argument("--negative-prompt", help="what not to show")
    side = integer(1, MAX_SIDE)
    parser.add_argument("--height", type=side, help="of the result (default: as in the checkpoint's training)")
    parser.add_argument("--width", type=side, help="of the result (default: as in the checkpoint's training)")
    parser.add_argument("--image", type=path_argument, help="an image to start from; --height and --width resize it")
    parser.add_argument(
        "--strength",
        type=finite_number(0, 1, above=True),
        help=f"how much --image changes, above 0 and at most 1 (default: {STRENGTH})",
    )
    parser.add_argument(
        "--tokenizer",
        type=path_argument,
        help="folder of vocab.json and merges.txt, for a checkpoint without them",
    )
    parser.add_argument("--prediction-type", help="epsilon or v_prediction, if the checkpoint does not state it")


def main(arguments: list[str], prog: str = "codi text2image") -> None:
    """Run `codi text2image`. Raises UserError, see `run`."""
    parser = ArgumentParser(prog=prog, description=(__doc__ or "").partition("\n\n")[2])
    add_shared_options(
        parser,
        model="a Stable Diffusion checkpoint: a folder, a file, or the name of one that comes with codi_tf",
        prompt="what to show",
    )
    add_sampling(parser, CHECKPOINT_SAMPLERS, steps="20", sampler="dpm++", guidance="7.5")
    add_own_options(parser)
    options = parser.parse_args(arguments)
    check_shared_options(options)
    if is_bundle(options.model):
        raise UserError(f"{options.model} is a trained model; for an image from a condition: codi restore")
    run(options)


def run(options: argparse.Namespace) -> None:
    """Make and write the image. Raises UserError for options that do not fit the checkpoint or each other."""
    fill_in(options, DEFAULTS)
    check_not_read(options.out, {"--image": options.image})
    write_image(options.out, _generate(options))
    print(options.out)


def _generate(options: argparse.Namespace) -> np.ndarray:
    if options.prompt is None:
        raise UserError(f"--prompt is missing: {options.model} makes an image from a prompt")
    if options.sampler not in CHECKPOINT_SAMPLERS:
        raise UserError(f"--sampler is {options.sampler}: a checkpoint has {', '.join(CHECKPOINT_SAMPLERS)}")
    if not 1 <= options.guidance <= MAX_GUIDANCE:
        raise UserError(f"--guidance is {options.guidance}: it must be from 1, none, to {MAX_GUIDANCE}")
    if options.guidance == 1 and options.negative_prompt:
        raise UserError("--negative-prompt has no effect with --guidance 1: raise that or leave the prompt out")
    if options.image is None:
        if options.strength is not None:
            raise UserError("--strength: there is no --image to start from; give one or leave it out")
        evaluations, source = options.steps, {"height": options.height, "width": options.width}
    else:
        strength = STRENGTH if options.strength is None else options.strength
        evaluations, source = int(options.steps * strength), {"image": _image(options), "strength": strength}
        if evaluations == 0:
            raise UserError(f"--strength {strength} of --steps {options.steps} leaves no step; raise one of them")

    start_tensorflow()
    from codi_tf import load_stable_diffusion
    from codi_tf.checkpoints.skeleton import read_skeleton
    from codi_tf.inference.text_to_image import TextToImage

    if (options.model / "vae").is_dir():  # check against the configurations before any weight is read
        _check_fit(options, TextToImage(read_skeleton(options.model)), source.get("image"))
    decoder = load_small_decoder(options)
    say(f"loading {options.model}")
    base = load_stable_diffusion(
        options.model,
        tokenizer=options.tokenizer,
        prediction_type=options.prediction_type,
        compute=options.compute,
    )
    model = TextToImage(dataclasses.replace(base, decoder=decoder))
    _check_fit(options, model, source.get("image"))
    chosen = {name: getattr(options, name) for name in ("negative_prompt", "sampler", "steps", "guidance", "seed")}
    return model.generate(options.prompt, report=progress("step", evaluations), **source, **chosen)[0]


def _check_fit(options: argparse.Namespace, model: TextToImage, image: np.ndarray | None) -> None:
    """Raise UserError where a checkpoint does not take the sampler, the number of steps or the size."""
    try:
        model.grid(options.sampler, 1)
    except UserError as error:
        remedy = "" if options.sampler == "ddim" else "; use --sampler ddim"
        raise UserError(f"{options.model}: its scheduler_config.json: {error}{remedy}") from None
    model.grid(options.sampler, options.steps)
    if image is None:
        model.size(options.height, options.width)
        return
    try:
        model.size(*image.shape[:2])
    except UserError as error:
        raise UserError(f"{options.image}: {error}; resize it, or give --height and --width") from None


def _image(options: argparse.Namespace) -> np.ndarray:
    """Read --image, resized to --height and --width if they are given."""
    image = read_image(options.image)
    height, width = options.height or image.shape[0], options.width or image.shape[1]
    if max(height, width) > MAX_SIDE:
        raise UserError(f"{options.image}: {width}x{height} is too large; give --height and --width")
    return image if image.shape[:2] == (height, width) else resize(image, height, width)
