"""python -m codi_tf.sample BUNDLE --condition in.png --out out.png [--mask mask.png] [--prompt ..] [--steps 4]
    [--sampler ddim|dpm|dpm++|stochastic|consistency] [--guidance ..] [--text-guidance ..] [--upscale K]
    [--tile PIXELS] [--color none|wavelet|adain]
python -m codi_tf.sample CHECKPOINT --prompt ".." --out out.png [--sampler dpm++] [--steps 20] [--guidance 7.5]
    [--negative-prompt ..] [--height H] [--width W] [--image in.png [--strength 0.8]]
Both: [--seed 0] [--compute float32|bfloat16|float16] [--decoder DIR]

A bundle makes a picture from a photo of any size and mode; transparency is laid over white. The result is an RGB PNG of
the same size, or K times as large. A bundle for inpainting takes a mask as well, of the photo's size and any mode: it
fills in what is white there, and every other pixel is the photo's. For depth to image, --condition is a depth map, a
picture of 8 or 16 bits, .npy or .pfm; for editing, --prompt is the instruction. Large pictures are made of tiles, with
the memory of one; --tile 0 makes them smaller and enlarges the result. A Stable Diffusion checkpoint (whatever
`codi_tf.load_stable_diffusion` reads) makes one from a prompt, or from a prompt and an image. --decoder names a small
decoder (diffusers' AutoencoderTiny) in place of the model's own. What is wrong with the
arguments alone is told before TensorFlow is loaded, and what is wrong with a folder's JSON before its weights are.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.core.formats import FORMATS
from codi_tf.core.progress import Progress
from codi_tf.inference.rendering import MAX_SIDE
from codi_tf.io.color import ALIGNMENTS
from codi_tf.io.depth_files import as_picture, read_nearness
from codi_tf.io.images import read_image, read_image_and_mask, resize, write_png

if TYPE_CHECKING:
    from codi_tf.inference.text_to_image import TextToImage
    from codi_tf.models.tiny_decoder import TinyDecoder

BUNDLE = "codi.json"
MAX_RESULT_PIXELS = 50_000_000
SAMPLERS = ("ddim", "dpm", "dpm++", "stochastic", "consistency")  # of bundles; the first three of checkpoints

# Options of one kind of model and what they are where they are not given.
OF_BUNDLES = {
    "condition": None,
    "mask": None,
    "steps": 4,
    "upscale": 1,
    "sampler": "ddim",
    "guidance": None,
    "text_guidance": None,
    "tile": None,
    "color": "none",
}
OF_CHECKPOINTS = {
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
STRENGTH = 0.8


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m codi_tf.sample", description="Make a picture from a photo or a prompt.")
    parser.add_argument("model", type=Path, help="folder of a trained model, or a Stable Diffusion checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="the result, an RGB .png")
    parser.add_argument("--prompt", help="what to show; a trained model takes one if its base has a text encoder")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--steps", type=int, help="network evaluations (default: 4, of a checkpoint 20)")
    parser.add_argument("--sampler", choices=SAMPLERS, help="default: ddim, of a checkpoint dpm++")
    parser.add_argument(
        "--guidance", type=float, help="1 is none (default: 7.5 of a checkpoint, else as the model was trained)"
    )
    parser.add_argument(
        "--compute", choices=FORMATS, default=FORMATS[0], help="number format of the networks (default: float32)"
    )
    parser.add_argument(
        "--decoder", type=Path, help="folder of a small decoder, an AutoencoderTiny, in place of the model's own"
    )
    bundle = parser.add_argument_group("trained models")
    bundle.add_argument("--condition", type=Path, help="the photo, any size and mode; the depth map")
    bundle.add_argument(
        "--text-guidance", type=float, help="the prompt's, of models fine-tuned with drop_prompt (default: 1, none)"
    )
    bundle.add_argument("--mask", type=Path, help="for inpainting: white where the photo is to be filled, its size")
    bundle.add_argument("--upscale", type=int, help="how many times as large the result is (default: 1)")
    bundle.add_argument(
        "--tile",
        type=int,
        help="side of the tiles of a larger picture; 0: none (default: 512, where memory asks for it)",
    )
    bundle.add_argument(
        "--color",
        "--colour",
        choices=("none", *ALIGNMENTS),
        help="align the result's colors with the photo's (default: none)",
    )
    checkpoint = parser.add_argument_group("Stable Diffusion checkpoints")
    checkpoint.add_argument("--negative-prompt", help="what not to show")
    checkpoint.add_argument("--height", type=int, help="of the result (default: as the checkpoint was trained)")
    checkpoint.add_argument("--width", type=int, help="of the result (default: as the checkpoint was trained)")
    checkpoint.add_argument("--image", type=Path, help="a picture to start from; --height and --width resize it")
    checkpoint.add_argument("--strength", type=float, help=f"how much of it is made anew, to 1 (default: {STRENGTH})")
    checkpoint.add_argument(
        "--tokenizer", type=Path, help="folder of vocab.json and merges.txt, for a checkpoint without"
    )
    checkpoint.add_argument("--prediction-type", help="epsilon or v_prediction, where the checkpoint does not tell")
    return parser


def _fill_in(options: argparse.Namespace, own: dict, other: dict, told: str) -> None:
    """Puts in what was not given; raises UserError for what was and belongs to the other kind of model."""
    for name in other:
        if name not in own and getattr(options, name) is not None:
            raise UserError(f"{_flag(name)}: {options.model} {told}; leave it out or name another model")
    for name, default in own.items():
        if getattr(options, name) is None:
            setattr(options, name, default)


def _check_range(options: argparse.Namespace, **limits: tuple) -> None:
    """Raises UserError for a number that is given and outside of its limits."""
    for name, (low, high) in limits.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"{_flag(name)} is {value}: it must be between {low} and {high}")


def _check_out(out: Path) -> None:
    """Raises UserError where no result can be written."""
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is {out}: the result is a PNG; use a name that ends in .png")
    if out.is_dir():
        raise UserError(f"--out is {out}: that is a folder; name a file")
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--out is {out}: nothing can be written into {folder}; choose another place")


def _from_photo(options: argparse.Namespace) -> np.ndarray:
    """What a bundle makes of --condition."""
    _fill_in(options, OF_BUNDLES, OF_CHECKPOINTS, "is a trained model, which has no use for that")
    _check_range(options, steps=(1, 1000), upscale=(1, MAX_RESULT_PIXELS), tile=(0, MAX_RESULT_PIXELS))
    if options.condition is None:
        raise UserError(f"--condition is missing: {options.model} makes a picture from a photo")
    photo = _photo(options)
    height, width = (options.upscale * side for side in photo.shape[:2])
    size = f"{options.condition}: the result of {width}x{height}"
    if height * width > MAX_RESULT_PIXELS:
        raise UserError(f"{size} has more than {MAX_RESULT_PIXELS:,} pixels; shrink the photo or --upscale")

    start_tensorflow()
    from codi_tf.inference.rendering import plan, render
    from codi_tf.model import load

    _check_task(options)
    decoder = _decoder(options)
    _say(f"loading {options.model}")
    model = load(options.model, compute=options.compute, decoder=decoder)
    made = plan(model, photo, upscale=options.upscale, tile=options.tile)
    if made.tile:
        _say(f"{size} is made of {made.pieces} tiles of {made.tile} pixels a side, to save memory")
    elif made.working != (height, width):
        _say(f"{size} is made at {made.working[1]}x{made.working[0]} and enlarged, to save memory")
    report = _progress("tile" if made.tile else "step", options.steps * made.pieces)
    names = ("prompt", "steps", "seed", "upscale", "sampler", "guidance", "text_guidance", "tile", "color")
    return render(model, photo, report=report, **{name: getattr(options, name) for name in names})


def _decoder(options: argparse.Namespace) -> TinyDecoder | None:
    """--decoder."""
    if options.decoder is None:
        return None
    from codi_tf import load_decoder

    return load_decoder(options.decoder, compute=options.compute)


def _photo(options: argparse.Namespace) -> np.ndarray:
    """--condition, [H, W, 3]; with a --mask [H, W, 4]."""
    task = _task(options.model)
    if task.get("name") == "depth":
        return as_picture(read_nearness(options.condition, task.get("kind", "disparity")))
    if options.mask is None:
        return read_image(options.condition)
    return read_image_and_mask(options.condition, options.mask)


def _task(bundle: Path) -> dict:
    """What a bundle says of its task; nothing where that cannot be read: loading will tell."""
    try:
        task = json.loads((bundle / BUNDLE).read_text(encoding="utf-8"))["task"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return task if isinstance(task, dict) else {}


def _check_task(options: argparse.Namespace) -> None:
    """Raises UserError for what the bundle's task has no use for, or lacks: mask, instruction, tiles, colors."""
    from codi_tf.inference.rendering import is_local, keeps_colors
    from codi_tf.tasks import TASKS

    name = _task(options.model).get("name")
    if not isinstance(name, str) or name not in TASKS:
        return  # loading tells what is wrong
    takes_mask = TASKS[name].condition_channels == 4
    if takes_mask and options.mask is None:
        raise UserError(f"--mask is missing: {options.model} fills in what is white in a picture of the photo's size")
    if not takes_mask and options.mask is not None:
        raise UserError(f"--mask: {options.model} was trained for {name}, which takes none; leave it out")
    if TASKS[name].prompted and options.prompt is None:
        raise UserError(f"--prompt is missing: {options.model} does what it is told, for example 'make it night'")
    if options.tile and not is_local(TASKS[name]):
        raise UserError(f"--tile: {options.model} was trained for {name}, which needs the whole picture; leave it out")
    if options.color != "none" and not keeps_colors(TASKS[name]):
        raise UserError(f"--color: {options.model} was trained for {name}, which keeps no colors; leave it out")


