"""Large images with a package of one size: overlapping tiles that share one field of noise and latents.

With a package of parts, the results of every step are averaged over the tiles with smooth weights, as in
`codi_tf.inference.tiling`; with a whole sampler, the finished tiles are averaged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from codi_tf.core.noise import gaussian_noise
from codi_tf.inference.tiles import blended
from export.formats.format import Tensors
from export.runtime.plan import tiles_of
from export.runtime.sampler import Sampler

MAX_KEPT = 2**29  # bytes of the tiles' condition features; beyond, every step computes them again
Report = Callable[[int, int], None]  # (graphs that were run, all), counting a tile once for each


def generate_tiled(
    sampler: Sampler, image: np.ndarray, *, seed: int, ids: np.ndarray | None = None, report: Report | None = None
) -> np.ndarray:
    """Generate the image for a condition that is not smaller than a tile.

    Args:
        sampler: from `run.load`.
        image: the condition, float32 [H, W, C] in [0, 1].
        seed: of the noise.
        ids: the prompt's tokens, int32 [77], where the package takes them.
        report: see `Report`.

    Returns:
        float32 [H, W, 3] in [0, 1].

    Raises:
        UserError: the seed is out of range; a graph fails.
    """
    package = sampler.package
    pixels, latents = tiles_of(package, *image.shape[:2])
    rows, columns, channels = package.latent_shape[1:]
    high, wide = pixels[-1].rows.stop, pixels[-1].columns.stop  # whole latents
    factor = package.height // rows
    condition = np.pad(image, [(0, high - image.shape[0]), (0, wide - image.shape[1]), (0, 0)], "edge")[None]
    z = gaussian_noise(seed, (1, high // factor, wide // factor, channels))
    whole = "sampler" in sampler.graphs
    done, total = 0, len(pixels) * (1 if whole else package.steps + 1)

    def counted(result: np.ndarray) -> np.ndarray:
        nonlocal done
        done += 1
        if report is not None:
            report(done, total)
        return result

    if whole:
        made = (
            counted(sampler(there.of(condition), here.of(z), ids)) for here, there in zip(latents, pixels, strict=True)
        )
    else:
        pool_of = _pools(sampler, [place.of(condition) for place in pixels], ids)
        zs = [z]
        for i in range(package.steps):
            steps = [counted(sampler.step(i, latent.of(zs[-1]), pool_of(k))) for k, latent in enumerate(latents)]
            zs = [*zs[:2], blended(zip(latents, steps, strict=True), z.shape)]
        z = sampler.result(zs[0], zs[1], zs[-1])
        made = (counted(sampler.decode(latent.of(z), pool_of(k))) for k, latent in enumerate(latents))
    result = blended(zip(pixels, made, strict=True), (*condition.shape[:3], 3))
    return result[0, : image.shape[0], : image.shape[1]]


def _pools(sampler: Sampler, conditions: list[np.ndarray], ids: np.ndarray | None) -> Callable[[int], Tensors]:
    """A function from the number of a tile to what all its steps take: prompt, condition and condition features.

    The prompt is embedded once. Condition features are kept if those of all tiles fit into MAX_KEPT.
    """
    shared = sampler.run("text", {} if ids is None else {"ids": ids})

    def pool(k: int) -> Tensors:
        return sampler.run("encoder", {**shared, "condition": conditions[k]})

    kept = pool(0)
    own = sum(tensor.nbytes for name, tensor in kept.items() if name not in shared)
    return functools.cache(pool) if own * len(conditions) <= MAX_KEPT else pool
