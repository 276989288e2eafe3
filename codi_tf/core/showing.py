"""Text from other people and values in messages: on one line, and short, however large they are."""

from __future__ import annotations

import reprlib
import unicodedata

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


def printable(text: object) -> str:
    r"""A text on one line that a terminal shows as it is: control characters, and what is no character, are escaped.

    A newline becomes \n, an escape \x1b, and a byte of a file's name that is not UTF-8 (a lone surrogate) \xe9.
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's stand-in for a byte
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
