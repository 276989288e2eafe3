"""Variance-preserving diffusion: schedule tables, conversions between predictions, the DDIM step, time grids.

Pure functions. z_t = alpha_t x + sigma_t eps with alpha_t^2 + sigma_t^2 = 1; x is the clean latent, eps ~ N(0, I). A
time t is an integer index into the schedule, 0 (cleanest) to T - 1 (noisiest); s < t is the less noisy of two times.
All arithmetic is float32, whatever the dtype of a network's output. Arguments alpha_* and sigma_* are numbers, or
tensors that broadcast against the latents [B, ...], as `coefficients` gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from keras import ops

from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_TIMES

Tensor = Any  # a tensor of Keras' backend, or a NumPy array
Boundary = Literal[False, True, "noise"]  # which predictions carry the boundary scalings, see `bounded`

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
TIMESTEP_SPACINGS = ("leading", "linspace", "trailing")


class Schedule(NamedTuple):
    """alpha_t and sigma_t of q(z_t | x) = N(alpha_t x, sigma_t^2 I) (CoDi, Eq. 1): float32 arrays [T], indexed by t."""

    alpha: np.ndarray
    sigma: np.ndarray

    @property
    def num_steps(self) -> int:
        """T, the number of training times."""
        return len(self.alpha)


class Prediction(NamedTuple):
    """A network's prediction at (z_t, t) as signal, noise and velocity: float32 tensors of the shape of z_t."""

    x_hat: Tensor
    eps_hat: Tensor
    v_hat: Tensor


Denoise = Callable[[Tensor, Tensor], Prediction]  # (z_t [B, ...], t int32 [] or [B]) -> Prediction


def make_schedule(
    beta_schedule: str, num_train_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> Schedule:
    """alpha_t^2 = prod_{i <= t} (1 - beta_i), sigma_t^2 = 1 - alpha_t^2: the tables of diffusers' schedulers.

    Args:
        beta_schedule: "linear", "scaled_linear" (Stable Diffusion) or "squaredcos_cap_v2" (cosine), diffusers' names.
        num_train_timesteps: T, 1 to 1,000,000.
        beta_start, beta_end: first and last beta, 0 < beta_start <= beta_end < 1; the cosine schedule ignores them.

    Raises:
        UserError: for an unknown name or numbers outside of these ranges.
    """
    if not 1 <= num_train_timesteps <= MAX_TIMES:
        raise UserError(f"num_train_timesteps is {num_train_timesteps}; it must be 1 to {MAX_TIMES}")
    if not 0.0 < beta_start <= beta_end < 1.0:
        raise UserError(f"beta_start, beta_end are {beta_start}, {beta_end}; they must obey 0 < start <= end < 1")
    if beta_schedule == "linear":
        betas = np.linspace(beta_start, beta_end, num_train_timesteps, dtype=np.float64)
    elif beta_schedule == "scaled_linear":
        betas = np.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=np.float64) ** 2
    elif beta_schedule == "squaredcos_cap_v2":
        edges = np.arange(num_train_timesteps + 1, dtype=np.float64) / num_train_timesteps
        alpha_bar = np.cos((edges + 0.008) / 1.008 * np.pi / 2) ** 2  # [T + 1]
        betas = np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    else:
        raise UserError(f"unknown beta_schedule {beta_schedule!r}; choose one of {', '.join(BETA_SCHEDULES)}")
    alphas_cumprod = np.cumprod(1.0 - betas)  # [T]
    return Schedule(np.sqrt(alphas_cumprod).astype(np.float32), np.sqrt(1.0 - alphas_cumprod).astype(np.float32))


def coefficients(schedule: Schedule, t: Tensor, ndim: int = 4) -> tuple[Tensor, Tensor]:
    """(alpha_t, sigma_t) at integer times t ([] or [B]), shaped to broadcast against [B, ...] of ndim axes.

    Returns float32 tensors of shape [1, 1, ..] for a scalar t and [B, 1, ..] for a vector.
    """
    t = ops.convert_to_tensor(t, "int32")
    alpha_t, sigma_t = ops.take(schedule.alpha, t, axis=0), ops.take(schedule.sigma, t, axis=0)
    return _broadcastable(alpha_t, ndim), _broadcastable(sigma_t, ndim)


