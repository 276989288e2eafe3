"""codi run PACKAGE --condition in.png --out out.png: make an image with an exported model, without TensorFlow.

Needs NumPy, Pillow and the package's runtime (onnxruntime or ai-edge-litert), and tokenizers for prompts. The condition
may be of any size; a package for inpainting also takes a mask, one with prompts a prompt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from codi_tf.core.command_line import ArgumentParser
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.io import images
from codi_tf.io.color import ALIGNMENTS
from codi_tf.io.conditions import read_condition
from export.formats import FORMATS
from export.package.adapters import with_adapter
from export.package.manifest import Package, read_manifest, read_package
from export.runtime.sampler import Sampler, load_any
from export.runtime.tiling import generate_tiled


def load(package: Package, threads: int | None = None) -> Sampler:
    """Load a package's graphs into their runtime, to run on so many threads (None: `default_threads`).

    Raises UserError if the runtime is TensorFlow or is not installed.
    """
    if FORMATS[package.format].needs_tensorflow:
        others = [name for name in FORMATS if not FORMATS[name].needs_tensorflow]
        raise UserError(
            f"{package.folder}: a {package.format} package needs TensorFlow (tf.saved_model.load); "
            f"for this command export with --format {' or '.join(others)}"
        )
    return load_any(package, threads)


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
    tile: bool = False,
    color: str = "none",
) -> np.ndarray:
    """Generate the image for a condition image of any size.

    The condition is scaled without distortion to fit the size of the graphs, and mirrored at the bottom and the right
    to fill it; the output is cropped and scaled back. With `tile`, a larger condition is not scaled but processed in
    tiles (`export.runtime.tiling`). The noise is that of `codi_tf`'s `generate`. Known pixels of an image with a mask
    stay as they are.

    Args:
        sampler: from `load`.
        image: float32 [H, W, 3] in [0, 1]; for inpainting [H, W, 4], whose mask is above 0.5 where to fill.
        seed: of the noise.
        ids: the prompt's tokens, where the package takes them.
        tile: whether a condition that is larger than the package's size is processed in tiles.
        color: "wavelet" or "adain" aligns the image's colors with the condition's (`codi_tf.io.color`), for tasks that
            keep colors.

    Returns:
        float32 [H, W, 3] in [0, 1].

    Raises:
        UserError: the seed is out of range, or `color` is given for a task that changes colors.
    """
    package = sampler.package
    if color != "none" and not package.keeps_colors:
        raise UserError(f"--color: {package.folder} was made for {package.task}, which changes colors; leave it out")
    fitted = image if tile else _fit(image, package.height, package.width)
    height, width = fitted.shape[:2]
    filled = _mirrored(fitted, max(height, package.height), max(width, package.width))
    if filled.shape[:2] == (package.height, package.width):
        output = sampler(filled[None], gaussian_noise(seed, package.latent_shape), ids)[0]
    else:
        output = generate_tiled(sampler, filled, seed=seed, ids=ids)
    output = _resize(output[:height, :width], *image.shape[:2])
    if color != "none":
        output = np.clip(ALIGNMENTS[color](output, image), 0.0, 1.0)
    return output if image.shape[-1] == 3 else np.where(image[..., 3:] > 0.5, output, image[..., :3])


def _fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image resized to fit into height x width, with the same aspect ratio."""
    scale = min(height / image.shape[0], width / image.shape[1])
    return images.resize_condition(image, *(max(1, round(scale * side)) for side in image.shape[:2]))


def _mirrored(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image, mirrored to be at least height x width."""
    return np.pad(image, [(0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)], "reflect")


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return image if image.shape[:2] == (height, width) else images.resize(image, height, width)


def _condition(package: Package, path: Path, mask: Path | None) -> np.ndarray:
    """Read the condition image of the package's task. Raises UserError for a mask that is missing or not taken."""
    has_mask = package.condition_file == "masked_image"
    if not has_mask and mask is not None:
        raise UserError(f"--mask: {package.folder} was made for {package.task}, which takes no mask; leave it out")
    if has_mask and mask is None:
        raise UserError(f"--mask is missing: {package.folder} needs a mask of the image's size, white where to fill")
    return read_condition(path, package.condition_file, mask)


def main(arguments: list[str], prog: str = "python -m export.run") -> None:
    parser = ArgumentParser(
        prog=prog, description="Make an image with an exported model. " + (__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument("package", type=Path, help="folder of an exported model")
    parser.add_argument("--condition", required=True, type=Path, help="image file of any size")
    parser.add_argument(
        "--mask", type=Path, help="for inpainting: an image of the condition's size, white where to fill"
    )
    parser.add_argument("--prompt", help="the prompt, for packages that take one")
    parser.add_argument("--out", required=True, type=Path, help="PNG file to write, of the condition's size")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--tile", action="store_true", help="process a large image in tiles instead of scaling it down")
    colors = ("none", *ALIGNMENTS)
    parser.add_argument(
        "--color", choices=colors, default="none", help="align the colors with the condition's (default: none)"
    )
    parser.add_argument("--threads", type=int, help="threads (default: as many as processors; LiteRT: 8 at most)")
    parser.add_argument("--colour", choices=colors, dest="color", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--adapter", type=Path, help="the folder of another adapter for the same base (--adapter-of)")
    options = parser.parse_args(arguments)
    package = read_package(options.package)
    if options.adapter is not None:
        package = with_adapter(package, options.adapter)
    ids = token_ids(package, options.prompt)
    image = _condition(package, options.condition, options.mask)
    how = {"tile": options.tile, "color": options.color}
    package = package.fitting(*image.shape[:2])
    result = generate(load(package, options.threads), image, seed=options.seed, ids=ids, **how)
    images.write_png(options.out, result)
    height, width = image.shape[:2]
    print(f"{options.out}: {width}x{height}, computed at {package.width}x{package.height} in {package.steps} steps")
    if options.mask is not None:
        print(f"where {options.mask} is not white, its pixels are those of {options.condition}")
