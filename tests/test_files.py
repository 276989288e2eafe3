"""Files that appear whole or not at all; settings that a folder was begun with."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys

import pytest

from codi_tf.core.errors import UserError
from codi_tf.io.files import check_file, check_growing_folder, check_settings, whole_file


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
        raise AssertionError("the work began")
    with pytest.raises(
        UserError, match=r"nothing can be written into .*file \(Not a directory\); choose another place"
    ):
        check_file(path)


def test_a_link_is_followed_and_stays(tmp_path):
    """Catches a link that a file takes the place of."""
    (tmp_path / "there.txt").write_text("first")
    for name, to in (("link.txt", "there.txt"), ("early.txt", "later.txt")):
        (tmp_path / name).symlink_to(to)
        with whole_file(tmp_path / name) as partial:
            partial.write_text("second")
        assert (tmp_path / name).is_symlink() and (tmp_path / to).read_text() == "second"
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UserError, match="circle: a link in a circle"), whole_file(tmp_path / "circle"):
        pass


@pytest.mark.parametrize("kind", ["device", "pipe", "socket", "folder", "link to a device", "write-protected"])
def test_what_is_no_plain_file_is_refused_before_the_work(tmp_path, kind):
    """Catches /dev/null replaced by an image, which takes the machine down."""
    path = tmp_path / "target"
    if "device" in kind:
        device = tmp_path / "null" if "link" in kind else path
        try:
            os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("needs the right to make a device")
        if "link" in kind:
            path.symlink_to(device)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch(mode=0o444)
    before = path.lstat()
    with pytest.raises(UserError, match=f"target: .*{kind.removeprefix('link to ')}.*; ") as caught, whole_file(path):
        raise AssertionError("the work began")
    assert "\n" not in str(caught.value) and path.lstat() == before


def test_the_standard_output_is_no_file():
    """Its link leads to no path that exists."""
    program = "from pathlib import Path; from codi_tf.io.files import check_file; check_file(Path('/dev/stdout'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "UserError: /dev/stdout: is a pipe, which a file would replace" in done.stderr


def test_a_name_that_leaves_no_room_for_a_temporary_one_is_refused(tmp_path):
    with pytest.raises(UserError, match="longer than 200 bytes"), whole_file(tmp_path / ("x" * 250)):
        pass
    with pytest.raises(UserError, match="longer than 200 bytes"), whole_file(tmp_path / ("x" * 300)):
        pass


def test_a_folder_that_grows(tmp_path):
    """Of runs and encoded examples. Catches one that is found to be a file after the work."""
    check_growing_folder(tmp_path / "new" / "run")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: is a file, not a folder"):
        check_growing_folder(tmp_path / "file")
    with pytest.raises(UserError, match=r"nothing can be written into .*file \("):
        check_growing_folder(tmp_path / "file" / "run")
    with pytest.raises(UserError, match="longer than 200 bytes"):
        check_growing_folder(tmp_path / ("x" * 201))


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
