"""Gaussian data: the best denoiser and the solution of the ODE are known."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from codi_tf.diffusion import process as diffusion
from codi_tf.diffusion.sampling import trajectory

SCHEDULE = diffusion.make_schedule("scaled_linear")
MEAN, STD = 0.3, 0.7
SHAPE = (2, 4, 4, 3)


def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def gaussian_denoiser(std: float = STD, schedule: diffusion.Schedule = SCHEDULE):
    def denoise(z_t, t):
        alpha_t, sigma_t = diffusion.coefficients(schedule, t, len(z_t.shape))
        gain = alpha_t * std**2 / (alpha_t**2 * std**2 + sigma_t**2)
        return diffusion.predict(MEAN + gain * (z_t - alpha_t * MEAN), z_t, alpha_t, sigma_t, "sample")

    return denoise


class Recorder:
    """Hands calls through to a denoiser and keeps what went in and out."""

    def __init__(self, denoise):
        self.denoise, self.calls = denoise, []

    def __call__(self, z_t, t):
        prediction = self.denoise(z_t, t)
        self.calls.append((z_t, t, prediction))
        return prediction


def level(t: int | None) -> tuple[float, float]:
    """alpha and sigma at a time in float64; None: of the data."""
    return (1.0, 0.0) if t is None else (float(SCHEDULE.alpha[t]), float(SCHEDULE.sigma[t]))


def mean_and_std(denoise, grid, mean: float, std: float) -> list[tuple[float, float]]:
    """Mean and standard deviation of z after every step, from z ~ N(mean, std^2) at the first.

    Each step is affine in z and in the noise, so that one entry of the batch gives the constant, and one for z and for
    each of the draws its coefficient. Nothing is sampled.
    """
    inputs = np.eye(grid.draws + 2, grid.draws + 1, k=-1, dtype=np.float32)  # row 0: all 0
    z, *eps = (tf.constant(column[:, None]) for column in inputs.T)
    moments = []
    for _, z_s in trajectory(denoise, z, grid, eps):
        constant, *of_z_and_eps = np.float64(z_s)[:, 0]
        of_z, *of_eps = np.array(of_z_and_eps) - constant
        moments.append((constant + of_z * mean, np.sqrt((of_z * std) ** 2 + np.sum(np.square(of_eps)))))
    return moments
