"""codi text2image CHECKPOINT --prompt ".." --out out.png: an image from a prompt, by a Stable Diffusion checkpoint.

Takes whatever `codi_tf.load_stable_diffusion` reads. With --image, the image is made from the prompt and that image.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from codi_tf.checkpoints.made_for import MAX_GUIDANCE, read_made_for
from codi_tf.cli.sampling_options import (
    OUT,
    add_sampling,
    add_shared_options,
    add_start,
    check_shared_options,
    check_start,
    fill_in,
    load_small_decoder,
    progress,
    say,
)
from codi_tf.core.arguments import integer, path_argument
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_WIDTH
from codi_tf.diffusion.samplers import CHECKPOINT_SAMPLERS
from codi_tf.inference.rendering import MAX_SIDE
from codi_tf.io.bundle_files import is_bundle
from codi_tf.io.images import read_image, resize
from codi_tf.io.outputs import check_not_read
from codi_tf.io.save_image import check_image_file, write_image

if TYPE_CHECKING:
    from codi_tf.inference.text_to_image import TextToImage

DEFAULTS = {  # of the options of this program; shared ones have theirs in the parser, None is as the model is made for
    "label": None,
    "negative_prompt": "",
    "sampler": None,
    "steps": None,
    "guidance": None,
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
    parser.add_argument("--label", type=integer(0, MAX_WIDTH), help="the class, for a model that takes classes")
    side = integer(1, MAX_SIDE)
    parser.add_argument("--height", type=side, help="of the result (default: as in the checkpoint's training)")
    parser.add_argument("--width", type=side, help="of the result (default: as in the checkpoint's training)")
    parser.add_argument(
        "--tokenizer",
        type=path_argument,
        help="folder of vocab.json and merges.txt, for a checkpoint without them",
    )
    parser.add_argument("--prediction-type", help="epsilon or v_prediction, if the checkpoint does not state it")


def main(arguments: list[str], prog: str = "codi text2image") -> None:
    """Run `codi text2image`. Raises UserError, see `run`."""
    parser = ArgumentParser(prog=prog, doc=__doc__)
    add_shared_options(
        parser,
        model="a Stable Diffusion checkpoint: a folder, a file, or the name of one that comes with codi_tf",
        prompt="what to show",
        out=OUT,
    )
    add_sampling(
        parser,
        CHECKPOINT_SAMPLERS,
        steps="20, or as a distilled model is made for",
        sampler="dpm++, or a distilled model's",
        guidance="7.5, or the nearest that a distilled model was trained for",
    )
    add_own_options(parser)
    add_start(parser, size="--height and --width resize it")
    options = parser.parse_args(arguments)
    check_shared_options(options)
    if is_bundle(options.model):
        raise UserError(f"{options.model} is a trained model; for an image from a condition: codi restore")
    run(options)


def run(options: argparse.Namespace) -> None:
    """Make and write the image. Raises UserError for options that do not fit the checkpoint or each other."""
    fill_in(options, DEFAULTS)
    check_image_file(options.out)
    check_not_read(options.out, {"--image": options.image})
    write_image(options.out, _generate(options))
    print(options.out)


def _generate(options: argparse.Namespace) -> np.ndarray:
    prompted = not options.model.is_dir() or (options.model / "text_encoder").is_dir()
    if options.prompt is None and options.label is None and prompted:
        raise UserError(f"--prompt is missing: {options.model} makes an image from a prompt")
    made_for = read_made_for(options.model)
    fill_in(options, {"sampler": made_for.sampler, "steps": made_for.steps})
    if options.sampler not in CHECKPOINT_SAMPLERS:
        raise UserError(f"--sampler is {options.sampler}: a checkpoint has {', '.join(CHECKPOINT_SAMPLERS)}")
    if options.guidance is not None and not 1 <= options.guidance <= MAX_GUIDANCE:
        raise UserError(f"--guidance is {options.guidance}: it must be from 1, none, to {MAX_GUIDANCE}")
    if made_for.check_guidance(options.guidance, "--guidance") == 1 and options.negative_prompt:
        raise UserError("--negative-prompt has no effect with --guidance 1: raise that or leave the prompt out")
    strength, evaluations = check_start(options, options.steps)
    if options.image is None:
        source = {"height": options.height, "width": options.width}
    else:
        source = {"image": _image(options), "strength": strength}

    start_tensorflow()
    from codi_tf import load_stable_diffusion
    from codi_tf.checkpoints.base import with_loras
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
    model = TextToImage(dataclasses.replace(with_loras(base, options.lora), decoder=decoder))
    _check_fit(options, model, source.get("image"))
    names = ("negative_prompt", "sampler", "steps", "guidance", "seed")
    chosen = {"labels": options.label, **{name: getattr(options, name) for name in names}}
    return model.generate(options.prompt, report=progress("step", evaluations), **source, **chosen)[0]


def _check_fit(options: argparse.Namespace, model: TextToImage, image: np.ndarray | None) -> None:
    """Raise UserError where a checkpoint does not take the sampler, the number of steps or the size."""
    try:
        model.grid(options.sampler, 1)
    except UserError as error:
        remedy = "" if options.sampler == "ddim" else "; use --sampler ddim"
        raise UserError(f"{options.model}: its scheduler_config.json: {error}{remedy}") from None
    model.grid(options.sampler, options.steps)
    model.count(options.prompt, options.label)
    if options.negative_prompt and model.takes_guidance:
        raise UserError(f"--negative-prompt: {options.model} takes the guidance as an input; leave it out")
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
