"""The conditional consistency loss of CoDi, the diffusion loss, those of guided distillation, and their distances.

Pure functions of callables and draws. Every loss is per example, float32 [B], and a mean (not a sum) over the other
axes, so that the balance of two terms does not depend on the size of the latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keras import ops

from codi_tf.core.errors import UserError
from codi_tf.diffusion.halving import Halving
from codi_tf.diffusion.process import (
    Boundary,
    Denoise,
    Prediction,
    Schedule,
    Tensor,
    bounded,
    coefficients,
    ddim_step,
    halving_target,
    predict,
    q_sample,
    velocity,
)
from codi_tf.diffusion.sampling import guided

DenoiseWithFeatures = Callable[[Tensor, Tensor], tuple[Prediction, Sequence[Tensor]]]
Distance = Callable[[Tensor, Tensor], Tensor]  # (x [B, ...], x_hat [B, ...]) -> [B]

Z_S = ("own", "predicted", "frozen")
SPACES = {"noise": "eps_hat", "signal": "x_hat", "velocity": "v_hat"}  # space -> field of Prediction


def latent_distance(x: Tensor, x_hat: Tensor) -> Tensor:
    """||x - x_hat||^2 (CoDi, Fig. 2, the default), as a mean over all axes but the first. Returns float32 [B]."""
    difference = ops.cast(x, "float32") - ops.cast(x_hat, "float32")
    return ops.mean(ops.square(difference), axis=tuple(range(1, len(x.shape))))


def absolute_distance(x: Tensor, x_hat: Tensor) -> Tensor:
    """|x - x_hat|, as a mean over all axes but the first. Returns float32 [B]."""
    difference = ops.cast(x, "float32") - ops.cast(x_hat, "float32")
    return ops.mean(ops.abs(difference), axis=tuple(range(1, len(x.shape))))


def encoded_distance(decode: Callable[[Tensor], Tensor], encode: Callable[[Tensor], Tensor]) -> Distance:
    """||x - E(D(x_hat))||^2 (CoDi, Fig. 2).

    decode: latents [B, h, w, 4] -> images [B, H, W, 3]; encode: images -> latents, scaled as x is.
    """

    def distance(x: Tensor, x_hat: Tensor) -> Tensor:
        return latent_distance(x, encode(decode(x_hat)))

    return distance


def pixel_distance(decode: Callable[[Tensor], Tensor]) -> Distance:
    """||D(x) - D(x_hat)||^2 (CoDi, Fig. 2). decode: latents [B, h, w, 4] -> images [B, H, W, 3]."""

    def distance(x: Tensor, x_hat: Tensor) -> Tensor:
        return latent_distance(decode(x), decode(x_hat))

    return distance


def perceptual_distance(decode: Callable[[Tensor], Tensor], features: Callable[[Tensor], Sequence[Tensor]]) -> Distance:
    """sum_l ||F_l(D(x)) - F_l(D(x_hat))||^2 (CoDi, Fig. 2: LPIPS of the decoded images).

    decode: latents [B, h, w, 4] -> images [B, H, W, 3]; features: images -> feature maps F_l [B, ...], one for each
    layer l, normalized and weighted already. For LPIPS: of unit length along the channels, times the square root of
    (weight of the channel, times number of channels), because ||.||^2 is a mean here and a sum over the channels there.
    """

    def distance(x: Tensor, x_hat: Tensor) -> Tensor:
        layers = zip(features(decode(x)), features(decode(x_hat)), strict=True)
        return sum(latent_distance(f, f_hat) for f, f_hat in layers)

    return distance


def conditional_consistency(
    student: Denoise,
    target: Denoise,
    schedule: Schedule,
    x: Tensor,
    eps: Tensor,
    t: Tensor,
    *,
    delta: int,
    z_s: str = "own",
    space: str = "noise",
    distance: Distance = latent_distance,
    guidance: Distance | None = latent_distance,
    guidance_weight: float = 1.0,
    boundary: Boundary = False,
    frozen: Denoise | None = None,
) -> dict[str, Tensor]:
    """d_eps(eps_hat_{theta-}(z_s, s, c), eps_hat_theta(z_t, t, c)) + d_x(x, x_hat_theta(z_t, t, c)) (CoDi, Eq. 15).

    The loss of Algorithm 1; the condition c is inside the callables. Gradients flow through the student's predictions
    at (z_t, t) only: z_s and the target's predictions are constants. Each network is evaluated at most once, and only
    if its prediction is used.

    Args:
        student: theta, the adapted network being trained.
        target: theta-, its exponential moving average. Not called if space is "none".
        schedule: alpha and sigma of the T training times.
        x: clean latents [B, ...].
        eps: the drawn noise, N(0, I), of the shape of x.
        t: int32 times in 0..T-1, [] (one for the whole batch) or [B].
        delta: s = max(t - delta, 0), in training times; at least 1.
        z_s: the prediction that gives z_s from z_t: "own" (Eq. 14: the student's signal, the drawn noise), "predicted"
            (Algorithm 1: the student's signal and noise) or "frozen" (consistency models: the frozen network's).
        space: the space of the consistency term: "noise", "signal", "velocity", or "none" for guidance alone.
        distance: d_eps, between the target's prediction and the student's.
        guidance: d_x, one of the distances above; None for consistency alone.
        guidance_weight: factor on d_x.
        boundary: which predictions of student and target carry the boundary scalings (`process.bounded`).
        frozen: the network before training; needed for z_s "frozen" only.

    Returns:
        {"consistency": [B], "guidance": [B]}: weighted terms, to be added. A term that is turned off is absent.

    Raises:
        UserError: for an unknown z_s or space, a delta below 1, z_s "frozen" without the frozen network, or both terms
            turned off.
    """
    _check("z_s", z_s, Z_S)
    _check("space", space, (*SPACES, "none"))
    if space == "none" and guidance is None:
        raise UserError("space is 'none' and guidance is None: nothing is left to train on; choose one of them")
    if delta < 1:
        raise UserError(f"delta is {delta}; s = t - delta must be less noisy than t, so choose 1 or more")
    if z_s == "frozen" and frozen is None:
        raise UserError("z_s 'frozen' follows the ODE of the frozen network; pass it as frozen=")
    student, target = (bounded(network, schedule, boundary) for network in (student, target))
    ndim = len(x.shape)
    x, eps, t = ops.cast(x, "float32"), ops.cast(eps, "float32"), ops.convert_to_tensor(t, "int32")

    z_t = q_sample(x, eps, *coefficients(schedule, t, ndim))
    at_t = student(z_t, t)  # x_hat_t, eps_hat_t
    terms = {}
    if space != "none":
        s = ops.maximum(t - delta, 0)
        if z_s == "own":
            step = at_t._replace(eps_hat=eps)
        elif z_s == "predicted":
            step = at_t
        else:
            assert frozen is not None
            step = frozen(z_t, t)
        # A constant before the target's pass, so that none of its activations is stored for gradients.
        z_hat_s = ops.stop_gradient(ddim_step(step, *coefficients(schedule, s, ndim)))
        at_s = target(z_hat_s, s)  # Algorithm 1 prints t for this time; Eq. 15 has s
        field = SPACES[space]
        terms["consistency"] = distance(ops.stop_gradient(getattr(at_s, field)), getattr(at_t, field))
    if guidance is not None:
        terms["guidance"] = guidance_weight * guidance(x, at_t.x_hat)
    return terms


def denoising(
    student: Denoise,
    schedule: Schedule,
    x: Tensor,
    eps: Tensor,
    t: Tensor,
    *,
    space: str = "velocity",
    max_weight: float | None = None,
) -> Tensor:
    """||v - v_hat_theta(z_t, t)||^2, v = alpha_t eps - sigma_t x: the diffusion loss (Salimans & Ho 2022, section 4).

    For pre-training and fine-tuning. `space` "noise" compares eps (Ho et al. 2020), "signal" x. `max_weight` limits the
    weight of the signal's squared error, which is 1 / sigma_t^2 in v, alpha_t^2 / sigma_t^2 in eps and 1 in x. Other
    arguments as in `conditional_consistency`.

    Returns:
        float32 [B].

    Raises:
        UserError: for an unknown space.
    """
    _check("space", space, tuple(SPACES))
    x, eps, t = ops.cast(x, "float32"), ops.cast(eps, "float32"), ops.convert_to_tensor(t, "int32")
    alpha_t, sigma_t = coefficients(schedule, t, len(x.shape))
    truth = Prediction(x, eps, velocity(x, eps, alpha_t, sigma_t))
    prediction = student(q_sample(x, eps, alpha_t, sigma_t), t)
    error = latent_distance(getattr(truth, SPACES[space]), getattr(prediction, SPACES[space]))
    if max_weight is None:
        return error
    levels = (ops.reshape(level, (-1,)) for level in (alpha_t, sigma_t))
    weight = _weight_of_signal(space, *levels)  # [B] or [1]
    return error * ops.minimum(1.0, max_weight / weight)


def _weight_of_signal(space: str, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
    """The weight of the signal's squared error in the squared error of a space."""
    if space == "signal":
        return ops.ones_like(sigma_t)
    return (ops.square(alpha_t) if space == "noise" else 1.0) / ops.square(sigma_t)


def guidance_matching(
    student: Denoise,
    conditional: Denoise,
    unconditional: Denoise,
    schedule: Schedule,
    x: Tensor,
    eps: Tensor,
    t: Tensor,
    guidance: Tensor,
    *,
    space: str = "velocity",
) -> Tensor:
    """||v_hat_eta(z_t, w) - ((1 + w) v_hat_{c, theta}(z_t) - w v_hat_theta(z_t))||^2 (Meng et al. 2023, Eq. 3).

    Stage one of guided distillation, in v: the weight omega of the signal's error is then 1 / sigma_t^2. The
    guidance is an input of `student`, inside the callable.

    Args:
        student, schedule, x, eps, t: see `conditional_consistency`.
        conditional, unconditional: the teacher with and without its condition.
        guidance: 1 + w, float [B]; 1 is the conditional prediction alone.
        space: the space of the squared error: "noise", "signal" or "velocity".

    Returns:
        float32 [B].

    Raises:
        UserError: for an unknown space.
    """
    _check("space", space, tuple(SPACES))
    x, eps, t = ops.cast(x, "float32"), ops.cast(eps, "float32"), ops.convert_to_tensor(t, "int32")
    z_t = q_sample(x, eps, *coefficients(schedule, t, len(x.shape)))
    scale = ops.reshape(guidance, (-1,) + (1,) * (len(x.shape) - 1))
    field = SPACES[space]
    truth = guided(getattr(unconditional(z_t, t), field), getattr(conditional(z_t, t), field), scale)
    return latent_distance(ops.stop_gradient(truth), getattr(student(z_t, t), field))


def halving(
    student: Denoise, teacher: Denoise, x: Tensor, eps: Tensor, step: Halving, *, space: str = "velocity"
) -> Tensor:
    """||v_hat_eta(z_t) - v~||^2, v~ of the signal with which one DDIM step from z_t ends where two of the teacher end.

    Stage two of guided distillation (Meng et al. 2023, section 3.2; progressive distillation, Salimans & Ho 2022,
    algorithm 2 and Eq. 8): t -> mid -> s.

    Args:
        student: the network being trained.
        teacher: the network of twice as many steps.
        x: clean latents [B, ...].
        eps: the drawn noise, N(0, I), of the shape of x.
        step: t and mid int32 [B], the levels alpha and sigma of t, mid and s [B, 1, ...].
        space: the space of the squared error.

    Returns:
        float32 [B].

    Raises:
        UserError: for an unknown space.
    """
    _check("space", space, tuple(SPACES))
    field = SPACES[space]
    z_t = q_sample(x, eps, step.alpha_t, step.sigma_t)
    z_mid = ddim_step(teacher(z_t, step.t), step.alpha_mid, step.sigma_mid)
    z_s = ddim_step(teacher(z_mid, step.mid), step.alpha_s, step.sigma_s)
    x_tilde = halving_target(z_t, z_s, step.alpha_t, step.sigma_t, step.alpha_s, step.sigma_s)
    truth = predict(x_tilde, z_t, step.alpha_t, step.sigma_t, "sample")
    return latent_distance(ops.stop_gradient(getattr(truth, field)), getattr(student(z_t, step.t), field))


def compression(
    student: DenoiseWithFeatures,
    teacher: DenoiseWithFeatures,
    schedule: Schedule,
    x: Tensor,
    eps: Tensor,
    t: Tensor,
    *,
    space: str = "noise",
) -> dict[str, Tensor]:
    """||eps - eps_hat||^2, ||eps_hat_T - eps_hat||^2 and sum_l ||f_T^l - f^l||^2 (Kim et al. 2023, BK-SDM).

    The losses of a smaller network: of its task, of its teacher's output, and of its teacher's features.

    Args:
        student, teacher: (z_t, t) -> the prediction and as many feature maps f^l, [B, ...], equally wide in both.
        schedule, x, eps, t: see `conditional_consistency`.
        space: the space of the first two: "noise" (the paper's), "signal" or "velocity".

    Returns:
        {"denoising": [B], "output_matching": [B], "feature_matching": [B]}, without weights. Without feature maps the
        last one is absent.

    Raises:
        UserError: for an unknown space.
    """
    _check("space", space, tuple(SPACES))
    x, eps, t = ops.cast(x, "float32"), ops.cast(eps, "float32"), ops.convert_to_tensor(t, "int32")
    alpha_t, sigma_t = coefficients(schedule, t, len(x.shape))
    z_t, field = q_sample(x, eps, alpha_t, sigma_t), SPACES[space]
    truth = getattr(Prediction(x, eps, velocity(x, eps, alpha_t, sigma_t)), field)
    taught, taught_features = teacher(z_t, t)
    prediction, features = student(z_t, t)
    predicted = getattr(prediction, field)
    terms = {
        "denoising": latent_distance(truth, predicted),
        "output_matching": latent_distance(ops.stop_gradient(getattr(taught, field)), predicted),
    }
    if features:
        pairs = zip(taught_features, features, strict=True)
        terms["feature_matching"] = sum(latent_distance(ops.stop_gradient(f_t), f) for f_t, f in pairs)
    return terms


def _check(name: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise UserError(f"unknown {name} {value!r}; choose one of {', '.join(valid)}")
