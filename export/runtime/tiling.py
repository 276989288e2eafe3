"""Large images with a package of one size: overlapping tiles that share one field of noise and latents.

With a package of parts, the results of every step are averaged over the tiles with smooth weights, as in
`codi_tf.inference.tiling`; with a whole sampler, the finished tiles are averaged.
"""

from __future__ import annotations

import numpy as np

from codi_tf.core.noise import gaussian_noise
from codi_tf.inference.tiles import blended, tiles
from export.runtime.sampler import Sampler

OVERLAP = 0.25  # of a tile's shorter side


def generate_tiled(sampler: Sampler, image: np.ndarray, *, seed: int, ids: np.ndarray | None = None) -> np.ndarray:
    """Generate the image, float32 [H, W, 3] in [0, 1], for a condition [H, W, C] in [0, 1] not smaller than a tile."""
    package = sampler.package
    rows, columns, channels = package.latent_shape[1:]
    factor = package.height // rows
    height, width = (-(-side // factor) for side in image.shape[:2])  # of the latents
    margins = [(0, factor * height - image.shape[0]), (0, factor * width - image.shape[1]), (0, 0)]
    condition = np.pad(image, margins, "edge")[None]
    latent = tiles(height, width, (rows, columns), round(OVERLAP * min(rows, columns)))
    pixels = tiles(
        factor * height, factor * width, (package.height, package.width), factor * round(OVERLAP * min(rows, columns))
    )
    z = gaussian_noise(seed, (1, height, width, channels))
    inputs = {} if ids is None else {"ids": ids}
    if "sampler" in sampler.graphs:
        made = [sampler(there.of(condition), here.of(z), ids) for here, there in zip(latent, pixels, strict=True)]
    else:
        pools = [sampler.read({**inputs, "condition": there.of(condition)}) for there in pixels]
        for i in range(package.steps):
            steps = [sampler.step(i, here.of(z), pool) for here, pool in zip(latent, pools, strict=True)]
            z = blended(zip(latent, steps, strict=True), z.shape)
        made = [sampler.decode(here.of(z), pool) for here, pool in zip(latent, pools, strict=True)]
    whole = blended(zip(pixels, made, strict=True), (*condition.shape[:3], 3))
    return whole[0, : image.shape[0], : image.shape[1]]
