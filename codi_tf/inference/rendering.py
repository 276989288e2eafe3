"""Images from conditions of any size: in one piece, in tiles, or at a smaller size and then enlarged."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from codi_tf.core.arguments import whole_number
from codi_tf.core.errors import UserError
from codi_tf.inference.tiles import tiles
from codi_tf.io.color import ALIGNMENTS
from codi_tf.io.images import resize, resize_condition, to_uint8

MAX_PIXELS = 1_500_000  # that the networks process at once: the small models then need 2 GB
MAX_SIDE = 4096  # of an image from a prompt
MAX_ATTENTION_BYTES = 1_500_000_000  # of the largest attention map, which grows with the square of the pixels
TILE = 512  # side of the tiles, unless the base was trained on larger images or has memory for smaller ones only


class Plan(NamedTuple):
    """The sizes and tiles with which an image is made."""

    height: int  # of the image
    width: int
    working: tuple[int, int]  # height and width of what is generated, before it is enlarged
    tile: int = 0  # side of the tiles in pixels; 0: one piece
    overlap: int = 0  # of the tiles
    pieces: int = 1  # number of the tiles


def render(
    model,
    condition: np.ndarray,
    *,
    upscale: int = 1,
    tile: int | None = None,
    color: str = "none",
    image: np.ndarray | None = None,
    **options,
) -> np.ndarray:
    """The image that a model generates for a condition of any size.

    An image of more than `pixel_limit` is made of tiles if the task is local (`Task.is_local`), as super-resolution and
    inpainting are. For other tasks, and where all of a tile is unknown, it is generated at its `working_size` and then
    enlarged. Known pixels of a condition with a mask never change.

    Args:
        model: a `CoDi` model.
        condition: float RGB [H, W, 3] in [0, 1]; with a mask [H, W, 4], above 0.5 where the image is unknown.
        upscale: K, the result is K times as high and as wide as the condition, which is enlarged bicubically first.
        tile: the side of the tiles in pixels, for any image larger than that; 0: no tiles. None: for images beyond the
            limit tiles of 512 pixels, more if the base was trained on larger images, fewer if the limit is lower.
        color: "wavelet" or "adain" aligns the image's colors with the condition's (see `io.color`), for tasks that keep
            colors. Both also adopt colors that noise and compression have changed, so "none" is the default.
            "wavelet" also evens out tones that differ from tile to tile.
        image: where SDEdit starts, float RGB [h, w, 3] in [0, 1] of any size; not with tiles.
        options: of `CoDi.generate`: prompt, steps, seed, sampler, guidance, text_guidance, condition_scale, fidelity,
            strength, report. With tiles, `report` counts each tile in each step.

    Returns:
        uint8 RGB [K H, K W, 3].

    Raises:
        UserError: for an unsuitable tile or color, an image where tiles are needed, and as `CoDi.generate`.
    """
    made = plan(model, condition, upscale=upscale, tile=tile)
    _check_color(model, color)
    has_mask = model.task.has_mask
    resized = resize_condition(condition, *made.working, has_mask=has_mask)
    if image is not None:
        if made.tile:
            raise UserError("image: a result of this size is made in tiles, which start from noise; use tile 0")
        options["image"] = resize(image, *made.working)
    if made.tile:
        from codi_tf.inference.tiling import generate_tiled

        result = generate_tiled(model, resized, tile=made.tile, overlap=made.overlap, **options)
    else:
        result = model.generate(resized, **options)
    height, width = made.height, made.width
    if made.working != (height, width):
        result = to_uint8(resize(result / np.float32(255), height, width))
        if has_mask:
            result = _with_known(result, resize_condition(condition, height, width, has_mask=True))
    if color == "none":
        return result
    reference = resize_condition(condition, height, width, has_mask=has_mask)
    return to_uint8(ALIGNMENTS[color](result / np.float32(255), reference))


def plan(model, condition: np.ndarray, *, upscale: int = 1, tile: int | None = None) -> Plan:
    """The plan by which `render` makes an image with these arguments.

    Raises:
        UserError: for a tile that the networks cannot take, or a task without tiles.
    """
    height, width = (upscale * side for side in condition.shape[:2])
    limit = pixel_limit(model.base)
    whole = Plan(height, width, working=(height, width))
    smaller = whole._replace(working=working_size(height, width, limit))
    if tile == 0 or (tile is None and (smaller == whole or not model.task.is_local)):
        return smaller
    if tile is None:
        tiled = _of_tiles(whole, _largest_tile(model.base, limit), model.base.multiple)
        return smaller if model.task.has_mask and _has_unknown_tile(condition, tiled, upscale) else tiled
    _check_tile(model, tile)
    return _of_tiles(whole, tile, model.base.multiple) if max(height, width) > tile else whole


def _largest_tile(base, limit: int) -> int:
    trained = (base.unet.sample_size or 0) * base.vae.factor
    side = min(max(TILE, trained), math.isqrt(limit)) // base.multiple * base.multiple
    return max(side, 2 * base.multiple)


def _of_tiles(whole: Plan, tile: int, multiple: int) -> Plan:

    overlap = max(tile // 2 // multiple, 1) * multiple  # half a tile: less leaves steps of tone between tiles
    pieces = len(tiles(whole.height, whole.width, tile, overlap))
    return whole._replace(tile=tile, overlap=overlap, pieces=pieces)


def _has_unknown_tile(condition: np.ndarray, tiled: Plan, upscale: int) -> bool:
    """Whether the mask of a condition covers a whole tile."""
    unknown = condition[..., 3] > 0.5
    places = tiles(tiled.height, tiled.width, tiled.tile, tiled.overlap)
    return any(unknown[_shrunk(place.rows, upscale), _shrunk(place.columns, upscale)].all() for place in places)


def _shrunk(interval: slice, upscale: int) -> slice:
    return slice(interval.start // upscale, -(-interval.stop // upscale))


def _check_tile(model, tile: int) -> None:
    multiple = model.base.multiple
    whole_number("tile", tile, 2 * multiple, 2**31)
    if not model.task.is_local:
        raise UserError(f"tile is {tile}: this model's task needs the whole image at once; leave it out")
    if tile % multiple:
        raise UserError(f"tile is {tile}: it must be a multiple of {multiple}, such as {tile // multiple * multiple}")


def _check_color(model, color: str) -> None:
    if color == "none":
        return
    if color not in ALIGNMENTS:
        raise UserError(f"color is {color!r}: use one of none, {', '.join(ALIGNMENTS)}")
    if not model.task.keeps_colors:
        raise UserError(f"color is {color}: this model's task does not keep an image's colors; leave it out")


def _with_known(image: np.ndarray, condition: np.ndarray) -> np.ndarray:
    """The image, uint8 [H, W, 3], with the known pixels of a condition with a mask."""
    return np.where(condition[..., 3:] > 0.5, image, to_uint8(condition[..., :3]))


def pixel_limit(base) -> int:
    """The number of pixels of the largest image that a base's networks generate without excessive memory.

    MAX_PIXELS, or fewer where the UNet's finest self-attention would exceed MAX_ATTENTION_BYTES; not fewer than the
    checkpoint was trained on, if that is known.
    """
    unet, factor = base.unet, base.vae.factor
    kinds = (*unet.down_block_types[:-1], "CrossAttn")  # the middle block attends at the last level's resolution
    finest = next(level for level, kind in enumerate(kinds) if "CrossAttn" in kind)
    positions = math.sqrt(MAX_ATTENTION_BYTES / (4 * unet.heads[finest]))  # float32 [heads, positions, positions]
    trained = (unet.sample_size or 0) * factor
    return max(min(MAX_PIXELS, int(positions * (factor * 2**finest) ** 2)), trained**2)


def working_size(height: int, width: int, limit: int) -> tuple[int, int]:
    """The size at which an image is generated: its own, or the largest of the same shape within the limit of pixels.

    No side is above limit / 64, because narrow strips are padded to the networks' multiple.
    """
    shrink = min(1.0, math.sqrt(limit / (height * width)), limit / 64 / max(height, width))
    return max(1, int(height * shrink)), max(1, int(width * shrink))
