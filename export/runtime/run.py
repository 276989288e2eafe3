"""codi run PACKAGE --condition in.png --out out.png: make an image with an exported model, without TensorFlow.

Needs NumPy, Pillow and the package's runtime (onnxruntime or ai-edge-litert), and tokenizers for prompts. The condition
may be of any size; a package for inpainting also takes a mask, one with prompts a prompt. A package of a text-to-image
model takes the prompt alone.

--condition takes a folder, too: --out is then the folder of the results, which have the same names, and --mask a folder
of masks of these names, or one for all. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import numpy as np

from codi_tf.core.arguments import add_condition_scale, add_fidelity, flag, path_argument, seed_number
from codi_tf.core.command_line import ArgumentParser
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.core.progress import Progress
from codi_tf.io import images
from codi_tf.io.color import ALIGNMENTS
from codi_tf.io.conditions import condition_files, mask_files, read_condition
from codi_tf.io.image_folders import ResultFolder, partners
from codi_tf.io.outputs import check_not_read
from codi_tf.io.save_image import check_image_file, write_image
from export.formats import FORMATS
from export.package.adapters import with_adapter
from export.package.manifest import Package, parse_size, read_manifest, read_package
from export.runtime.choice import Choice, add_choice, choice_of, resolve_runtime
from export.runtime.fidelity import faithful
from export.runtime.plan import Plan, make_plan
from export.runtime.sampler import Sampler, load_any, scaled
from export.runtime.tiling import Report, generate_tiled


def load(
    package: Package,
    threads: int | None = None,
    *,
    runtime: str | None = None,
    provider: str | None = None,
    cache: Path | None = None,
) -> Sampler:
    """Load a package's graphs into a runtime; the options are those of `export.runtime.choice.Choice`.

    Raises UserError if the runtime is TensorFlow, is not installed, or cannot do what is chosen.
    """
    choice = Choice(runtime, provider, threads, cache)
    if resolve_runtime(runtime, package.format)[0].needs_tensorflow:
        others = [name for name in FORMATS if not resolve_runtime(None, name)[0].needs_tensorflow]
        raise UserError(
            f"{package.folder}: a {package.format} package needs TensorFlow (tf.saved_model.load); "
            f"for this command export with --format {' or '.join(others)}"
        )
    return load_any(package, choice)


def token_ids(package: Package, prompt: str | None) -> np.ndarray | None:
    """The prompt's tokens, int32 [77]; None for a package without prompts.

    Raises:
        UserError: the prompt is missing, or the package takes none.
    """
    if not package.prompted:
        if prompt is not None:
            fixed = (read_manifest(package.folder) or {}).get("prompt")
            what = "takes no prompt" if fixed is None else f"was made for the prompt {fixed!r}"
            raise UserError(f"--prompt: {package.folder} {what}; leave it out")
        return None
    if prompt is None:
        raise UserError(f"--prompt is missing: {package.folder} takes the prompt as an input")
    from codi_tf.checkpoints.tokenizer import Tokenizer

    return Tokenizer.load(package.folder / "tokenizer")([prompt])[0]


def generate(
    sampler: Sampler,
    image: np.ndarray,
    *,
    seed: int,
    ids: np.ndarray | None = None,
    tile: bool | None = None,
    color: str = "none",
    fidelity: float = 0.0,
    report: Report | None = None,
) -> np.ndarray:
    """Generate the image for a condition image of any size.

    A condition that is larger than the graphs is processed in tiles if the task is local (`export.runtime.plan`).
    Any other is scaled without distortion to fit the size of the graphs, and mirrored at the bottom and the right to
    fill it; the output is cropped and scaled back. The noise is that of `codi_tf`'s `generate`. Known pixels of an
    image with a mask stay as they are.

    Args:
        sampler: from `load`.
        image: float32 [H, W, 3] in [0, 1]; for inpainting [H, W, 4], whose mask is above 0.5 where to fill.
        seed: of the noise.
        ids: the prompt's tokens, where the package takes them.
        tile: whether a condition that is larger than the package's size is processed in tiles; None: if its task is
            local, and no mask covers a whole tile.
        color: "wavelet" or "adain" aligns the image's colors with the condition's (`codi_tf.io.color`), for tasks that
            keep colors.
        fidelity: of a package of parts: 0 is the last step's image, 1 the first step's (`fidelity.faithful`).
        report: is called with what is done and what there is to do, in graphs and tiles.

    Returns:
        float32 [H, W, 3] in [0, 1].

    Raises:
        UserError: the seed is out of range, `color` is given for a task that changes colors, `tile` for one that needs
            the whole image, or `fidelity` for a package whose fidelity is fixed.
    """
    sampler = faithful(sampler, fidelity)
    package = sampler.package
    if color != "none" and not package.keeps_colors:
        raise UserError(f"--color: {package.folder} was made for {package.task}, which changes colors; leave it out")
    plan = make_plan(package, image, tile)
    height, width = plan.height, plan.width
    fitted = images.resize_condition(image, height, width, has_mask=package.has_mask)
    filled = _mirrored(fitted, max(height, package.height), max(width, package.width))
    if plan.tiled:
        output = generate_tiled(sampler, filled, seed=seed, ids=ids, report=report)
    else:
        output = sampler(filled[None], gaussian_noise(seed, package.latent_shape), ids)[0]
    output = _resize(output[:height, :width], *image.shape[:2])
    if color != "none":
        output = np.clip(ALIGNMENTS[color](output, image), 0.0, 1.0)
    return np.where(image[..., 3:] > 0.5, output, image[..., :3]) if package.has_mask else output


def from_prompt(sampler: Sampler, *, seed: int, ids: np.ndarray | None) -> np.ndarray:
    """The image of a text-to-image package, float32 [H, W, 3] in [0, 1]; the noise is that of `codi text2image`.

    Args:
        sampler: from `load`.
        seed: of the noise.
        ids: the prompt's tokens; None for a package that was made for one prompt.

    Raises:
        UserError: the seed is out of range.
    """
    return sampler(None, gaussian_noise(seed, sampler.package.latent_shape), ids)[0]


def _mirrored(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image, mirrored to be at least height x width."""
    return np.pad(image, [(0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)], "reflect")


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return image if image.shape[:2] == (height, width) else images.resize(image, height, width)


