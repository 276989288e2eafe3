"""Names of files and prompts in reports stay text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codi_tf.core.markdown import code, plain
from codi_tf.evaluation.curves import write_curves
from codi_tf.evaluation.report import write_page
from codi_tf.evaluation.tables import markdown_table
from codi_tf.io.images import read_image

EVIL = "<img src=x onerror=alert(1)>|![a](http://b)\n# c\x1b[31m"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("photos_codi, 4 steps", "photos_codi, 4 steps"),
        ("a-b.c (1) é", "a-b.c (1) é"),
        ("_a_ *b* `c`", r"\_a\_ \*b\* \`c\`"),
        ("<b>|&amp;", "&#60;b&#62;&#124;&#38;amp;"),
        ("a\nb\r# c\x1b[0m", r"a b \# c \[0m"),
        ("[a](b) ![c](d)", r"\[a\](b) \!\[c\](d)"),
        ("a\\", r"a\\"),
    ],
)
def test_text_is_shown_as_it_is(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(
    "text, expected", [("a/b", "`a/b`"), ("a`b``c", "```a`b``c```"), ("`a", "`` `a ``"), ("a\nb", "`a b`")]
)
def test_code_ends_where_it_shall(text, expected):
    assert code(text) == expected


def test_a_report_holds_no_markup_of_its_names(tmp_path):
    """Catches a folder whose name becomes a row, a heading, an image from elsewhere or a script of the report."""
    rows = {EVIL: {"psnr": 20.0, "psnr_interval": (19.0, 21.0)}}
    assert markdown_table(rows).count("\n") == 3 and markdown_table(rows).splitlines()[2].count("|") == 3
    write_page(tmp_path, "about", rows, [EVIL], 4)
    page = (tmp_path / "report.md").read_text()
    assert "<img" not in page and "](http" not in page.replace(r"\](http", "") and "\n# c" not in page


def width_of_legend(folder: Path, label: str) -> int:
    """Pixels from the first to the last that has ink, in the legend of curves with one line."""
    write_curves(folder / "curves.png", {label: {1: {"psnr": 20.0}, 2: {"psnr": 21.0}}}, {})
    (inked,) = np.nonzero(read_image(folder / "curves.png")[-40:].min(axis=(0, 2)) < 0.9)
    return inked[-1] - inked[0]


@pytest.mark.parametrize("label, as_wide", [("a$^$b", "aS^Sb"), ("$aaa$", "SaaaS")])
def test_labels_of_curves_are_no_formulas(tmp_path, label, as_wide):
    """Catches a trace after the whole evaluation, or letters that are not shown, for a bundle's name.

    A dollar is as wide as an S.
    """
    assert abs(width_of_legend(tmp_path, label) - width_of_legend(tmp_path, as_wide)) < 6
