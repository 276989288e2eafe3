"""codi restore BUNDLE --condition in.png --out out.png: an image from a condition, by a trained model.

The condition is an image of any size and mode; transparent parts become white. The result is an RGB PNG of the same
size, or --upscale times as large. A bundle for inpainting also takes a mask of the condition's size: white pixels are
filled, all others stay. For depth to image, --condition is a depth map (an image of 8 or 16 bits, .npy or .pfm); for
editing, --prompt is the instruction. Large images are made in tiles, which need the memory of one tile; --tile 0
computes a smaller image and enlarges it.

--condition takes a folder, too: --out is then the folder of the results, which have the same names. --mask and --image
take a folder of files of these names, or one file for all. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import numpy as np

from codi_tf.cli.images import Images
from codi_tf.cli.sampling_options import (
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
from codi_tf.core.arguments import add_condition_scale, add_fidelity, finite_number, integer, path_argument
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.diffusion.samplers import SAMPLERS
from codi_tf.io.bundle_files import BUNDLE, is_bundle
from codi_tf.io.color import ALIGNMENTS
from codi_tf.io.conditions import ConditionFile, condition_files, mask_files, read_condition
from codi_tf.io.depth_files import photo_files
from codi_tf.io.image_folders import partners
from codi_tf.io.images import read_image
from codi_tf.io.json_files import read_json
from codi_tf.io.save_image import check_image_file
from codi_tf.tasks import Task, make_task

MAX_RESULT_PIXELS = 50_000_000
DEFAULTS = {  # of the options of this program; shared ones have theirs in the parser
    "condition": None,
    "mask": None,
    "steps": None,
    "upscale": 1,
    "sampler": None,
    "guidance": None,
    "text_guidance": None,
    "condition_scale": 1.0,
    "fidelity": 0.0,
    "tile": None,
    "color": "none",
    "image": None,
    "strength": None,
}


def add_own_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that only bundles take."""
    parser.add_argument(
        "--condition",
        type=path_argument,
        help="the image to restore, of any size and mode, or the depth map; or a folder",
    )
    add_knobs(parser)
    parser.add_argument(
        "--mask",
        type=path_argument,
        help="for inpainting: an image of the condition's size, white where to fill; or a folder",
    )
    parser.add_argument(
        "--upscale",
        type=integer(1, MAX_RESULT_PIXELS),
        help="how many times as large the result is (default: 1)",
    )
    parser.add_argument(
        "--tile",
        type=integer(0, MAX_RESULT_PIXELS),
        help="side of the tiles of a larger image; 0: no tiles (default: 512, if memory requires tiles)",
    )
    colors = ("none", *ALIGNMENTS)
    parser.add_argument(
        "--color", choices=colors, help="align the result's colors with the condition's (default: none)"
    )
    parser.add_argument("--colour", choices=colors, dest="color", help=argparse.SUPPRESS)


def add_knobs(parser: argparse._ActionsContainer) -> None:
    """Add --text-guidance, --condition-scale and --fidelity."""
    parser.add_argument(
        "--text-guidance",
        type=finite_number(),
        help="guidance by the prompt, for models fine-tuned with drop_prompt (default: 1, none)",
    )
    add_condition_scale(parser, default=None)
    add_fidelity(parser, default=None)


def make_parser(prog: str, doc: str | None, *, model: str, prompt: str) -> ArgumentParser:
    """A parser with the options that every trained model takes; `model` and `prompt` are their lines in the help."""
    parser = ArgumentParser(prog=prog, doc=doc)
    add_shared_options(parser, model=model, prompt=prompt)
    add_sampling(
        parser,
        SAMPLERS,
        steps="as the model is made for",
        sampler="the model's",
        guidance="as the model was trained",
    )
    return parser


def main(arguments: list[str], prog: str = "codi restore") -> None:
    """Run `codi restore`. Raises UserError, see `run`."""
    parser = make_parser(
        prog,
        __doc__,
        model="a trained model: its folder, or the name of one that comes with codi_tf",
        prompt="what to show, for a model whose base has a text encoder",
    )
    add_own_options(parser)
    add_start(parser, size="resized to the result's")
    options = parser.parse_args(arguments)
    check_shared_options(options)
    check_is_bundle(options.model)
    run(options)


def check_is_bundle(model: Path) -> None:
    """Raise UserError for a folder that holds no trained model."""
    if not is_bundle(model):
        remedy = "name one, or for a checkpoint use codi text2image"
        raise UserError(f"{model} is no trained model (it has no {BUNDLE}); {remedy}")


def run(options: argparse.Namespace, condition: str = "--condition") -> None:
    """Make and write the image. Raises UserError for options that do not fit the bundle or each other.

    `condition` is the flag of the option that names the condition.
    """
    fill_in(options, DEFAULTS)
    if options.condition is None:
        raise UserError(f"{condition} is missing: {options.model} makes an image from a condition")
    task = task_of(options.model)
    images = _images(options, condition, task)
    if task is not None:
        _check_task(options, task)
    if options.image is None and options.strength is not None:
        check_start(options, 1)
    given = _Given(options, images, task)
    text = given.images.write(lambda: _load(options), lambda model, name: _made(options, model, given, name))
    note = ""
    if options.mask is not None:
        enlarged = ", enlarged" if options.upscale > 1 else ""
        note = f": where {options.mask} is not white, its pixels are those of {options.condition}{enlarged}"
    print(f"{text}{note}")


