"""Text from elsewhere, such as names of files, in messages."""

from __future__ import annotations

import unicodedata


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