def _from_prompt(options: argparse.Namespace) -> np.ndarray:
    """What a Stable Diffusion checkpoint makes of --prompt."""
    _fill_in(options, OF_CHECKPOINTS, OF_BUNDLES, "is no trained model (it has no codi.json), which alone takes that")
    if options.prompt is None:
        raise UserError(f"--prompt is missing: {options.model} makes a picture from a prompt")
    if options.sampler not in SAMPLERS[:3]:
        raise UserError(f"--sampler is {options.sampler}: a checkpoint has {', '.join(SAMPLERS[:3])}")
    _check_range(options, steps=(1, 1000), guidance=(1, 1000), height=(1, MAX_SIDE), width=(1, MAX_SIDE))
    if options.guidance == 1 and options.negative_prompt:
        raise UserError("--negative-prompt has no effect with --guidance 1: raise that or leave the prompt out")
    if options.image is None:
        if options.strength is not None:
            raise UserError("--strength: there is no --image to start from; give one or leave it out")
        evaluations, source = options.steps, {"height": options.height, "width": options.width}
    else:
        strength = STRENGTH if options.strength is None else options.strength
        if not 0 < strength <= 1:
            raise UserError(f"--strength is {strength}: it must be above 0 and at most 1")
        evaluations, source = int(options.steps * strength), {"image": _image(options), "strength": strength}
        if evaluations == 0:
            raise UserError(f"--strength {strength} of --steps {options.steps} leaves none; raise one of them")

    start_tensorflow()
    from codi_tf import load_stable_diffusion
    from codi_tf.checkpoints.skeleton import read_skeleton
    from codi_tf.inference.text_to_image import TextToImage

    if (options.model / "vae").is_dir():
        _check_fit(options, TextToImage(read_skeleton(options.model)), source.get("image"))
    decoder = _decoder(options)
    _say(f"loading {options.model}")
    base = load_stable_diffusion(
        options.model,
        tokenizer=options.tokenizer,
        prediction_type=options.prediction_type,
        compute=options.compute,
    )
    model = TextToImage(dataclasses.replace(base, decoder=decoder))
    _check_fit(options, model, source.get("image"))
    chosen = {name: getattr(options, name) for name in ("negative_prompt", "sampler", "steps", "guidance", "seed")}
    return model.generate(options.prompt, report=_progress("step", evaluations), **source, **chosen)[0]


