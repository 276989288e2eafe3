"""The noise that a picture starts from: for one seed the same in Keras, on the command line and in every runtime."""

from __future__ import annotations

import numpy as np

from codi_tf.errors import UserError


def gaussian_noise(seed: int, shape: tuple[int, ...], *, stream: int = 0) -> np.ndarray:
    """Standard normal float32 of the given shape, from NumPy's counter-based Philox generator keyed with `seed`.

    Stream 0 is the noise that a picture starts from, the others are what stochastic samplers add on their way.

    Raises:
        UserError: for a seed that is no whole number from 0 to 2**63 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise UserError(f"seed is {seed!r}: it must be a whole number from 0 to 2**63 - 1")
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, stream])).standard_normal(
        shape, dtype=np.float32
    )
