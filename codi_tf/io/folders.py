"""Folders that this project makes: they appear whole or not at all, and replace only folders of the same kind.

A marker in each of them says what it is and lists its files. A folder is replaced only if its marker names the same
kind and nothing else is in it. Remote folders cannot be renamed: there the marker shows whether one is whole.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from codi_tf.core.errors import UserError, full_disk
from codi_tf.core.paths import RemotePath
from codi_tf.io.files import cannot_write, check_parent, followed
from codi_tf.io.json_files import read_json
from codi_tf.io.remote import replace_folder

MARKER = ".made-by-codi_tf"  # without a suffix that `hashing.folder_sha256` counts
IGNORED = (".DS_Store", "Thumbs.db", "desktop.ini")  # what file managers leave behind
WORK = ".codi_tf"  # suffix of the hidden folder next to one that is being written
NEW, OLD, GONE = "new", "old", "gone"  # in it: what is being written, what it replaces, what is being deleted
SHOWN = 3  # names in a message
Names = Callable[[str], object]  # whether a file of that name, as "vae/config.json", belongs to a folder


def _nothing(folder: Path) -> None:
    return None


@dataclass(frozen=True)
class Kind:
    """A kind of folder.

    Attributes:
        name: in messages, as "bundle".
        unmarked: which files a folder without a marker has, as version 0.1.0 wrote them; None if it is of another kind.
    """

    name: str
    unmarked: Callable[[Path], Names | None] = _nothing


@contextlib.contextmanager
def whole_folder(path: Path, kind: Kind, *, replace: bool = True) -> Iterator[Path]:
    """An empty folder on this machine, which takes the place of `path` when the block succeeds.

    Raises:
        UserError: see `check_folder`; or the disk is full.
    """
    check_folder(path, kind, replace=replace)
    target = followed(path)
    if isinstance(target, RemotePath):
        with tempfile.TemporaryDirectory(prefix="codi_tf.") as room:
            yield from _copied(Path(room, NEW), path, kind, replace)
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=WORK, dir=target.parent))
    except OSError as error:
        raise cannot_write(path, error) from error
    with _held(work):
        try:
            new = work / NEW
            new.mkdir()
            yield new
            mark(new, kind)
            check_folder(path, kind, replace=replace)  # it may have changed since
            if target.exists():
                shutil.copymode(target, new)
                os.rename(target, work / OLD)
            os.rename(new, target)
        except Exception as error:
            ours = isinstance(error, OSError) and str(error.filename or "").startswith(str(work))
            if ours or full_disk(error):
                raise cannot_write(path, error) from error
            raise
        finally:
            with contextlib.suppress(OSError):  # an error that is on its way says more
                _settle(work, target)


def _copied(new: Path, path: Path, kind: Kind, replace: bool) -> Iterator[Path]:
    """Yields a new folder on this machine, then copies it to a remote path; see `whole_folder`."""
    try:
        new.mkdir()
        yield new
        mark(new, kind)
        check_folder(path, kind, replace=replace)
    except Exception as error:
        if full_disk(error):
            raise cannot_write(path, error) from error
        raise
    try:
        replace_folder(new, cast(RemotePath, followed(path)), MARKER)
    except OSError as error:
        raise cannot_write(path, error) from error


def check_folder(
    path: Path, kind: Kind, *, replace: bool = True, inputs: Iterable[Path | None] = (), size: int = 0
) -> None:
    """Check, before any work, that a folder can be written here, in place of nothing, an empty folder, or its like.

    Also puts right what a killed process left behind, see `recover`.

    Args:
        path: the folder to write; may be a link to it.
        kind: what it will be.
        replace: whether a folder of the same kind is replaced.
        inputs: what the work reads, which must not be replaced.
        size: bytes that will be written, as far as they are known; an older folder is deleted only after that.

    Raises:
        UserError: anything else is here, the place cannot be written to, or it has less room.
    """
    target = followed(path)
    recover(target)
    for source in (followed(one) for one in inputs if one is not None):
        if target in (source, *source.parents):
            raise UserError(f"{path}: {source} is read from there and would be replaced; choose another place")
    if target.exists():
        if not target.is_dir():
            raise UserError(f"{path}: exists and is no folder; choose another place")
        if target in (Path.cwd(), *Path.cwd().parents):
            raise UserError(f"{path}: holds the current folder and cannot be replaced; name a folder in it")
        if _is_mount_point(target):
            raise UserError(f"{path}: is a mount point and cannot be replaced; name a folder in it, as {path / 'new'}")
        _check_contents(path, target, kind, replace)
    parent = check_parent(path, target)
    if isinstance(target, RemotePath):
        return
    free = shutil.disk_usage(parent).free
    if size > free:
        raise UserError(
            f"{path}: needs {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free; make room or choose another place"
        )


def recover(path: Path) -> None:
    """Put right what a killed process left beside a folder: the whole one, new or old, takes its place.

    What another process is writing at this moment stays as it is.

    Raises:
        UserError: a link in a circle.
    """
    target = followed(path)
    if isinstance(target, RemotePath):
        return
    with contextlib.suppress(OSError):
        for work in list(target.parent.glob(f".{glob.escape(target.name)}.*{WORK}")):
            with _held(work) as free:
                if free:
                    _settle(work, target)


def check_whole(path: Path) -> None:
    """Raises UserError for a remote folder that was not written to its end. Elsewhere there is no such folder."""
    if isinstance(path, RemotePath) and (path / MARKER).is_file() and not _is_complete(path):
        raise UserError(f"{path}: is not whole, as its writing was interrupted; write it again")


def _settle(work: Path, target: Path) -> None:
    """Leave one whole folder at the target, and delete the rest."""
    new, old = work / NEW, work / OLD
    for whole in (new, old):
        if whole.exists() and not target.exists() and (whole is old or _is_complete(new)):
            os.rename(whole, target)
    if old.exists() and target.exists():
        os.rename(old, work / GONE)  # half of it must never come back
    shutil.rmtree(work, ignore_errors=True)


def _check_contents(path: Path, folder: Path, kind: Kind, replace: bool) -> None:
    """Raise UserError for a folder with anything in it but what its marker lists, or its kind."""
    if all(Path(name).name in IGNORED for name in _files(folder)):
        return
    if not replace:
        raise UserError(f"{path}: already exists; name a new folder")
    if (folder / MARKER).is_file():
        made, listed = _read_marker(path, folder)
        names = listed.__contains__ if made == kind.name else None
        other = f" but a {made}"
    else:
        names, other = kind.unmarked(folder), ""
    if names is None:
        raise UserError(f"{path}: exists and is no {kind.name}{other}; choose another place")
    strangers = [n for n in _files(folder) if not names(n) and n != MARKER and Path(n).name not in IGNORED]
    if strangers:
        more = f" and {len(strangers) - SHOWN} more" if len(strangers) > SHOWN else ""
        raise UserError(
            f"{path}: holds more than its {kind.name}: {', '.join(sorted(strangers)[:SHOWN])}{more}; "
            "move that away or choose another place"
        )


def mark(folder: Path, kind: Kind) -> None:
    """Write the marker of a folder: its kind, and the names of the files that are in it."""
    text = json.dumps({"kind": kind.name, "files": sorted(set(_files(folder)) - {MARKER})}, indent=1)
    (folder / MARKER).write_text(text + "\n", encoding="utf-8")


def _read_marker(path: Path, folder: Path) -> tuple[str, frozenset[str]]:
    """The kind of a folder and the names of its files. Raises UserError for a damaged marker."""
    try:
        marker = read_json(folder / MARKER)
        return str(marker["kind"]), frozenset(marker["files"])
    except (ValueError, KeyError, TypeError):  # a UserError is a ValueError
        raise UserError(f"{path}: its {MARKER} cannot be read; choose another place, or delete that folder") from None


def _is_complete(folder: Path) -> bool:
    try:
        _, names = _read_marker(folder, folder)
    except UserError:
        return False
    there = set(_files(folder))
    return all(name in there for name in names)


def _files(folder: Path) -> Iterator[str]:
    """The names of all files and links below a folder, as "vae/config.json". Empty folders do not count."""
    if isinstance(folder, RemotePath):
        yield from (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
        return

    def fail(error: OSError):
        raise error

    for root, folders, files in os.walk(folder, onerror=fail):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in (*files, *links):
            yield Path(root, name).relative_to(folder).as_posix()


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock within the block; the system frees it when the process ends. Whether it was free."""
    with contextlib.ExitStack() as stack:
        try:
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (ImportError, OSError):  # another process has it, or the system has no such locks
            free = False
        else:
            free = True
        yield free


def _is_mount_point(folder: Path) -> bool:
    return os.path.ismount(folder) or str(folder) in _mount_points()


def _mount_points() -> set[str]:
    """The system's own list, with folders that are mounted from the same disk; empty where there is none."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return set()
    return {re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), line.split(" ")[4]) for line in lines}
