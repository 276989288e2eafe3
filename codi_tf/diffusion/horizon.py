"""How far ahead the conditional consistency loss makes a model look, and whether training it is stable.

Pure functions of a schedule, from where the loss is stationary (docs/mathematics.md, "The horizon"). This analysis is
ours, not the paper's. lambda is the weight of the guidance term, delta = t - s, a_t = alpha_t / sigma_t.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.diffusion.process import PREDICTION_TYPES, Schedule


class Stability(NamedTuple):
    """Whether an error of the network dies out: see `stability`.

    Attributes:
        growth: the largest g + b_s / b_t of all times.
        time: the t where it occurs.
        limit: 1 + lambda.
    """

    growth: float
    time: int
    limit: float

    @property
    def is_stable(self) -> bool:
        """Whether the growth is below the limit."""
        return self.growth < self.limit


def weight_for_steps(steps: int, delta: int, schedule: Schedule) -> float:
    """lambda = delta N / T: the guidance weight of a model for N evaluations, with predicted z_s, in signal space.

    Such a model's signal is a geometrically weighted mean of the posterior means along its ODE. The mean look-ahead is
    delta / lambda training times, and a sampler of N evaluations jumps T / N.

    Raises:
        UserError: steps not in 1..T.
    """
    if not 1 <= steps <= schedule.num_steps:
        raise UserError(f"method.steps is {steps}: it must be from 1 to {schedule.num_steps}, the training times")
    return delta * steps / schedule.num_steps


def look_ahead(
    schedule: Schedule,
    *,
    z_s: Literal["own", "predicted"],
    space: Literal["noise", "signal"],
    delta: int,
    weight: float,
) -> np.ndarray:
    """The mean look-ahead in training times at t = 1 .. T - 1: float64 [T - 1].

    Where the loss is stationary, x_hat_t = (1 - w) m_t + w x_hat_s, with m_t the posterior mean; hence a look-ahead of
    delta w / (1 - w). That ratio is 1 / lambda in signal space; in noise space a_t a_s / lambda for a predicted z_s and
    a_t a_s / (lambda + a_t^2) for an own one, whose target contains the drawn noise, and with it the true signal.

    Args:
        schedule: of T training times.
        z_s, space: see `losses.conditional_consistency`; its other values are not analyzed.
        delta: in training times, at least 1.
        weight: lambda, at least 0; the look-ahead is infinite where nothing binds the signal to the data.
    """
    t = np.arange(1, schedule.num_steps)
    s = np.maximum(t - delta, 0)
    a = schedule.alpha.astype(np.float64) / schedule.sigma
    pull = a[t] * a[s] if space == "noise" else np.ones(len(t))
    bound = weight + (a[t] ** 2 if (z_s, space) == ("own", "noise") else np.zeros(len(t)))
    with np.errstate(divide="ignore"):
        return delta * pull / bound


def stability(schedule: Schedule, prediction_type: str, *, delta: int, weight: float) -> Stability:
    """Whether an error that the network makes alike at t and s dies out, with predicted z_s, in signal space.

    With x_hat_t = truth + b_t, training follows b_t (1 + lambda) = g b_t + b_s with
    g = (alpha_s - sigma_s alpha_t / sigma_t) alpha_s, for data of variance 1. It is stable where
    g + b_s / b_t < 1 + lambda for every t. b follows from what the network predicts: the same at all t for the signal,
    as sigma for velocity, as sigma / alpha for noise.

    Raises:
        UserError: an unknown prediction type.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise UserError(f"unknown prediction_type {prediction_type!r}; choose one of {', '.join(PREDICTION_TYPES)}")
    alpha, sigma = schedule.alpha.astype(np.float64), schedule.sigma.astype(np.float64)
    errors = {"sample": np.ones_like(sigma), "v_prediction": sigma, "epsilon": sigma / np.maximum(alpha, 1e-8)}
    b = errors[prediction_type]
    t = np.arange(1, schedule.num_steps)
    s = np.maximum(t - delta, 0)
    growth = (alpha[s] - sigma[s] * alpha[t] / sigma[t]) * alpha[s] + b[s] / b[t]
    worst = int(growth.argmax())
    return Stability(float(growth[worst]), int(t[worst]), 1.0 + weight)
