"""The target of mixed weights: {"size": bytes} or {"psnr": dB}."""

from __future__ import annotations

import math
import re

from codi_tf.core.errors import UserError

UNITS = {"MB": 1e6, "GB": 1e9, "MiB": 2**20, "GiB": 2**30}
MAX_BYTES = 1e15
MIN_PSNR, MAX_PSNR = 1.0, 200.0  # dB; float32 differs from Keras at some 140


def parse_target(size: str | None, psnr: str | None) -> dict | None:
    """The target that the options --target-size and --min-psnr name. Raises UserError for both, or for no numbers."""
    if size is not None and psnr is not None:
        raise UserError("--target-size and --min-psnr are both given: mixed weights reach one of them")
    if size is not None:
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB|MiB|GiB)", size, re.ASCII)
        if match is None:
            raise UserError(f"--target-size is {size!r}: give a number and MB, GB, MiB or GiB, for example 700MB")
        return {"size": _number("--target-size", size, float(match[1]) * UNITS[match[2]], 1.0, MAX_BYTES, "bytes")}
    if psnr is None:
        return None
    try:
        number = float(psnr)
    except ValueError:
        number = math.nan
    return {"psnr": _number("--min-psnr", psnr, number, MIN_PSNR, MAX_PSNR, "dB")}


def check_target(target: dict) -> None:
    """Raise UserError for a target that is no finite number in its range."""
    limits = {"size": (1.0, MAX_BYTES, "bytes"), "psnr": (MIN_PSNR, MAX_PSNR, "dB")}
    if len(target) != 1 or not target.keys() <= limits.keys():
        raise UserError(f"the target of mixed weights is {target!r}: give a size or a psnr")
    ((name, value),) = target.items()
    _number(name, value, value, *limits[name])


def _number(name: str, given: object, value: float, low: float, high: float, unit: str) -> float:
    if not low <= value <= high:  # nor is NaN
        raise UserError(f"{name} is {given!r}: it must be a number from {low:g} to {high:g} {unit}")
    return value
