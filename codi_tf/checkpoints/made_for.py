"""What a text-to-image model is made for: sampler, steps, and the guidance that it takes as an input. No TensorFlow."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path

from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_TIMES
from codi_tf.diffusion.samplers import CHECKPOINT_SAMPLERS
from codi_tf.io.json_files import read_json, write_json
from codi_tf.io.schema import Each, Nullable, Number, OneOf, Record, Whole, check

FILE = "made_for.json"  # in a diffusers folder, which diffusers passes over
GUIDANCE = 7.5  # unless a model was trained for others
MAX_GUIDANCE = 1000
NO_GUIDANCE = (1.0, 1.0)
UNKNOWN = "incomplete or of another version: copy or make the model again"


@dataclass(frozen=True)
class MadeFor:
    """How a model makes images from prompts unless told otherwise, and the guidance that it was trained for.

    Attributes:
        sampler: a name of `diffusion.samplers.CHECKPOINT_SAMPLERS`.
        steps: network evaluations.
        guidance: (lowest, highest) guidance that guided distillation trained, diffusers' guidance_scale: the paper's w
            is guidance - 1; (1, 1) is none. None: any.
    """

    sampler: str = "dpm++"
    steps: int = 20
    guidance: tuple[float, float] | None = None

    @property
    def default_guidance(self) -> float:
        """7.5, or the nearest guidance that the network was trained for."""
        low, high = self.guidance or (1.0, float(MAX_GUIDANCE))
        return min(max(GUIDANCE, low), high)

    def check_guidance(self, guidance: object, name: str = "guidance") -> float:
        """A guidance as a number; None: the default one.

        Raises:
            UserError: it is no number from 1 on, or outside of what the network was trained for.
        """
        if guidance is None:
            return self.default_guidance
        if not isinstance(guidance, Real) or not math.isfinite(guidance) or float(guidance) < 1.0:
            raise UserError(f"{name} is {guidance!r}: it must be a number from 1 (none) on")
        if self.guidance is not None and not self.guidance[0] <= float(guidance) <= self.guidance[1]:
            low, high = self.guidance
            raise UserError(f"{name} is {guidance}: this model was trained for {low:g} to {high:g}")
        return float(guidance)


def read_made_for(folder: Path) -> MadeFor:
    """What the model in a folder is made for; the default where it has no made_for.json.

    Raises:
        UserError: the file is broken, or has other values.
    """
    path = folder / FILE
    if not path.exists():
        return MadeFor()
    values, limits = read_json(path), Nullable(Each(Number(1, MAX_GUIDANCE), 2, 2))
    entries = {"sampler": OneOf(tuple(CHECKPOINT_SAMPLERS)), "steps": Whole(1, MAX_TIMES), "guidance": limits}
    check(values, Record(entries), path, UNKNOWN)
    guidance = values["guidance"]
    if guidance is not None and guidance[0] > guidance[1]:
        raise UserError(f"{path}: guidance is {guidance}: it must be [lowest, highest]; {UNKNOWN}")
    taken = None if guidance is None else (float(guidance[0]), float(guidance[1]))
    return MadeFor(values["sampler"], values["steps"], taken)


def write_made_for(made_for: MadeFor, folder: Path) -> None:
    """Write made_for.json into a folder; nothing for a model that is made for nothing in particular."""
    if made_for != MadeFor():
        write_json(folder / FILE, asdict(made_for))
