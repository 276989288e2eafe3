"""The fidelity of a package of parts, which its host chooses: how much of the first step's x_hat is in the result."""

from __future__ import annotations

from dataclasses import replace

from codi_tf.core.errors import UserError
from export.runtime.sampler import Sampler


def faithful(sampler: Sampler, fidelity: float) -> Sampler:
    """The sampler with (1 - f) x_hat of the last step + f x_hat of the first as its latents.

    At 1 it makes one step alone, which ends at x_hat: the bits of the package's first step, and no further evaluation.

    Args:
        sampler: from `load_any`.
        fidelity: f in [0, 1]; 0 returns the sampler itself.

    Raises:
        UserError: the package's fidelity is fixed: it is one graph, or was made by a version that did not know of it.
    """
    package = sampler.package
    if fidelity == 0.0:
        return sampler
    if "sampler" in sampler.graphs:
        raise UserError(
            f"--fidelity: that of {package.folder} is fixed; export the model again, with --fidelity or --layout parts"
        )
    if package.estimate is None or package.schedule[0]["b"] == 0.0:
        raise UserError(f"--fidelity: {package.folder} does not say how its steps are mixed; export the model again")
    if package.steps == 1:
        return sampler
    if fidelity < 1.0:
        return replace(sampler, fidelity=fidelity)
    a, b = package.estimate
    return replace(sampler, package=replace(package, schedule=({**package.schedule[0], "a": a, "b": b},)))
