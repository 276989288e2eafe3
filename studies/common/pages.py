"""Pages of the documentation, of which a study writes the part between two marks; the rest is written by hand."""

from __future__ import annotations

from pathlib import Path

from codi_tf.core.errors import UserError

BEGIN, END = "<!-- study: begin -->", "<!-- study: end -->"


def around(page: Path) -> tuple[str, str]:
    """The text before and after the marks. Raises UserError for a page that lacks one."""
    text = page.read_text("utf-8")
    if not 0 <= text.find(BEGIN) < text.find(END):
        raise UserError(f"{page}: has no {BEGIN} before {END}; put these two lines where the study belongs")
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]


def write_part(page: Path, part: str) -> None:
    """Replace the text between the marks. Raises UserError as `around`."""
    before, after = around(page)
    page.write_text(f"{before}{BEGIN}\n{part}\n{END}{after}", "utf-8")