def q_sample(x: Tensor, eps: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
    """z_t = alpha_t x + sigma_t eps (CoDi, Eq. 1, reparameterized). float32, the shape of x."""
    return alpha_t * _float32(x) + sigma_t * _float32(eps)


def velocity(x: Tensor, eps: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
    """v = alpha_t eps - sigma_t x (CoDi, section 3; Salimans & Ho 2022). float32, the shape of x."""
    return alpha_t * _float32(eps) - sigma_t * _float32(x)


def predict(output: Tensor, z_t: Tensor, alpha_t: Tensor, sigma_t: Tensor, prediction_type: str) -> Prediction:
    """x_hat = alpha_t z_t - sigma_t v_hat, eps_hat = alpha_t v_hat + sigma_t z_t (CoDi, Eq. 8).

    Reads a network's output, float of any width and of the shape of z_t, in its own parametrization: "epsilon",
    "v_prediction" or "sample" (diffusers' names for eps, v and x). For "epsilon" x_hat is divided by alpha_t: where
    alpha_t is nearly 0, an error of the network grows accordingly.

    Raises:
        UserError: for an unknown prediction_type.
    """
    output, z_t = _float32(output), _float32(z_t)
    if prediction_type == "v_prediction":
        return Prediction(alpha_t * z_t - sigma_t * output, alpha_t * output + sigma_t * z_t, output)
    if prediction_type == "epsilon":
        x_hat, eps_hat = (z_t - sigma_t * output) / alpha_t, output
    elif prediction_type == "sample":
        x_hat, eps_hat = output, (z_t - alpha_t * output) / sigma_t
    else:
        raise UserError(f"unknown prediction_type {prediction_type!r}; choose one of {', '.join(PREDICTION_TYPES)}")
    return Prediction(x_hat, eps_hat, velocity(x_hat, eps_hat, alpha_t, sigma_t))


def ddim_step(prediction: Prediction, alpha_s: Tensor, sigma_s: Tensor) -> Tensor:
    """z_s = alpha_s x_hat + sigma_s eps_hat (CoDi, Eq. 7 and 9; DDIM with eta = 0). float32, the shape of x_hat."""
    return alpha_s * prediction.x_hat + sigma_s * prediction.eps_hat


def halving_target(
    z_t: Tensor, z_s: Tensor, alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor
) -> Tensor:
    """x_tilde = (z_s - (sigma_s / sigma_t) z_t) / (alpha_s - (sigma_s / sigma_t) alpha_t).

    The x_hat with which one DDIM step from z_t ends at z_s, where two steps of a teacher end: the student's target
    in progressive distillation (Salimans & Ho 2022, algorithm 2; Meng et al. 2023, section 3.2). It is
    z_s itself where the step ends clean. float32, the shape of z_t; s must be less noisy than t.
    """
    ratio = sigma_s / sigma_t
    return (_float32(z_s) - ratio * _float32(z_t)) / (alpha_s - ratio * alpha_t)


def boundary_scalings(t: Tensor, num_steps: int, sigma_data: float = 0.5, ndim: int = 4) -> tuple[Tensor, Tensor]:
    """c_skip = sd^2 / (tau^2 + sd^2), c_out = tau / sqrt(tau^2 + sd^2), tau = t / (T - 1) (CoDi, Eq. 18, corrected).

    c_skip(0) = 1 and c_out(0) = 0, as Eq. 11 demands. As printed, Eq. 18 lacks c_skip's square, and its c_out has a
    factor sd that fits networks with data-scaled output only, not x_hat and eps_hat in their natural units.

    Args:
        t: integer times, [] or [B].
        num_steps: T, the number of training times, at least 2.
        sigma_data: sd.
        ndim: number of axes of the latents that the scalings are to broadcast against.

    Returns:
        float32 tensors of shape [1, 1, ..] for a scalar t and [B, 1, ..] for a vector.
    """
    tau = _broadcastable(_float32(t), ndim) / float(num_steps - 1)
    norm = tau * tau + sigma_data**2
    return sigma_data**2 / norm, tau / ops.sqrt(norm)


def bounded(denoise: Denoise, schedule: Schedule, boundary: Boundary = True, sigma_data: float = 0.5) -> Denoise:
    """F(z_t, t) = c_skip(t) z_t + c_out(t) f(z_t, t) (CoDi, Eq. 11 and 17).

    Eq. 11 and 17 print c_skip * x where z_t is meant. A model trained with the boundary scalings must be sampled with
    them: give `bounded(denoise, schedule, boundary)` to the sampler.

    Args:
        denoise: predicts f.
        schedule: of T training times.
        boundary: True: F for f = x_hat and for f = eps_hat. "noise": for f = eps_hat alone, as section 4.2 says, and
            x_hat = (z_t - sigma_t F) / alpha_t, so that signal and noise still make up z_t. False: `denoise` as it is.
        sigma_data: see `boundary_scalings`.
    """
    if not boundary:
        return denoise

    def bounded_denoise(z_t: Tensor, t: Tensor) -> Prediction:
        z_t, ndim = _float32(z_t), len(z_t.shape)
        f = denoise(z_t, t)
        c_skip, c_out = boundary_scalings(t, schedule.num_steps, sigma_data, ndim)
        eps_hat, levels = c_skip * z_t + c_out * f.eps_hat, coefficients(schedule, t, ndim)
        if boundary == "noise":
            return predict(eps_hat, z_t, *levels, "epsilon")
        x_hat = c_skip * z_t + c_out * f.x_hat
        return Prediction(x_hat, eps_hat, velocity(x_hat, eps_hat, *levels))

    return bounded_denoise


def trailing_times(num_steps: int, num_train: int) -> tuple[int, ...]:
    """t_i = round(T (N - i) / N) - 1, i = 0 .. N - 1: N decreasing times from T - 1 (diffusers' "trailing").

    Args:
        num_steps: N, the number of network evaluations, 1 to T.
        num_train: T, the number of training times.

    Raises:
        UserError: for num_steps that is not an int in 1..T.
    """
    if not isinstance(num_steps, int) or not 1 <= num_steps <= num_train:
        raise UserError(f"num_steps is {num_steps!r}; it must be a whole number from 1 to {num_train}")
    return tuple(round(num_train * (num_steps - i) / num_steps) - 1 for i in range(num_steps))


def spaced_times(
    spacing: str, num_steps: int, num_train: int, *, offset: int = 0, without_last: bool = False
) -> tuple[int, ...]:
    """t_i = (N - 1 - i) (T // N) + offset, or round((N - 1 - i) (T - 1) / (N - 1)), or `trailing_times`.

    The "leading", "linspace" and "trailing" times of diffusers' schedulers, decreasing; Lin et al. 2024, "Common
    diffusion noise schedules and sample steps are flawed", table 2.

    Args:
        spacing: "leading", "linspace" or "trailing".
        num_steps: N, the number of network evaluations, at least 1.
        num_train: T, the number of training times.
        offset: added to leading times (`steps_offset`).
        without_last: the first N of N + 1 leading or linspace times, as DPM-Solver uses them; not of trailing times.

    Raises:
        UserError: for an unknown spacing, or more steps than there are times.
    """
    if spacing == "trailing":
        return trailing_times(num_steps, num_train)
    if spacing not in TIMESTEP_SPACINGS:
        raise UserError(f"unknown timestep_spacing {spacing!r}; choose one of {', '.join(TIMESTEP_SPACINGS)}")
    if not isinstance(num_steps, int) or not 1 <= num_steps <= num_train:
        raise UserError(f"num_steps is {num_steps!r}; it must be a whole number from 1 to {num_train}")
    count = num_steps + without_last
    if spacing == "leading":
        times = np.arange(count) * (num_train // count) + offset
    else:
        times = np.linspace(0, num_train - 1, count).round()
    times = times[::-1][:num_steps].astype(int)
    if times[0] >= num_train or (np.diff(times) >= 0).any():
        raise UserError(f"num_steps is {num_steps}; that is too many for {spacing} times of {num_train}: take half")
    return tuple(times.tolist())


def _float32(value: Tensor) -> Tensor:
    return ops.cast(value, "float32")


def _broadcastable(values: Tensor, ndim: int) -> Tensor:
    """[] -> [1, 1, ..] and [B] -> [B, 1, ..], by a reshape: indexing with None becomes a Flex op in TFLite."""
    return ops.reshape(values, (-1,) + (1,) * (ndim - 1))
