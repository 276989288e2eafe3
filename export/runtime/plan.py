"""How an image of any size is made with a package of one size: in one piece, in tiles, or smaller and then enlarged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.inference.tiles import Tile, tiles
from export.package.manifest import Package

OVERLAP = 0.25  # of a tile's shorter side


class Plan(NamedTuple):
    """The size and the tiles with which an image is made.

    Attributes:
        height, width: of the generated image; it is scaled to the wanted size in the end if they differ.
        pieces: the number of tiles; 1: one piece.
        note: why a larger image is not made in tiles, and what to do about it; else "".
    """

    height: int
    width: int
    pieces: int = 1
    note: str = ""

    @property
    def tiled(self) -> bool:
        """Whether the image is made in tiles."""
        return self.pieces > 1


def make_plan(package: Package, condition: np.ndarray, tile: bool | None = None) -> Plan:
    """The plan by which `export.runtime.run.generate` makes an image.

    An image that is larger than the package's size is made in tiles if the task is local (`Task.is_local`), because
    scaling it down would lose its detail. It is scaled down for other tasks, and where a mask covers a whole tile,
    which would have to be filled without any known pixel.

    Args:
        package: at the size at which it computes.
        condition: [H, W, C] in [0, 1]; a fourth channel is above 0.5 where the image is unknown.
        tile: None: the rule above; True: tiles for every larger image; False: none.

    Raises:
        UserError: `tile` is True for a task that is not local.
    """
    height, width = condition.shape[:2]
    if tile and not package.is_local:
        raise UserError(
            f"--tile: {package.folder} was made for {package.task}, which needs the whole image at once; leave it out"
        )
    scale = min(package.height / height, package.width / width)
    smaller = Plan(max(1, round(scale * height)), max(1, round(scale * width)))
    if scale >= 1:
        return smaller
    if not package.is_local:
        return smaller._replace(note=f"{package.task} needs the whole image at once; export with a larger --size")
    if tile is False:
        return smaller
    places = tiles_of(package, height, width)[0]
    if tile is None and package.has_mask and _covers_one(condition[..., 3] > 0.5, places):
        return smaller._replace(note="the mask covers a whole tile; export with a larger --size, or add --tile")
    return Plan(height, width, len(places))


def tiles_of(package: Package, height: int, width: int) -> tuple[list[Tile], list[Tile]]:
    """The tiles of an image of this size, in pixels and, at the same places, in latents.

    They cover whole latents, so they may reach beyond the image.
    """
    rows, columns = package.latent_shape[1:3]
    factor, overlap = package.height // rows, round(OVERLAP * min(rows, columns))
    high, wide = (-(-max(side, least) // factor) for side, least in ((height, package.height), (width, package.width)))
    size = (package.height, package.width)
    return (
        tiles(factor * high, factor * wide, size, factor * overlap),
        tiles(high, wide, (rows, columns), overlap),
    )


def _covers_one(unknown: np.ndarray, places: list[Tile]) -> bool:
    """Whether a mask [H, W] covers all of the image in one of the tiles."""
    return any(unknown[place.rows, place.columns].all() for place in places)
