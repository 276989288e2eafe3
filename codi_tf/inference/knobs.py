"""Two knobs between faithful and vivid images: how much the condition counts, and which steps the result is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Real

from codi_tf.adapters.adapted import Adapter
from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_CONDITION_SCALE
from codi_tf.diffusion.process import Prediction


def check_condition_scale(scale: object, adapter: Adapter) -> float:
    """How many times the condition counts, as `Generator.denoiser` takes it; 1 is as in training, 0 not at all.

    Raises:
        UserError: no number from 0 to MAX_CONDITION_SCALE, or other than 1 for an adapter that takes none.
    """
    if not isinstance(scale, Real) or not 0.0 <= float(scale) <= MAX_CONDITION_SCALE:
        raise UserError(
            f"condition_scale is {scale!r}: it must be a number from 0 to {MAX_CONDITION_SCALE}, 1 as in training"
        )
    if scale != 1.0 and not adapter.takes_scale:
        raise UserError(
            f"condition_scale is {scale}: the condition is an input of this model's UNet ({type(adapter).__name__}), "
            "which has no scale; leave it out"
        )
    return float(scale)


def check_fidelity(fidelity: object) -> float:
    """The fidelity, as `result_of` takes it. Raises UserError for anything but a number from 0 to 1."""
    if not isinstance(fidelity, Real) or not 0.0 <= float(fidelity) <= 1.0:
        raise UserError(f"fidelity is {fidelity!r}: it must be from 0, the last step's image, to 1, the first's")
    return float(fidelity)


def result_of(predictions: Iterable[Prediction], fidelity: float = 0.0, report: Callable[[int], None] | None = None):
    """(1 - f) x_hat of the last step + f x_hat of the first: the clean latents of a trajectory, float32 [B, h, w, C].

    The first step's x_hat is the network's mean over all clean latents that fit the condition: smooth, and on average
    nearest to the truth. The steps after it choose one of them, and add detail. The latents are mixed, and not the
    images, because one decoding is enough then.

    Args:
        predictions: of the steps, noisiest first.
        fidelity: f in [0, 1]: at 0 the result is the last step's x_hat, at 1 the first step's, bit for bit.
        report: is called with the number of steps that are done.
    """
    first = last = None
    for done, prediction in enumerate(predictions, start=1):
        last = prediction.x_hat
        first = last if first is None else first
        if report is not None:
            report(done)
    assert first is not None and last is not None  # a trajectory has a step
    if fidelity in (0.0, 1.0):
        return first if fidelity else last
    return (1.0 - fidelity) * last + fidelity * first
