"""Folders that replace nothing but their like, survive a kill, and say in one line where they cannot be written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from codi_tf.core.errors import UserError
from codi_tf.io.bundle_files import BUNDLES, PAIRS
from codi_tf.io.folders import MARKER, Kind, check_folder, recover, whole_folder

KIND = Kind("box")


def write(path, text="new", kind=KIND, **options):
    with whole_folder(path, kind, **options) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a.txt").write_text(text)


def text_of(path):
    return (path / "inner" / "a.txt").read_text()


def refusal(path, kind=KIND, **options) -> str:
    """The line with which a folder is refused, before the work as by the writer."""
    with pytest.raises(UserError) as caught:
        check_folder(path, kind, **options)
    line = str(caught.value)
    if "inputs" not in options:
        with pytest.raises(UserError, match="choose|name a"), whole_folder(path, kind, **options):
            raise AssertionError("the work began")
    assert "\n" not in line
    return line


def only(folder, *names):
    return {path.name for path in folder.iterdir()} == set(names)


def test_a_folder_appears_whole_and_replaces_its_like(tmp_path):
    out = tmp_path / "new" / "box"
    write(out, "first")
    assert json.loads((out / MARKER).read_text()) == {"kind": "box", "files": ["inner/a.txt"]}
    write(out, "second")
    assert text_of(out) == "second" and only(out.parent, "box")


def test_an_empty_folder_is_taken_with_its_permissions(tmp_path):
    """What file managers leave behind is no content. Catches a private folder that becomes open to all."""
    (tmp_path / "box").mkdir(mode=0o700)
    (tmp_path / "box" / ".DS_Store").touch()
    write(tmp_path / "box")
    assert text_of(tmp_path / "box") == "new" and (tmp_path / "box").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("stranger", ["notes.txt", "inner/b.txt", ".git/config", "inner/deep/x", "inner/link"])
def test_a_stranger_is_refused_by_name_before_the_work(tmp_path, stranger):
    """Catches the loss of what someone else has put into a folder of ours."""
    write(tmp_path / "box", "first")
    path = tmp_path / "box" / stranger
    path.parent.mkdir(exist_ok=True)
    if path.name == "link":
        path.symlink_to(tmp_path)
    else:
        path.write_text("mine")
    assert stranger in refusal(tmp_path / "box") and text_of(tmp_path / "box") == "first"


def test_a_stranger_that_comes_during_the_work_is_kept_too(tmp_path):
    out = tmp_path / "box"
    write(out, "first")
    with pytest.raises(UserError, match="holds more than its box: notes.txt"), whole_folder(out, KIND):
        (out / "notes.txt").write_text("mine")
    assert text_of(out) == "first" and (out / "notes.txt").exists() and only(tmp_path, "box")


def test_what_is_no_box_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "other", kind=Kind("crate"))
    write(tmp_path / "damaged")
    (tmp_path / "damaged" / MARKER).write_text("[")
    write(tmp_path / "box")
    assert "photos: exists and is no box; choose another place" in refusal(tmp_path / "photos")
    assert "exists and is no box but a crate" in refusal(tmp_path / "other")
    assert "exists and is no folder" in refusal(tmp_path / "file")
    assert "exists and is no folder" in refusal(tmp_path / "pipe")
    assert f"its {MARKER} cannot be read" in refusal(tmp_path / "damaged")
    assert "already exists; name a new folder" in refusal(tmp_path / "box", replace=False)
    assert "longer than 200 bytes" in refusal(tmp_path / ("x" * 201))
    assert "nothing can be written into" in refusal(tmp_path / "file" / "box")


def test_what_the_work_reads_is_not_replaced(tmp_path):
    write(tmp_path / "box")
    link = tmp_path / "link"
    link.symlink_to("box")
    for source in (tmp_path / "box", tmp_path / "box" / "inner", link):
        assert "is read from there" in refusal(tmp_path / "box", inputs=[None, source])
    check_folder(tmp_path / "box", KIND, inputs=[tmp_path / "boxes"])


def test_a_link_is_followed_and_stays(tmp_path):
    """Catches a link that a folder takes the place of, and a link whose folder does not exist yet."""
    write(tmp_path / "box", "first")
    for name, to in (("link", "box"), ("early", "far/later")):
        (tmp_path / name).symlink_to(to)
        write(tmp_path / name, "second")
        assert (tmp_path / name).is_symlink() and text_of(tmp_path / to) == "second"
    (tmp_path / "circle").symlink_to("circle")
    assert "a link in a circle" in refusal(tmp_path / "circle")


def test_the_current_folder_is_not_pulled_away(tmp_path, monkeypatch):
    write(tmp_path / "box")
    monkeypatch.chdir(tmp_path / "box" / "inner")
    for path in (".", "..", tmp_path / "box"):
        (tmp_path / "box" / "inner" / "a.txt").unlink(missing_ok=True)
        with pytest.raises(UserError, match="holds the current folder"):
            check_folder(path, KIND)


def mount(*arguments) -> bool:
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", folder):
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_mount_point_is_refused_before_the_work(disk, tmp_path):
    """Catches an hour of work that ends with "device or resource busy", also in a folder of the same disk."""
    assert "is a mount point" in refusal(disk)
    same = tmp_path / "with space"
    same.mkdir()
    assert mount("--bind", tmp_path, same)
    try:
        assert "is a mount point" in refusal(same)
    finally:
        subprocess.run(["umount", same], check=True)
    write(disk / "box")
    assert text_of(disk / "box") == "new"


def test_a_full_disk_is_one_line_and_leaves_the_older_folder(disk):
    write(disk / "box", "first")
    for text in ("x" * 100_000, "x" * 50_000):
        with pytest.raises(UserError, match=r"^cannot write .*box: No space left on device; make room"):
            write(disk / "box", text + "x" * 50_000)
        assert text_of(disk / "box") == "first" and only(disk, "box")


def test_an_error_of_the_work_keeps_its_own_name(tmp_path):
    """Catches a missing input that is reported as a folder that cannot be written."""
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "box", KIND):
        open(tmp_path / "missing")  # noqa: SIM115
    assert not any(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from codi_tf.io import folders
out, when = Path(sys.argv[1]), int(sys.argv[2])
count, rename = 0, os.rename
def killed(a, b):
    global count
    count += 1
    if count > when:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(a, b)
os.rename = killed
with folders.whole_folder(out, folders.Kind("box")) as folder:
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text("new")
    if when < 0:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("renames", "after"), [(-1, "old"), (0, "old"), (1, "new"), (2, "new")])
def test_the_next_start_finds_what_a_kill_hid(tmp_path, renames, after):
    """Killed while it writes, before, between and after the two renames. Catches a folder that is gone for the user."""
    out = tmp_path / "box"
    write(out, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, out, str(renames)], check=False)
    assert done.returncode == -9 and out.exists() == (renames != 1) and not only(tmp_path, "box")
    check_folder(out, KIND)
    assert text_of(out) == after and only(tmp_path, "box")


def test_what_another_process_writes_now_stays(tmp_path):
    with whole_folder(tmp_path / "box", KIND) as folder:
        recover(tmp_path / "box")
        assert folder.is_dir()
        write(tmp_path / "box", "of the second")
        (folder / "inner").mkdir()
        (folder / "inner" / "a.txt").write_text("of the first")
    assert text_of(tmp_path / "box") == "of the first" and only(tmp_path, "box")


def test_the_marker_does_not_change_what_a_bundle_is(bundle, tmp_path):
    """Catches a base whose hash depends on whether its marker was copied."""
    from codi_tf.io.hashing import folder_sha256

    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / MARKER).unlink()
    assert folder_sha256(copy) == folder_sha256(bundle)
    check_folder(copy, BUNDLES)  # as those of 0.1.0, which have no marker
    (copy / "unet" / "notes.json").write_text("{}")
    assert "holds more than its bundle: unet/notes.json" in refusal(copy, BUNDLES)
    assert "already exists" in refusal(copy, PAIRS, replace=False)
