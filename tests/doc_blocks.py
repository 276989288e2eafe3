"""The code of the documentation: blocks of Markdown pages, and the command lines in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
MARKER = re.compile(r"<!-- not run: (.+) -->")
PROGRAM = re.compile(r"(?:~/)?(?:[\w.]+/)*(codi|python3?|pip|make|npm|pre-commit)(?: |$)")


@dataclass(frozen=True)
class Block:
    """Code of a page.

    Attributes:
        page: where it is, below the repository.
        line: number of its first line.
        language: that of a fenced block; "sh" or "" for an indented one.
        text: the code, without indentation.
        reason: why it is not run, from the marker above it; None where there is no marker.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced and indented blocks of a page, without those within list items."""
    lines = page.read_text("utf-8").splitlines()
    number, reason, in_list, before = 0, None, False, ""
    while number < len(lines):
        line = lines[number]
        start, indented = number, line.startswith("    ") and not before.strip() and not in_list
        if line.startswith("```"):
            number = next(i for i in range(number + 1, len(lines)) if lines[i].startswith("```"))
            inside, language = lines[start + 1 : number], line[3:].strip()
        elif indented:
            while number + 1 < len(lines) and (lines[number + 1].startswith("    ") or _goes_on(lines, number + 1)):
                number += 1
            inside = [text[4:] for text in lines[start : number + 1]]
            language = "sh" if any(PROGRAM.match(text) for text in inside) else ""
        else:
            inside = None
            in_list = bool(re.match(r"\s*([-*]|\d+\.) ", line)) or in_list and (not line or line.startswith(" "))
        if inside is not None:
            yield Block(str(page.relative_to(ROOT)), start + 1, language, "\n".join(inside), reason)
        if line.strip():
            found = MARKER.fullmatch(line.strip())
            reason = found[1] if found else None
        before, number = lines[number], number + 1


def _goes_on(lines: list[str], number: int) -> bool:
    """Whether a blank line is inside of an indented block."""
    return not lines[number].strip() and number + 1 < len(lines) and lines[number + 1].startswith("    ")


ALL = [block for page in PAGES for block in blocks(page)]


def of_language(language: str) -> list[Block]:
    """The blocks of a language that are to run."""
    return [block for block in ALL if block.language == language and block.reason is None]


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a shell block; lines that end in a backslash or are indented go on."""
    joined = re.sub(r"\\?\n(?=\s)|\\\n", " ", block.text)
    return [shlex.split(line, comments=True) for line in joined.splitlines() if line.strip()]


def inline_code(page: Path) -> list[str]:
    """The spans of code within the text of a page."""
    text = re.sub(r"^(```.*?^```|    .*?$)", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
