"""Values in messages: short, however large they are."""

from __future__ import annotations

import reprlib

MOST = 80  # characters of a value
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 4
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 8
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = MOST


def shown(value: object, most: int = MOST) -> str:
    """The `repr` of a value, cut where it is longer than `most`. What is cut off is never built."""
    return clipped(_SHORT.repr(value), most)


def bare(text: object, most: int = MOST) -> str:
    """A text as `shown`, without the quotes: line breaks and other control characters are spelled out."""
    return shown(str(text), most)[1:-1]


def clipped(text: str, most: int) -> str:
    """A text of at most `most` characters: of a longer one the beginning and the end."""
    half = (most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"
