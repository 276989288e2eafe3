"""Files that appear whole or not at all; settings that a folder was begun with."""

from __future__ import annotations

import pytest

from codi_tf.core.errors import UserError
from codi_tf.io.files import check_settings, whole_file


def test_a_file_appears_when_the_block_succeeds(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for text in ("first", "second"):
        with whole_file(path) as partial:
            partial.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mistake", [ValueError("a bug"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_what_was_there(tmp_path, mistake):
    path = tmp_path / "a.txt"
    path.write_text("first")
    with pytest.raises(type(mistake)), whole_file(path) as partial:
        partial.write_text("half")
        raise mistake
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "a.txt"
    with pytest.raises(UserError, match="cannot write .*; make room or choose"), whole_file(path):
        pass


def test_settings(tmp_path):
    earlier = {"task": {"name": "x", "scale": 2}, "steps": [1, 2]}
    check_settings(tmp_path, earlier, {"steps": [1, 2], "task": {"scale": 2, "name": "x"}})
    for now, message in (
        ({**earlier, "task": {"name": "x", "scale": 4}}, "task.scale = 2, now it is 4"),
        ({**earlier, "more": 1}, "more = None, now it is 1"),
        ({"task": earlier["task"]}, r"steps = \[1, 2\], now it is None"),
    ):
        with pytest.raises(UserError, match=f"was started with {message}"):
            check_settings(tmp_path, earlier, now)
