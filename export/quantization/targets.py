"""What mixed and calibrated weights are to reach, {"size": bytes} or {"psnr": dB}, and the images of the latter."""

from __future__ import annotations

import math
import re

from codi_tf.core.errors import UserError
from export.quantization.activations import CALIBRATED

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


def check_calibration(weights: str, calibration: str | None, target: dict | None) -> None:
    """Raise UserError for calibrated weights without images or with a size, and for images without such weights."""
    calibrated = ", ".join(CALIBRATED)
    if weights not in CALIBRATED and calibration is not None:
        raise UserError(f"--calibration is {calibration!r}: it is for --weights {calibrated}; leave it out")
    if weights in CALIBRATED and not calibration:
        raise UserError(
            f"--weights {weights} needs --calibration: images as the model will see them, a folder, shards or photos"
        )
    if weights in CALIBRATED and target is not None and "size" in target:
        raise UserError(f"--target-size is for mixed weights; {weights} takes --min-psnr")


def _number(name: str, given: object, value: float, low: float, high: float, unit: str) -> float:
    if not low <= value <= high:  # nor is NaN
        raise UserError(f"{name} is {given!r}: it must be a number from {low:g} to {high:g} {unit}")
    return value