def _kind(options: argparse.Namespace, task: Task | None) -> ConditionFile:
    if task is not None:
        return task.condition_file
    return "image" if options.mask is None else "masked_image"


def _images(options: argparse.Namespace, option: str, task: Task | None) -> Images:
    """The conditions and their results, of which none replaces what is read."""
    models, beside = [options.model, options.decoder], {"--image": options.image, "--mask": options.mask}
    find = functools.partial(condition_files, kind=_kind(options, task))
    return Images(option, options.condition, options, models=models, inputs=beside, find=find)


class _Given:
    """What the results are made of: a condition, or a folder of them, with the masks and images of the same names.

    A mistake in one condition, or its mask, is told here; those in a folder are told when their turn comes.
    """

    def __init__(self, options: argparse.Namespace, images: Images, task: Task | None):
        self.task, self.kind, self.images = task, _kind(options, task), images
        self.beside: dict[str, dict[str, Path]] = {}  # option -> NAME -> file
        for one, path, files in (("--image", options.image, photo_files), ("--mask", options.mask, mask_files)):
            if path is not None:
                self.beside[one] = partners(images.files, one, path, files)
        self.read = functools.lru_cache(maxsize=1)(self._read)
        if self.images.results is None:
            (name,) = self.images.files
            check_image_file(options.out, _size(options, self.images.files[name], self.read(name)[0]))

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """The condition, [H, W, 3], or with a mask [H, W, 4], and the image to start from, of a NAME."""
        file, mask, image = self.images.files[name], self._beside("--mask", name), self._beside("--image", name)
        read = functools.partial(read_condition, kind=self.kind) if self.task is None else self.task.read_condition
        return read(file, mask=mask), None if image is None else read_image(image)

    def _beside(self, option: str, name: str) -> Path | None:
        return self.beside.get(option, {}).get(name)


def _size(options: argparse.Namespace, file: Path, condition: np.ndarray) -> tuple[int, int]:
    """Height and width of a result. Raises UserError for one that is too large."""
    height, width = (options.upscale * side for side in condition.shape[:2])
    if height * width > MAX_RESULT_PIXELS:
        size = f"{file}: the result of {width}x{height}"
        raise UserError(f"{size} has more than {MAX_RESULT_PIXELS:,} pixels; shrink the condition or --upscale")
    return height, width


def _load(options: argparse.Namespace):
    start_tensorflow()
    from codi_tf.model import load

    decoder = load_small_decoder(options)
    say(f"loading {options.model}")
    model = load(options.model, compute=options.compute, decoder=decoder, loras=options.lora, merge=True)
    if options.sampler is None and model.sampler != "ddim":
        say(f"sampler {model.sampler}, which {options.model} is trained for")
    options.steps = model.steps_for(options.steps)
    return model


def _made(options: argparse.Namespace, model, given: _Given, name: str) -> np.ndarray:
    from codi_tf.inference.rendering import plan, render

    condition, image = given.read(name)
    file = given.images.files[name]
    height, width = _size(options, file, condition)
    made = plan(model, condition, upscale=options.upscale, tile=options.tile)
    size = f"{file}: the result of {width}x{height}"
    if made.tile:
        say(f"{size} is made in {made.pieces} tiles of {made.tile}x{made.tile}, to save memory")
    elif made.working != (height, width):
        say(f"{size} is made at {made.working[1]}x{made.working[0]} and enlarged, to save memory{_why(options, model)}")
    strength, steps = check_start(options, options.steps)
    start = {} if image is None else {"image": image, "strength": strength}
    if given.images.results is None or made.tile:  # the images of a folder have a line of progress together
        start["report"] = progress("tile" if made.tile else "step", steps * made.pieces)
    names = ("prompt", "steps", "seed", "upscale", "sampler", "guidance", "text_guidance", "tile", "color")
    names += ("condition_scale", "fidelity")
    return render(model, condition, **start, **{name: getattr(options, name) for name in names})


def _why(options: argparse.Namespace, model) -> str:
    """Why a large image is not made in tiles, and what to do about it."""
    if options.tile == 0:
        return ""
    if not model.task.is_local:
        return f": {model.task.name} needs the whole image at once"
    return ": the mask covers a whole tile; --tile makes tiles all the same"


def task_of(bundle: Path) -> Task | None:
    """The task of a bundle; None if it cannot be read (loading the bundle then reports why)."""
    try:
        return make_task(**read_json(bundle / BUNDLE)["task"])
    except (ValueError, KeyError, TypeError):  # a UserError is a ValueError
        return None


def _check_task(options: argparse.Namespace, task: Task) -> None:
    """Raise UserError for an option that the task requires or does not take: mask, prompt, tiles, colors."""
    model, name = options.model, task.name
    if task.has_mask and options.mask is None:
        raise UserError(f"--mask is missing: {model} needs an image of the condition's size, white where to fill")
    if not task.has_mask and options.mask is not None:
        raise UserError(f"--mask: {model} was trained for {name}, which takes no mask; leave it out")
    if task.prompted and options.prompt is None:
        raise UserError(f"--prompt is missing: {model} follows an instruction, for example 'make it night'")
    if options.tile and not task.is_local:
        raise UserError(f"--tile: {model} was trained for {name}, which needs the whole image; leave it out")
    if options.color != "none" and not task.keeps_colors:
        raise UserError(f"--color: {model} was trained for {name}, which changes colors; leave it out")
