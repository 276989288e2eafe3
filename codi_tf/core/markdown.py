"""Text from elsewhere, such as names of files, in Markdown: shown as it is, and never as markup or HTML."""

from __future__ import annotations

import re

ESCAPED = re.compile(r"[\\`*\[\]!]|(?<![0-9A-Za-z])[_#]|_(?![0-9A-Za-z])")  # an _ between letters is itself
ENTITIES = str.maketrans({c: f"&#{ord(c)};" for c in "&<>|~$"})  # not every reader knows them with a backslash


def plain(text: str) -> str:
    """A text as Markdown in one line, also for the cell of a table and the name of an image."""
    return ESCAPED.sub(r"\\\g<0>", one_line(text)).translate(ENTITIES)


def code(text: str) -> str:
    """A text as Markdown's code: between more backticks than it holds side by side."""
    text = one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def one_line(text: str) -> str:
    """A text with a space in place of line breaks and of everything else that cannot be seen."""
    return "".join(c if c.isprintable() else " " for c in text)
