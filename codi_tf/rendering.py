"""Pictures from photos of any size: how large the networks see them, and what is enlarged afterwards."""

from __future__ import annotations

import math

import numpy as np

from codi_tf.images import resize, to_uint8

MAX_PIXELS = 1_500_000  # of what the networks see: the small models then need 2 GB
MAX_SIDE = 4096  # of a picture from a prompt
MAX_ATTENTION_BYTES = 1_500_000_000  # of the largest attention map, which grows with the square of the pixels


def render(model, photo: np.ndarray, *, upscale: int = 1, **options) -> np.ndarray:
    """The picture that a model makes from a photo of any size.

    A picture of more than `pixel_limit` is made at its `working_size` and then enlarged.

    Args:
        model: a `CoDi` model.
        photo: float RGB [H, W, 3] in [0, 1].
        upscale: K, the result is K times as high and as wide as the photo, which is enlarged bicubically first.
        options: of `CoDi.generate`: prompt, steps, seed, report.

    Returns:
        uint8 RGB [K H, K W, 3].
    """
    height, width = (upscale * side for side in photo.shape[:2])
    working = working_size(height, width, pixel_limit(model.base))
    if working != photo.shape[:2]:
        photo = resize(photo, *working)
    image = model.generate(photo, **options)
    return image if working == (height, width) else to_uint8(resize(image / np.float32(255), height, width))


def pixel_limit(base) -> int:
    """The number of pixels of the largest picture that a base's networks make without excessive memory.

    MAX_PIXELS, or fewer where the UNet's finest self-attention would exceed MAX_ATTENTION_BYTES; not less than the
    checkpoint was trained for, if that is known.
    """
    unet, factor = base.unet, base.vae.factor
    kinds = (*unet.down_block_types[:-1], "CrossAttn")  # the middle block attends at the last level's resolution
    finest = next(level for level, kind in enumerate(kinds) if "CrossAttn" in kind)
    positions = math.sqrt(MAX_ATTENTION_BYTES / (4 * unet.heads[finest]))  # float32 [heads, positions, positions]
    trained = (unet.sample_size or 0) * factor
    return max(min(MAX_PIXELS, int(positions * (factor * 2**finest) ** 2)), trained**2)


def working_size(height: int, width: int, limit: int) -> tuple[int, int]:
    """The size that a picture is made at: its own, or the largest of the same shape that the limit of pixels allows.

    No side is above limit / 64, because narrow strips are padded to the networks' multiple.
    """
    shrink = min(1.0, math.sqrt(limit / (height * width)), limit / 64 / max(height, width))
    return max(1, int(height * shrink)), max(1, int(width * shrink))
