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

    A picture of more than `pixel_limit` is made at its `working_size` and then enlarged; the known pixels of a photo
    with a mask are its own all the same.

    Args:
        model: a `CoDi` model.
        photo: float RGB [H, W, 3] in [0, 1]; for inpainting [H, W, 4], with a mask above 0.5 where it is to be filled.
        upscale: K, the result is K times as high and as wide as the photo, which is enlarged bicubically first.
        options: of `CoDi.generate`: prompt, steps, seed, sampler, guidance, report.

    Returns:
        uint8 RGB [K H, K W, 3].
    """
    height, width = (upscale * side for side in photo.shape[:2])
    working = working_size(height, width, pixel_limit(model.base))
    image = model.generate(_resized(photo, *working), **options)
    if working == (height, width):
        return image
    image = to_uint8(resize(image / np.float32(255), height, width))
    return image if photo.shape[-1] == 3 else _with_known(image, _resized(photo, height, width))


def _resized(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """The photo in another size. Of a mask, every pixel that something unknown has a share in becomes unknown."""
    if photo.shape[:2] == (height, width):
        return photo
    rgb = resize(photo[..., :3], height, width)
    if photo.shape[-1] == 3:
        return rgb
    # Around one half, so that clipping to [0, 1] leaves the negative lobes of the bicubic kernel what they are.
    share = resize(0.5 + 0.25 * (photo[..., 3:] > 0.5).astype(np.float32), height, width) - 0.5
    unknown = np.abs(share) > 1e-4
    return np.concatenate([rgb, unknown], axis=-1)


def _with_known(image: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """`Inpainting.finish` in bytes: the image uint8 [H, W, 3] with the known pixels of a photo with a mask."""
    return np.where(photo[..., 3:] > 0.5, image, to_uint8(photo[..., :3]))


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
