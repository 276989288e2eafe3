"""Sampling whole sets of images with models: the same noise for every model, sampler and number of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.inference.rendering import pixel_limit

Sampler = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # conditions -> (images, clean latents)

BATCH = 32  # images at a time, at most: fewer where they are large


def batch_for(base, height: int, width: int) -> int:
    """The number of images of a size that a base's networks process at a time."""
    return max(1, min(BATCH, pixel_limit(base) // (height * width)))


def model_sampler(
    model,
    steps: int,
    seed: int = 0,
    *,
    sampler: str | None = None,
    guidance: float | None = None,
    text_guidance: float | None = None,
    prompt: str | Sequence[str] | None = None,
) -> Sampler:
    """Make a sampler for `measuring.evaluate` from a `CoDi` model. An image's noise depends on its place only.

    Args:
        model: the model.
        steps: network evaluations.
        seed: of the starting noise, drawn for the whole set, and of the noise that stochastic samplers add.
        sampler: the name of a sampler; None: the one that the model is trained for.
        guidance, text_guidance, prompt: as for `CoDi.generate`; one prompt for all images, or one for each.

    Returns:
        conditions float32 [N, H, W, C] in [-1, 1] -> (images [N, H, W, 3] in [-1, 1], clean latents [N, h, w, 4]).

    Raises:
        UserError: more steps than the model has training times; an unknown sampler; guidance or a prompt that the model
            does not take.
    """
    conditioning, options = _prepare(model, steps, sampler, guidance, text_guidance, prompt)

    def generate(condition, noise, *rest):
        *own, batch = rest
        prompt = own[0] if own else conditioning
        latents = model.generator.latents(condition, noise, prompt, seed=_seed_of_batch(seed, batch), **options)
        return _finished(model, latents, condition), latents

    def sample(conditions):
        noise = gaussian_noise(seed, model.latent_shape(*conditions.shape[:3]))
        batch = batch_for(model.base, *conditions.shape[1:3])
        prompts = conditioning.batch_size
        own = () if prompts == 1 else (conditioning,)
        if own and prompts != len(conditions):
            raise UserError(f"{prompts} prompts for {len(conditions)} images: give one, or one for each")
        return _in_batches(generate, batch, numbered=True)(conditions, noise, *own)

    return sample


def keeping(samplers: dict[str, Sampler], made: dict[str, np.ndarray]) -> dict[str, Sampler]:
    """The same samplers, which also put their images into `made`, by their names."""

    def kept(name: str, sampler: Sampler) -> Sampler:
        def sample(conditions):
            made[name], latents = sampler(conditions)
            return made[name], latents

        return sample

    return {name: kept(name, sampler) for name, sampler in samplers.items()}


def model_process(
    model,
    condition: np.ndarray,
    place: int,
    steps: int,
    seed: int = 0,
    *,
    sampler: str | None = None,
    guidance: float | None = None,
    text_guidance: float | None = None,
    prompt: str | None = None,
) -> np.ndarray:
    """x_hat, decoded, after every step of `model_sampler`, for one of the first BATCH images.

    Args:
        model, steps, seed, sampler, guidance, text_guidance: of `model_sampler`.
        prompt: the image's.
        condition: the image's, float32 [H, W, C] in [-1, 1].
        place: its place in the set, below BATCH, on which its noise depends.

    Returns:
        float32 [steps, H, W, 3] in [-1, 1]; the last is the sampler's image.

    Raises:
        UserError: see `model_sampler`.
    """
    import tensorflow as tf

    conditioning, options = _prepare(model, steps, sampler, guidance, text_guidance, prompt)
    number, row = divmod(place, batch_for(model.base, *condition.shape[:2]))
    alone = tf.constant(condition[np.newaxis])
    noise = tf.constant(gaussian_noise(seed, model.latent_shape(place + 1, *condition.shape[:2]))[place:])
    options |= {"seed": _seed_of_batch(seed, number), "first": row}
    predictions = model.generator.trajectory(alone, noise, conditioning, **options)
    return np.concatenate([_finished(model, prediction.x_hat, alone) for prediction in predictions])


def in_batches(function: Callable, batch: int = BATCH) -> Callable:
    """Turn a function of batches into a function of whole NumPy sets. All batches have one size: it compiles once."""
    return _in_batches(function, batch, numbered=False)


def _in_batches(function: Callable, batch: int, *, numbered: bool) -> Callable:
    """`in_batches`; a numbered function is also given the number of the batch."""
    import tensorflow as tf

    def whole(*arrays):
        count, parts = len(arrays[0]), []
        size = min(batch, count)
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)  # the last batch repeats the last image
            number = (start // size,) if numbered else ()

            def own(array, rows=rows):  # of a conditioning, what is one for all images stays
                return array if array is None or len(array) < count else tf.constant(array[rows])

            result = function(*tf.nest.map_structure(own, arrays), *number)
            parts.append(tf.nest.map_structure(np.asarray, result))
        return tf.nest.map_structure(lambda *batches: np.concatenate(batches)[:count], *parts)

    return whole


def _prepare(model, steps: int, sampler: str | None, guidance, text_guidance, prompt) -> tuple:
    """The conditioning, of batch size 1 or N, and the options of `Generator.trajectory`. Checked first of all."""
    from codi_tf.diffusion.sampling import make_grid

    longest = model.base.schedule.num_steps
    if not 1 <= steps <= longest:
        raise UserError(f"--steps has {steps}: it must be from 1 to {longest}")
    sampler = model.sampler if sampler is None else sampler
    make_grid(sampler, model.base.schedule, steps)
    guidances = {
        "guidance": model.check_guidance(guidance),
        "text_guidance": model.check_text_guidance(text_guidance, prompted=prompt is not None),
    }
    if prompt is None or isinstance(prompt, str):
        conditioning = model.base.conditioning(prompt)
    else:
        texts, places = np.unique(np.array(prompt, str), return_inverse=True)  # each different one is embedded once
        conditioning = model.base.conditioning(texts.tolist()).rows(places)
    return conditioning, {"steps": steps, "sampler": sampler, **guidances}


def _finished(model, latents, condition):
    """Latents as images, float32 [B, H, W, 3] in [-1, 1], finished as the task does it."""
    return np.clip(model.task.finish(model.generator.decode(latents), condition), -1, 1)


def _seed_of_batch(seed: int, batch: int) -> int:
    """The seed of stochastic samplers for a batch, different for each batch."""
    if batch == 0:
        return seed  # as in `CoDi.generate`
    return int(np.random.SeedSequence((seed, batch)).generate_state(1, np.uint64)[0] >> 1)
