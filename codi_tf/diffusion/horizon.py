"""How far ahead the conditional consistency loss makes a model look, and whether training it is stable.

Pure functions of a schedule, from where the loss is stationary (docs/mathematics.md, "The horizon"). This analysis is
ours, not the paper's. lambda is the weight of the guidance term, delta = t - s, a_t = alpha_t / sigma_t.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.diffusion.process import PREDICTION_TYPES, Schedule

ZS = Literal["own", "predicted", "frozen"]
INERT = 0.25  # of a sampler's step: a loss that looks less far ahead trains a model that still needs many steps


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


def default_delta(schedule: Schedule) -> int:
    """T / 16, about the delta of the first trials. For 4 evaluations it is a quarter of the sampler's step.

    Of two settings of one horizon the one with the larger delta has the larger margin of stability.
    """
    return max(schedule.num_steps // 16, 1)


def look_ahead(
    schedule: Schedule,
    *,
    z_s: ZS,
    space: Literal["noise", "signal"],
    delta: int,
    weight: float,
) -> np.ndarray:
    """The mean look-ahead in training times at t = 1 .. T - 1: float64 [T - 1].

    Where the loss is stationary, x_hat_t = (1 - w) m_t + w x_hat_s, with m_t the posterior mean; hence a look-ahead of
    delta w / (1 - w). That ratio is 1 / lambda in signal space; in noise space a_t a_s / lambda for a predicted z_s,
    a_t a_s / (lambda + a_t^2) for an own one, whose target contains the drawn noise, and with it the true signal, and
    a_t a_s / (lambda + a_t^2 - a_t a_s) for a frozen network whose signal is m_t.

    Args:
        schedule: of T training times.
        z_s, space: see `losses.conditional_consistency`; its other spaces are not analyzed.
        delta: in training times, at least 1.
        weight: lambda, at least 0; the look-ahead is infinite where nothing binds the signal to the data.
    """
    t = np.arange(1, schedule.num_steps)
    s = np.maximum(t - delta, 0)
    a = schedule.alpha.astype(np.float64) / schedule.sigma
    if space == "signal":
        pull, bound = np.ones(len(t)), np.full(len(t), weight)
    else:
        pull = a[t] * a[s]
        own = {"own": a[t] ** 2, "predicted": np.zeros(len(t)), "frozen": a[t] ** 2 - pull}[z_s]
        bound = np.maximum(weight + own, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return delta * pull / bound


def stability(
    schedule: Schedule, prediction_type: str, *, delta: int, weight: float, z_s: ZS = "predicted"
) -> Stability:
    """Whether an error that the network makes alike at t and s dies out, in signal space.

    With x_hat_t = truth + b_t, training follows b_t (1 + lambda) = g b_t + b_s. For data of variance 1, g is
    (alpha_s - sigma_s alpha_t / sigma_t) alpha_s for a predicted z_s, alpha_s^2 for an own one, whose noise is drawn
    and does not change with the error, and 0 for a frozen one. It is stable where g + b_s / b_t < 1 + lambda for every
    t. b follows from what the network predicts: the same at all t for the signal, as sigma for velocity, as
    sigma / alpha for noise.

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
    moved = {"own": alpha[s], "predicted": alpha[s] - sigma[s] * alpha[t] / sigma[t], "frozen": 0.0}[z_s]
    growth = moved * alpha[s] + b[s] / b[t]
    worst = int(growth.argmax())
    return Stability(float(growth[worst]), int(t[worst]), 1.0 + weight)


def doubts(
    schedule: Schedule, prediction_type: str, *, z_s: ZS, space: str, delta: int, weight: float, steps: int
) -> list[str]:
    """Why a training cannot work, one line for each reason: the loss is inert, or errors grow. [] where none is known.

    Args:
        schedule, z_s, delta, weight: see `look_ahead`.
        prediction_type: what the network predicts.
        space: of `losses.conditional_consistency`; of "velocity" and "none" nothing is said.
        steps: N, the evaluations of the sampler that the model is for.
    """
    found, times = [], schedule.num_steps
    setting = f"z_s {z_s}, consistency {space}, delta {delta} and guidance weight {weight:g}"
    if space in ("noise", "signal"):
        ahead = float(np.nanmedian(look_ahead(schedule, z_s=z_s, space=space, delta=delta, weight=weight)))
        if ahead < INERT * times / steps:
            found.append(
                f"method: with {setting} the loss looks {ahead:.2g} training times ahead (median), and a step of "
                f"{steps}-step sampling goes {times / steps:.4g}: the model stays close to an undistilled one; set z_s "
                "predicted, consistency signal, and steps in place of guidance_weight"
            )
    if space == "signal":
        growth, time, limit = errors = stability(schedule, prediction_type, delta=delta, weight=weight, z_s=z_s)
        if not errors.is_stable:
            found.append(
                f"method: with {setting} on a network that predicts {prediction_type} an error becomes {growth:.4g} "
                f"times as large at t = {time}, and dies out only below {limit:.4g}: training will diverge; set z_s "
                "predicted, raise delta or the weight, or start from a base that predicts velocity"
            )
    return found
