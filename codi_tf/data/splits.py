"""Splits: an image is held out or not by a hash of its name."""

from __future__ import annotations

import hashlib

from codi_tf.core.errors import UserError

SPLITS = ("train", "heldout")


class NothingHeldOut(UserError):
    """A source has no held-out images."""


def check_split(split: str) -> None:
    """Raise UserError for anything but "train" and "heldout"."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; valid splits: {', '.join(SPLITS)}")


def check_any(count: int, what: str, split: str | None, fraction: float) -> None:
    """Raise UserError, or NothingHeldOut, if none of `what`, such as "the 7 images of DIR", is in a split."""
    if not count:
        kind = NothingHeldOut if split == "heldout" else UserError
        raise kind(
            f"none of {what} falls in split {split!r} with heldout_fraction {fraction}; add some, or take another "
            "fraction or split"
        )


def is_heldout(name: str, fraction: float) -> bool:
    """Whether a name is in "heldout", a share `fraction` in [0, 1] of all names; a function of the name alone."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()  # names need not be UTF-8
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