def _check_mask(package: Package, mask: Path | None) -> None:
    """Raise UserError for a mask that is missing or not taken."""
    if not package.has_mask and mask is not None:
        raise UserError(f"--mask: {package.folder} was made for {package.task}, which takes no mask; leave it out")
    if package.has_mask and mask is None:
        raise UserError(f"--mask is missing: {package.folder} needs a mask of the image's size, white where to fill")


def _progress() -> Report:
    """A report that shows a progress line."""
    bars: list[Progress] = []

    def report(done: int, total: int) -> None:
        if not bars:
            bars.append(Progress("tile", total))
        bars[0].update(done)

    return report


def _said(package: Package, plan: Plan, height: int, width: int) -> str:
    """How an image of height x width was made, for the user."""
    steps = f"{package.steps} step{'' if package.steps == 1 else 's'}"
    if plan.tiled:
        return f"{width}x{height}, made in {plan.pieces} tiles of {package.width}x{package.height} and {steps}"
    if plan.height >= height and plan.width >= width:
        return f"{width}x{height}, computed at {package.width}x{package.height} in {steps}"
    note = f": {plan.note}" if plan.note else ""
    return f"{width}x{height}, made at {plan.width}x{plan.height} in {steps} and enlarged{note}"


def main(arguments: list[str], prog: str = "python -m export.run") -> None:
    """Run `codi run`. Raises UserError for a package or options that cannot be used, see `generate`."""
    parser = ArgumentParser(prog=prog, doc=__doc__)
    parser.add_argument("package", type=path_argument, help="folder of an exported model")
    parser.add_argument(
        "--condition",
        type=path_argument,
        help="image file of any size, or a folder of them; all but text-to-image packages take it",
    )
    parser.add_argument(
        "--mask",
        type=path_argument,
        help="for inpainting: an image of the condition's size, white where to fill; or a folder",
    )
    parser.add_argument("--prompt", help="the prompt, for packages that take one")
    parser.add_argument(
        "--out",
        required=True,
        type=path_argument,
        help="image file to write, of the condition's size: .png, .jpg, .webp, .tif, ...; of a folder of conditions, "
        "the folder of the results",
    )
    parser.add_argument("--size", help="for text-to-image: which of the package's sizes, as 64x96 (default: its first)")
    parser.add_argument("--seed", type=seed_number, default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--tile",
        action=argparse.BooleanOptionalAction,
        help="whether an image that is larger than the package's size is made in tiles instead of scaled down "
        "(default: if the task allows it)",
    )
    colors = ("none", *ALIGNMENTS)
    parser.add_argument(
        "--color", choices=colors, default="none", help="align the colors with the condition's (default: none)"
    )
    add_choice(parser)
    add_condition_scale(parser, "for packages of parts whose adapter is mu or t2i")
    add_fidelity(parser, "for packages of parts")
    parser.add_argument("--colour", choices=colors, dest="color", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--adapter", type=path_argument, help="the folder of another adapter for the same base (--adapter-of)"
    )
    options = parser.parse_args(arguments)
    folder = options.condition is not None and options.condition.is_dir()
    if not folder:
        check_image_file(options.out)
        check_not_read(options.out, {"--condition": options.condition, "--mask": options.mask})
    package = read_package(options.package)
    if options.adapter is not None:
        package = with_adapter(package, options.adapter)
    if not package.channels:
        _run_without_condition(package, options)
        return
    if options.size is not None:
        raise UserError(f"--size: {package.folder} takes the size of the condition; leave it out")
    if options.condition is None:
        raise UserError(f"--condition is missing: {package.folder} makes an image from a condition")
    _check_mask(package, options.mask)
    ids = token_ids(package, options.prompt)
    print(_run_folder(package, options, ids) if folder else _run_one(package, options, ids))
    if options.mask is not None:
        print(f"where {options.mask} is not white, its pixels are those of {options.condition}")