def _check_fit(options: argparse.Namespace, model: TextToImage, image: np.ndarray | None) -> None:
    """Raises UserError where a checkpoint is not for the sampler, the number of steps or the size that is wanted."""
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


def _progress(label: str, total: int) -> Callable[[int], None]:
    """What shows how many steps, or tiles in all steps, are done, and what comes after them."""
    progress = Progress(label, total)

    def report(done: int) -> None:
        progress.update(done)
        if done == total:
            _say("decoding")

    return report


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _image(options: argparse.Namespace) -> np.ndarray:
    """--image in the size that is wanted, or in its own."""
    image = read_image(options.image)
    height, width = options.height or image.shape[0], options.width or image.shape[1]
    if max(height, width) > MAX_SIDE:
        raise UserError(f"{options.image}: {width}x{height} is too large; give --height and --width")
    return image if image.shape[:2] == (height, width) else resize(image, height, width)


def _kept(options: argparse.Namespace) -> str:
    """What of the photo the result has kept."""
    if options.mask is None:
        return ""
    enlarged = ", enlarged" if options.upscale > 1 else ""
    return f": where {options.mask} is not white, its pixels are those of {options.condition}{enlarged}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def main(arguments: list[str]) -> None:
    options = _parser().parse_args(arguments)
    if not options.model.exists():
        raise UserError(f"{options.model}: no such model; train one or name another")
    _check_range(options, seed=(0, 2**63 - 1))
    _check_out(options.out)
    if options.decoder is not None and not options.decoder.is_dir():
        raise UserError(f"--decoder is {options.decoder}: no such folder; name that of a small decoder")
    is_bundle = (options.model / BUNDLE).is_file()
    picture = _from_photo(options) if is_bundle else _from_prompt(options)
    write_png(options.out, picture)
    print(f"{options.out}{_kept(options)}")
