"""One process at a time works on a folder; a lock of a process that ended is none."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from codi_tf.core.errors import UserError
from codi_tf.io import locks
from codi_tf.io.locks import Locked, only_one

HOLD = """
import sys, time
from pathlib import Path
from codi_tf.io.locks import only_one
with only_one(Path(sys.argv[1]), "trains in runs/a"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_refused_by_name_and_a_dead_one_is_forgotten(tmp_path):
    """Two runs went on side by side in one folder. A killed one leaves its file, which must hold up nobody."""
    path = tmp_path / "run/.lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(Locked) as caught, only_one(path, "trains in runs/a"):
        pass
    expected = f"process {process.pid} trains in runs/a; wait for it, end it, or choose another --out"
    assert str(caught.value) == expected
    process.kill()
    process.communicate()
    assert path.exists()
    with only_one(path, "trains in runs/a"):
        assert path.read_text().startswith(f"{os.getpid()} ")
    assert not path.exists()


def test_a_lock_leaves_no_empty_folder_behind(tmp_path):
    """A mistake that is found while the lock is held leaves nothing; what the work made stays."""
    with only_one(tmp_path / "a/b/.lock", "works"):
        pass
    assert not (tmp_path / "a").exists()
    with only_one(tmp_path / "a/b/.lock", "works"):
        (tmp_path / "a/b/result").mkdir()
    assert os.listdir(tmp_path / "a/b") == ["result"]


def test_a_process_on_another_machine_is_named_with_it(tmp_path, monkeypatch):
    with only_one(tmp_path / ".lock", "works"):
        monkeypatch.setattr(locks.socket, "gethostname", lambda: "elsewhere")
        with (
            pytest.raises(Locked, match=f"^process {os.getpid()} on .* works; "),
            only_one(tmp_path / ".lock", "works"),
        ):
            pass


def test_a_lock_that_was_removed_while_another_waited_for_it_is_none(tmp_path, monkeypatch):
    """Between opening a file and locking it, its holder may remove it: whoever comes next would lock another one."""
    path, real, calls = tmp_path / ".lock", locks.fcntl.flock, []

    def flock(file, how):
        if not calls:
            path.unlink()
        calls.append(file)
        real(file, how)

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with only_one(path, "works"):
        assert len(calls) == 2 and path.exists()
        with pytest.raises(Locked), only_one(path, "works"):
            pass


def test_a_place_without_locks_is_told(tmp_path, monkeypatch):
    """Some network file systems have none; a run there goes on, with a warning."""

    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with pytest.warns(UserWarning, match=r"cannot be locked \(No locks available\)"), only_one(tmp_path / ".lock", "x"):
        pass


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file/.lock"), only_one(tmp_path / "file/.lock", "works"):
        pass