def _run_one(package: Package, options: argparse.Namespace, ids: np.ndarray | None) -> str:
    """Make an image from a condition, and say how."""
    image = read_condition(options.condition, package.condition_file, options.mask)
    check_image_file(options.out, image.shape[:2])
    package = package.fitting(*image.shape[:2])
    plan = make_plan(package, image, options.tile)
    how = {"tile": options.tile, "color": options.color, "fidelity": options.fidelity}
    how["report"] = _progress() if plan.tiled else None
    sampler = scaled(load(package, **choice_of(options)._asdict()), options.condition_scale)
    write_image(options.out, generate(sampler, image, seed=options.seed, ids=ids, **how))
    return f"{options.out}: {_said(package, plan, *image.shape[:2])}"


def _run_folder(package: Package, options: argparse.Namespace, ids: np.ndarray | None) -> str:
    """Make an image from each condition of a folder, and say how many."""
    files = condition_files(options.condition, package.condition_file)
    masks = {} if options.mask is None else partners(files, "--mask", options.mask, mask_files)
    choice, faster = choice_of(options), ("out", "threads", "cache")  # the images do not depend on these
    settings = {name: value for name, value in vars(options).items() if name not in faster}
    reads = [options.package, options.adapter, options.mask]
    results = ResultFolder(options.out, options.condition, files, settings, reads)
    how = {"tile": options.tile, "color": options.color, "fidelity": options.fidelity, "seed": options.seed, "ids": ids}

    @functools.cache
    def sampler(height: int, width: int) -> Sampler:
        return scaled(load(package.at(height, width), **choice._asdict()), options.condition_scale)

    def make(_: Sampler, name: str) -> np.ndarray:
        image = read_condition(files[name], package.condition_file, masks.get(name))
        size = package.fitting(*image.shape[:2])
        return generate(sampler(size.height, size.width), image, **how)

    return results.fill(lambda: sampler(package.height, package.width), make)


def _run_without_condition(package: Package, options: argparse.Namespace) -> None:
    """Make the image of a text-to-image package. Raises UserError for options that it does not take."""
    usual = {"condition": None, "mask": None, "tile": None, "condition_scale": 1.0, "fidelity": 0.0, "color": "none"}
    for name, default in usual.items():
        if getattr(options, name) != default:
            raise UserError(f"{flag(name)}: {package.folder} makes images from prompts alone; leave it out")
    ids = token_ids(package, options.prompt)
    package = package if options.size is None else package.at(*parse_size(options.size))
    check_image_file(options.out, (package.height, package.width))
    write_image(options.out, from_prompt(load(package, **choice_of(options)._asdict()), seed=options.seed, ids=ids))
    steps = f"{package.steps} step{'' if package.steps == 1 else 's'}"
    print(f"{options.out}: {package.width}x{package.height}, in {steps}")
