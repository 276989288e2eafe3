"""python -m codi_tf.sample BUNDLE --condition in.png --out out.png [--steps 4] [--seed 0] [--upscale K]

The photo may have any size and mode; transparency is laid over white. The result is an RGB PNG of the same size, or K
times as large. Whatever can be wrong with the arguments is told before TensorFlow is loaded.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

import numpy as np

from codi_tf.cli import run_command, start_tensorflow
from codi_tf.errors import UserError
from codi_tf.images import read_image, resize, to_uint8, write_png

MAX_PIXELS = 1_500_000  # of what the networks see: the small models then need 2 GB
MAX_ATTENTION_BYTES = 1_000_000_000  # of the largest attention map, which grows with the square of the pixels
MAX_RESULT_PIXELS = 50_000_000


def render(
    model, photo: np.ndarray, *, prompt: str | None = None, steps: int = 4, seed: int = 0, upscale: int = 1
) -> np.ndarray:
    """The picture that a model makes from a photo of any size.

    A picture of more than `pixel_limit` is made at its `working_size` and then enlarged.

    Args:
        model: a `CoDi` model.
        photo: float RGB [H, W, 3] in [0, 1].
        prompt, steps, seed: see `CoDi.generate`.
        upscale: K, the result is K times as high and as wide as the photo, which is enlarged bicubically first.

    Returns:
        uint8 RGB [K H, K W, 3].
    """
    height, width = (upscale * side for side in photo.shape[:2])
    working = working_size(height, width, pixel_limit(model))
    if working != photo.shape[:2]:
        photo = resize(photo, *working)
    image = model.generate(photo, prompt, steps=steps, seed=seed)
    return image if working == (height, width) else to_uint8(resize(image / np.float32(255), height, width))


def pixel_limit(model) -> int:
    """The number of pixels of the largest picture that a model makes without excessive memory.

    MAX_PIXELS, or fewer where the UNet's finest self-attention would exceed MAX_ATTENTION_BYTES.
    """
    unet, factor = model.base.unet, model.base.vae.factor
    kinds = (*unet.down_block_types[:-1], "CrossAttn")  # the middle block attends at the last level's resolution
    finest = next(level for level, kind in enumerate(kinds) if "CrossAttn" in kind)
    heads = np.max(unet.attention_head_dim)
    positions = math.sqrt(MAX_ATTENTION_BYTES / (4 * heads))  # float32 [heads, positions, positions]
    return min(MAX_PIXELS, int(positions * (factor * 2**finest) ** 2))


def working_size(height: int, width: int, limit: int) -> tuple[int, int]:
    """The size that a picture is made at: its own, or the largest of the same shape that the limit of pixels allows.

    No side is above limit / 64, because narrow strips are padded to the networks' multiple.
    """
    shrink = min(1.0, math.sqrt(limit / (height * width)), limit / 64 / max(height, width))
    return max(1, int(height * shrink)), max(1, int(width * shrink))


def _check(options: argparse.Namespace) -> None:
    """Raises UserError for whatever can be wrong without a look at the photo or the model."""
    for name, low, high in (("steps", 1, 1000), ("seed", 0, 2**63 - 1), ("upscale", 1, MAX_RESULT_PIXELS)):
        value = getattr(options, name)
        if not low <= value <= high:
            raise UserError(f"--{name} is {value}: it must be between {low} and {high}")
    if not (options.bundle / "codi.json").is_file():
        raise UserError(f"{options.bundle}: no such bundle; train one or name another")
    out = options.out
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is {out}: the result is a PNG; use a name that ends in .png")
    if out.is_dir():
        raise UserError(f"--out is {out}: that is a folder; name a file")
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--out is {out}: nothing can be written into {folder}; choose another place")


def _main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m codi_tf.sample", description="Make a picture from a photo.")
    parser.add_argument("bundle", type=Path, help="folder of a trained model")
    parser.add_argument("--condition", type=Path, required=True, help="the photo, any size and mode")
    parser.add_argument("--out", type=Path, required=True, help="the result, an RGB .png")
    parser.add_argument("--prompt", help="only for a model with a text encoder")
    parser.add_argument("--steps", type=int, default=4, help="network evaluations (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--upscale", type=int, default=1, help="how many times as large the result is (default: 1)")
    options = parser.parse_args(arguments)
    _check(options)
    photo = read_image(options.condition)
    height, width = (options.upscale * side for side in photo.shape[:2])
    size = f"{options.condition}: the result of {width}x{height}"
    if height * width > MAX_RESULT_PIXELS:
        raise UserError(f"{size} has more than {MAX_RESULT_PIXELS:,} pixels; shrink the photo or --upscale")

    start_tensorflow()
    from codi_tf.model import load

    model = load(options.bundle)
    working = working_size(height, width, pixel_limit(model))
    if working != (height, width):
        print(f"{size} is made at {working[1]}x{working[0]} and enlarged, to save memory", file=sys.stderr)
    chosen = {name: getattr(options, name) for name in ("prompt", "steps", "seed", "upscale")}
    write_png(options.out, render(model, photo, **chosen))
    print(options.out)


if __name__ == "__main__":
    sys.exit(run_command(_main))
