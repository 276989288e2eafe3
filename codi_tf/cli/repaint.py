"""codi repaint BASE --image in.png --mask mask.png --out out.png: fill an image with a base, without training.

RePaint (Lugmayr et al. 2022) with any base, unconditional or text-to-image. White pixels of the mask are filled, all
others stay. It evaluates the network thousands of times: a model that was trained for inpainting (codi restore) needs
one to four evaluations.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from codi_tf.cli.sampling_options import add_shared_options, check_shared_options, load_small_decoder, progress, say
from codi_tf.core.arguments import finite_number, integer, path_argument
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.diffusion.samplers import SAMPLERS
from codi_tf.io.bundle_files import is_bundle
from codi_tf.io.images import read_image_and_mask
from codi_tf.io.outputs import check_not_read
from codi_tf.io.save_image import check_image_file, write_image

STEPS, JUMP_LENGTH, RESAMPLINGS, SAMPLER = 250, 10, 10, "ddpm"


def main(arguments: list[str], prog: str = "codi repaint") -> None:
    """Run `codi repaint`. Raises UserError for options that do not fit the base or each other."""
    options = _parser(prog).parse_args(arguments)
    check_shared_options(options)
    if is_bundle(options.model):
        raise UserError(f"{options.model} is a trained model, which needs its condition: name its base")
    check_not_read(options.out, {"--image": options.image, "--mask": options.mask})
    write_image(options.out, _fill(options))
    print(f"{options.out}: where {options.mask} is not white, its pixels are those of {options.image}")


def _parser(prog: str) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, description=(__doc__ or "").partition("\n\n")[2])
    add_shared_options(parser, model="folder of a base, or a Stable Diffusion checkpoint", prompt="what to show")
    parser.add_argument("--image", type=path_argument, required=True, help="the image to fill")
    parser.add_argument(
        "--mask", type=path_argument, required=True, help="an image of the same size, white where to fill"
    )
    parser.add_argument(
        "--steps", type=integer(1, 1000), default=STEPS, help=f"of the sampler, without jumps (default: {STEPS})"
    )
    parser.add_argument(
        "--jump-length", type=integer(1, 999), default=JUMP_LENGTH, help=f"steps of a jump (default: {JUMP_LENGTH})"
    )
    parser.add_argument(
        "--resamplings",
        type=integer(1, 1000),
        default=RESAMPLINGS,
        help=f"how often the steps of a jump are taken; 1: no jumps (default: {RESAMPLINGS})",
    )
    parser.add_argument("--sampler", choices=tuple(SAMPLERS), default=SAMPLER, help=f"(default: {SAMPLER})")
    parser.add_argument(
        "--guidance", type=finite_number(), default=1.0, help="guidance by the prompt (default: 1, none)"
    )
    return parser


def _fill(options: argparse.Namespace) -> np.ndarray:
    image = read_image_and_mask(options.image, options.mask)
    check_image_file(options.out, image.shape[:2])

    start_tensorflow()
    from codi_tf import load_stable_diffusion
    from codi_tf.inference.base_model import BaseModel
    from codi_tf.inference.repaint import fill, make_plan

    decoder = load_small_decoder(options)
    say(f"loading {options.model}")
    base = load_stable_diffusion(options.model, compute=options.compute)
    model = BaseModel(dataclasses.replace(base, decoder=decoder))
    model.check_size(*image.shape[:2])
    names = ("steps", "jump_length", "resamplings", "sampler")
    chosen = {name: getattr(options, name) for name in names}
    evaluations = make_plan(model, **chosen).evaluations
    say(f"{evaluations} steps, {options.steps} of them without the jumps")
    report = progress("step", evaluations)
    return fill(model, image, options.prompt, guidance=options.guidance, seed=options.seed, report=report, **chosen)
