"""JSON that is written can be read again."""

from __future__ import annotations

import json
import math

import pytest

from codi_tf.core.errors import UserError
from codi_tf.io.json_files import read_json, without_nan, write_json

NUMBERS = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("place", [lambda x: x, lambda x: [1, x], lambda x: {"a": {"b": x}}])
def test_settings_that_are_no_numbers_are_refused_by_name(tmp_path, number, place):
    """Catches a file that is written and that our own reader refuses."""
    with pytest.raises(UserError, match=r"a\.json: beta is .*(nan|inf).*, which cannot be saved: use finite numbers"):
        write_json(tmp_path / "a.json", {"name": "x", "beta": place(number)})
    assert not list(tmp_path.iterdir())


def test_figures_that_are_no_numbers_are_null(tmp_path):
    """Catches a report or a log that no program can read after a figure was infinite."""
    figures = {"psnr": math.inf, "parts": {"step": [1.5, math.nan]}, "interval": (1, -math.inf), "cases": 4}
    write_json(tmp_path / "a.json", without_nan(figures))
    expected = {"psnr": None, "parts": {"step": [1.5, None]}, "interval": [1, None], "cases": 4}
    assert read_json(tmp_path / "a.json") == json.loads(json.dumps(expected))
