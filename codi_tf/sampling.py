"""Samplers: pure functions that unroll a denoiser over a time grid. Noise and schedule are arguments."""

from __future__ import annotations

from collections.abc import Iterator

from keras import ops

from codi_tf.diffusion import Denoise, Prediction, Schedule, Tensor, coefficients, ddim_step, trailing_times


def few_step(denoise: Denoise, z: Tensor, schedule: Schedule, num_steps: int) -> Tensor:
    """z_s = alpha_s x_hat + sigma_s eps_hat at num_steps decreasing times (CoDi, Eq. 7); the last one returns x_hat.

    This is DDIM (eta = 0, "trailing" times): a distilled model uses it with 1 to 4 evaluations, an undistilled one with
    20 to 200. There is no classifier-free guidance in it: a step is exactly one call of `denoise`.

    Args:
        denoise: (z_t, t int32 []) -> Prediction.
        z: float32 [B, ...], the starting noise, N(0, I).
        schedule: the one that the network was trained with, of T times.
        num_steps: number of network evaluations, 1 to T.

    Returns:
        float32 [B, ...], the clean latents.

    Raises:
        UserError: for num_steps that is not an int in 1..T.
    """
    *_, last = few_step_trajectory(denoise, z, schedule, num_steps)
    return last.x_hat


def few_step_trajectory(denoise: Denoise, z: Tensor, schedule: Schedule, num_steps: int) -> Iterator[Prediction]:
    """The predictions that `few_step` makes on its way, one for each of its num_steps evaluations, noisiest first."""
    times = trailing_times(num_steps, schedule.num_steps)
    for t, s in zip(times, (*times[1:], None), strict=True):
        prediction = denoise(z, ops.convert_to_tensor(t, "int32"))
        yield prediction
        if s is not None:
            z = ddim_step(prediction, *coefficients(schedule, s, ndim=len(z.shape)))
