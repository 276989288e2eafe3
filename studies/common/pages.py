"""Pages of the documentation, of which a study writes the part between two marks; the rest is written by hand."""

from __future__ import annotations

from pathlib import Path

from codi_tf.core.errors import UserError

STUDY = "study"  # the part of a page that has one


def marks(part: str = STUDY) -> tuple[str, str]:
    """The lines before and after a part of a page."""
    return f"<!-- {part}: begin -->", f"<!-- {part}: end -->"


BEGIN, END = marks()


def around(page: Path, part: str = STUDY) -> tuple[str, str]:
    """The text before and after the marks. Raises UserError for a page that lacks one."""
    try:
        text = page.read_text("utf-8")
    except OSError:
        raise UserError(f"{page}: no such page; name one of the documentation") from None
    begin, end = marks(part)
    if not 0 <= text.find(begin) < text.find(end):
        raise UserError(f"{page}: has no {begin} before {end}; put these two lines where the study belongs")
    return text[: text.index(begin)], text[text.index(end) + len(end) :]


def write_part(page: Path, text: str, part: str = STUDY) -> None:
    """Replace the text between the marks. Raises UserError as `around`."""
    before, after = around(page, part)
    begin, end = marks(part)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")
