"""The limits of exported samplers. Imports no TensorFlow."""

from codi_tf.core.errors import UserError

MAX_STEPS = 16  # LiteRT files are unrolled: each step adds a copy of the network's operators


def check_steps(steps: int) -> None:
    """Raise UserError for a number of steps that is not 1 to MAX_STEPS."""
    if not 1 <= steps <= MAX_STEPS:
        raise UserError(f"steps is {steps}: an exported sampler takes 1 to {MAX_STEPS}")
