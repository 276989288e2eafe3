"""Large images with bounded memory: overlapping tiles, blended after encoding, after every step, after decoding.

All tiles share one field of latents and one field of noise. In each step the network is evaluated for every
tile of z_t, and the predictions are averaged with smooth weights (Jimenez 2023, "Mixture of Diffusers"; also StableSR,
Wang et al. 2024). Signal, noise and velocity are linear in the network's output at one z_t, so their averages are
consistent with each other. Samplers get a denoiser of the whole image and need not handle tiles.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from codi_tf.core.arguments import as_prompts, whole_number
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.diffusion.process import Denoise, Prediction
from codi_tf.diffusion.sampling import make_grid, trajectory
from codi_tf.inference.generation import Generator, check_finite
from codi_tf.inference.knobs import check_condition_scale, check_fidelity, result_of
from codi_tf.inference.tiles import Tile, blended, tiles
from codi_tf.io.images import as_batch, bands, pad_to_multiple, to_uint8
from codi_tf.methods.networks import encode_condition


def tiled_denoiser(
    generator: Generator,
    c,
    places: list[tuple[Tile, Tile]],
    conditioning: Conditioning,
    *,
    report: Callable[[int], None] | None = None,
    **options,
) -> Denoise:
    """(z_t, t) -> Prediction over a whole field z_t [1, h, w, C]: the blended predictions of its tiles.

    The condition features are computed again for each tile in each call, because those of a whole image would need more
    memory than everything else.

    Args:
        generator: it computes only in the shape of a tile.
        c: the encoded condition, see `encode_condition`: [1, h, w, C], or the condition itself.
        places: each tile of z_t with the tile of c at the same place.
        conditioning: of the prompt, of batch size 1.
        report: is called with the number of tiles that are done in all calls.
        options: of `Generator.denoiser`.
    """
    generator, conditioning, done = _Encoded(generator), conditioning.tensors(), itertools.count(1)

    def predictions(z_t, t):
        for place, of_c in places:
            prediction = generator.denoiser(tf.constant(of_c.of(c)), conditioning, **options)(place.of(z_t), t)
            yield place, tf.concat(prediction, axis=-1)
            if report is not None:
                report(next(done))

    def denoise(z_t, t):
        field = blended(predictions(z_t, t), (*z_t.shape[:3], 3 * z_t.shape[3]))
        return Prediction(*np.split(field, 3, axis=-1))

    return denoise


class _Encoded(Generator):
    """A generator whose conditions are encoded already: c, the adapter's input."""

    def __init__(self, generator: Generator):
        shared = {"boundary": generator.boundary, "guidance": generator.guidance}
        super().__init__(generator.base, generator.network, **shared)
        self.denoise = generator.denoise  # compiled once

    def _encode(self, c, conditioning):
        return self.network.condition(c, conditioning)

    def _encode_nothing(self, c, conditioning):
        return self.network.condition(tf.zeros_like(c), conditioning)


