"""codi repaint BASE --image in.png --mask mask.png --out out.png: fill an image with a base, without training.

RePaint (Lugmayr et al. 2022) with any base, unconditional or text-to-image. White pixels of the mask are filled, all
others stay. --image takes a folder, too, with one mask for all or a folder of masks of the same names; --out is then a
folder, and the same command resumes. It evaluates the network thousands of times: a model that was trained for
inpainting (codi restore) needs one to four evaluations.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codi_tf.cli.images import Images, base_folder
from codi_tf.cli.sampling_options import add_shared_options, check_shared_options, load_small_decoder, progress, say
from codi_tf.core.arguments import finite_number, integer, path_argument
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.diffusion.samplers import SAMPLERS
from codi_tf.io.conditions import mask_files
from codi_tf.io.image_folders import partners
from codi_tf.io.images import read_image_and_mask

if TYPE_CHECKING:
    from codi_tf.inference.base_model import BaseModel

STEPS, JUMP_LENGTH, RESAMPLINGS, SAMPLER = 250, 10, 10, "ddpm"


def main(arguments: list[str], prog: str = "codi repaint") -> None:
    """Run `codi repaint`. Raises UserError for options that do not fit the base or each other."""
    options = _parser(prog).parse_args(arguments)
    check_shared_options(options)
    options.model = base_folder(options.model)
    models = [options.model, options.decoder]
    images = Images("--image", options.image, options, models=models, inputs={"--mask": options.mask})
    masks = partners(images.files, "--mask", options.mask, mask_files)
    if images.results is None:
        read_image_and_mask(options.image, options.mask)  # a mistake is told before the model is read
    text = images.write(
        lambda: _load(options), lambda model, name: _filled(model, images.files[name], masks[name], options)
    )
    print(f"{text}: where {options.mask} is not white, its pixels are those of {options.image}")


def _parser(prog: str) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, doc=__doc__)
    add_shared_options(parser, model="folder of a base, or a Stable Diffusion checkpoint", prompt="what to show")
    parser.add_argument("--image", type=path_argument, required=True, help="the image to fill, or a folder")
    parser.add_argument(
        "--mask", type=path_argument, required=True, help="white where to fill, of the image's size, or a folder"
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


def _load(options: argparse.Namespace) -> BaseModel:
    start_tensorflow()
    from codi_tf import load_stable_diffusion
    from codi_tf.checkpoints.base import with_loras
    from codi_tf.inference.base_model import BaseModel
    from codi_tf.inference.repaint import make_plan

    decoder = load_small_decoder(options)
    say(f"loading {options.model}")
    base = load_stable_diffusion(options.model, compute=options.compute)
    model = BaseModel(dataclasses.replace(with_loras(base, options.lora), decoder=decoder))
    evaluations = make_plan(model, **_chosen(options)).evaluations
    say(f"{evaluations} steps, {options.steps} of them without the jumps")
    return model


def _filled(model: BaseModel, file: Path, mask: Path, options: argparse.Namespace) -> np.ndarray:
    from codi_tf.inference.repaint import fill, make_plan

    shared = {"guidance": options.guidance, "seed": options.seed, **_chosen(options)}
    report = progress("step", make_plan(model, **_chosen(options)).evaluations)
    return fill(model, read_image_and_mask(file, mask), options.prompt, report=report, **shared)


def _chosen(options: argparse.Namespace) -> dict:
    return {name: getattr(options, name) for name in ("steps", "jump_length", "resamplings", "sampler")}