def generate_tiled(
    model,
    image: np.ndarray,
    *,
    tile: int,
    overlap: int,
    prompt: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    sampler: str | None = None,
    guidance: float | None = None,
    text_guidance: float | None = None,
    condition_scale: float = 1.0,
    fidelity: float = 0.0,
    report: Callable[[int], None] | None = None,
) -> np.ndarray:
    """`CoDi.generate` for one image of any size; the networks process one tile at a time.

    Memory is that of a tile, plus the image, its condition, its latents and the result. The noise is that of
    `generate`: for an image that fits into one tile the result is the same.

    Args:
        model: a `CoDi` model of a local task (`Task.is_local`).
        image: uint8, or float in [0, 1], [H, W, C], C the task's `condition_channels`.
        tile: side of the tiles in pixels, a multiple of `base.multiple`.
        overlap: of neighboring tiles in pixels, a multiple of `base.multiple` below `tile`; 0 leaves seams.
        prompt, steps, seed, sampler, guidance, text_guidance, condition_scale, fidelity: see `CoDi.generate`.
        report: is called with the number of tiles that are done; every step counts each tile.

    Returns:
        uint8 [H, W, 3]. Known pixels of an image with a mask do not change.

    Raises:
        UserError: for an unsuitable tile or overlap, and as `CoDi.generate`.
    """
    base, network, generator = model.base, model.network, model.generator
    evaluations = model.steps_for(steps)
    _check_tile(tile, overlap, base.multiple)
    condition, (height, width) = _condition(model, image)  # [1, H, W, C], padded
    conditioning = _conditioning(base, prompt)
    guided = {
        "guidance": model.check_guidance(guidance),
        "text_guidance": model.check_text_guidance(text_guidance, prompted=prompt is not None),
        "condition_scale": check_condition_scale(condition_scale, network.adapter),
    }
    fidelity = check_fidelity(fidelity)
    shape = model.latent_shape(*condition.shape[:3])
    grid = make_grid(model.sampler if sampler is None else sampler, base.schedule, evaluations)

    pixels = tiles(condition.shape[1], condition.shape[2], tile, overlap)
    latents = tiles(shape[1], shape[2], tile // base.vae.factor, overlap // base.vae.factor)
    c, of_c = condition, pixels
    if network.condition_space != "image":
        encode = tf.function(functools.partial(encode_condition, base, network), autograph=False)
        channels = shape[3] + model.task.has_mask  # the mask follows the latents
        parts = (
            (place, encode(tf.constant(pixel.of(condition)))) for place, pixel in zip(latents, pixels, strict=True)
        )
        c, of_c = blended(parts, (*shape[:3], channels)), latents

    places = list(zip(latents, of_c, strict=True))
    denoise = tiled_denoiser(generator, c, places, conditioning, report=report, **guided)
    fresh = (gaussian_noise(seed, shape, stream=i + 1) for i in range(grid.draws))
    steps_made = trajectory(denoise, tf.constant(gaussian_noise(seed, shape)), grid, fresh)
    z = tf.constant(result_of((prediction for prediction, _ in steps_made), fidelity))

    check_finite(z)
    parts = ((pixel, check_finite(generator.decode(place.of(z)))) for place, pixel in zip(latents, pixels, strict=True))
    images = blended(parts, (*condition.shape[:3], 3))
    result = np.empty((height, width, 3), np.uint8)
    for rows in bands(height):
        finished = np.asarray(model.task.finish(images[:, rows], condition[:, rows]))
        result[rows] = to_uint8((finished[0, :, :width] + 1.0) / 2.0)
    return result


def _check_tile(tile: int, overlap: int, multiple: int) -> None:
    """Raises UserError for tiles that the networks cannot take, or that overlap completely."""
    whole_number("tile", tile, multiple, 2**31)
    whole_number("overlap", overlap, 0, 2**31)
    for name, value in (("tile", tile), ("overlap", overlap)):
        if value % multiple:
            nearest = max(round(value / multiple), 1) * multiple
            raise UserError(f"{name} is {value}: the networks take multiples of {multiple}, such as {nearest}")
    if overlap >= tile:
        raise UserError(f"overlap is {overlap}: it must be below tile, {tile}")


def _condition(model, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The condition [1, H, W, C] of an image, padded to the networks' multiple, and the image's height and width."""
    batch = as_batch("image", image, channels=model.task.condition_channels)
    if np.ndim(image) != 3:
        raise UserError(f"image has shape {np.shape(image)}: tiles are made of one image, [H, W, C]")
    padded, size = pad_to_multiple(batch[0], model.base.multiple)
    return np.asarray(model.task.condition_from_image(2.0 * padded[np.newaxis] - 1.0)), size


def _conditioning(base, prompt: str | None) -> Conditioning:
    if prompt is None:
        return base.conditioning()
    prompts = as_prompts(prompt)
    if len(prompts) != 1:
        raise UserError(f"{len(prompts)} prompts for one image: give one")
    return base.conditioning(prompts)
