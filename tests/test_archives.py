"""Files out of .deb and .tgz archives: the kinds that dpkg-deb writes, and what damaged or hostile ones may do."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile

import numpy as np
import pytest

from codi_tf.core.errors import UserError
from codi_tf.io import archives
from codi_tf.io.archives import read_members

FILES = {
    "usr/share/a.png": np.random.default_rng(0).bytes(7_001),  # no multiple of a block
    "usr/share/a.txt": np.random.default_rng(0).integers(97, 107, 20_000, np.uint8).tobytes(),
    "usr/share/deep/empty": b"",
    "usr/share/b": b"b" * 513,
}
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


def tar_bytes(members=FILES, mode="w", **kinds):
    """A tar archive of named contents; `kinds` are names of members with a type and what it links to."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, payload in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            archive.addfile(member, io.BytesIO(payload))
        for name, (kind, target) in kinds.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return buffer.getvalue()


def ar_bytes(**members):
    """An ar archive as dpkg-deb writes it; __ in a name stands for a dot."""
    content = b"!<arch>\n"
    for name, payload in members.items():
        name = name.replace("__", ".")
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(payload):<10}`\n".encode()
        content += payload + b"\n" * (len(payload) % 2)
    return content


def write_deb(folder, name="x_1_all.deb", files=FILES, compression="xz"):
    """A Debian package, made by dpkg-deb."""
    root = folder / f"{name}.root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: x\n"
    )
    for path, payload in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(payload)
    subprocess.run(["dpkg-deb", f"-Z{compression}", "-b", root, folder / name], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)
    return folder / name


@needs_dpkg
@pytest.mark.parametrize("compression", ["xz", "gzip", "none", "zstd"])
def test_every_compression_of_a_deb(tmp_path, compression):
    """Fault: packages of one compression cannot be read; a file's end is lost."""
    path = write_deb(tmp_path, compression=compression)
    assert read_members(path, set(FILES)) == FILES
    assert read_members(path, ["usr/share/b", "usr/share/none"]) == {"usr/share/b": FILES["usr/share/b"]}


def test_a_deb_and_a_tgz_without_debian(tmp_path, monkeypatch):
    """Fault: reading needs a tool of Debian, or takes the control files or what follows the data for the data."""
    monkeypatch.setenv("PATH", "")
    deb, tgz = tmp_path / "a.deb", tmp_path / "a.tgz"
    deb.write_bytes(
        ar_bytes(debian_binary=b"2.0\n", control__tar=b"odd", data__tar__xz=tar_bytes(mode="w:xz"), x=b"more")
    )
    tgz.write_bytes(tar_bytes(mode="w:gz"))
    assert read_members(deb, FILES) == read_members(tgz, FILES) == FILES
    deb.write_bytes(ar_bytes(data__tar__zst=b"some"))
    with pytest.raises(UserError, match=r"a\.deb: to read data\.tar\.zst takes dpkg-deb, which is missing; install"):
        read_members(deb, FILES)


def test_nothing_but_regular_files_of_the_asked_names(tmp_path):
    """Fault: an archive writes or reads outside of itself, by names, links or devices."""
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    names = {"../out": b"out", "/abs": b"abs", "a/../../out": b"out", "good": b"good"}
    kinds = {
        "link": (tarfile.SYMTYPE, str(tmp_path / "secret")),
        "hard": (tarfile.LNKTYPE, "../secret"),
        "device": (tarfile.CHRTYPE, ""),
        "pipe": (tarfile.FIFOTYPE, ""),
        "folder": (tarfile.DIRTYPE, ""),
    }
    (folder / "a.tgz").write_bytes(tar_bytes(names, "w:gz", **kinds))
    assert read_members(folder / "a.tgz", {"good", "out", "abs", *kinds}) == {"good": b"good"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tgz", "here", "secret"]


def whole(kind):
    if kind == "tgz":
        return tar_bytes(mode="w:gz")
    return ar_bytes(debian_binary=b"2.0\n", data__tar__xz=tar_bytes(mode="w:xz"))


@pytest.mark.parametrize("kind", ["deb", "tgz"])
def test_what_was_cut_off_is_one_line(tmp_path, kind):
    """Fault: a download that broke off gives half of a file, or a traceback."""
    content = whole(kind)
    path = tmp_path / f"a.{kind}"
    for length in [0, 5, 8, 40, 68, 90, len(content) // 2, len(content) - 30]:
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=rf"a\.{kind}: a damaged archive \(.+\); fetch it again$"):
            read_members(path, FILES)


@pytest.mark.parametrize("kind", ["deb", "tgz"])
def test_flipped_bytes_are_one_line_or_another_content(tmp_path, kind):
    """Fault: damage within ends in a traceback of a decoder."""
    content, draws = whole(kind), np.random.default_rng(1)
    path = tmp_path / f"a.{kind}"
    refused = 0
    for i in range(100):
        damaged = bytearray(content)
        damaged[draws.integers(200 if i % 2 else len(content))] ^= 1 << draws.integers(8)
        path.write_bytes(damaged)
        try:
            read_members(path, FILES)
        except UserError:
            refused += 1
    assert refused > 50  # a checksum finds most of it


def test_dpkg_that_fails_after_it_wrote(tmp_path, monkeypatch):
    """Fault: what dpkg-deb gives before it fails is taken for the whole."""
    (tmp_path / "a.tar").write_bytes(tar_bytes())
    (tmp_path / "a.deb").write_bytes(ar_bytes(data__tar__zst=b"damaged"))
    (tmp_path / "dpkg-deb").write_text(f"#!/bin/sh\ncat {tmp_path}/a.tar\nexit 2\n")
    (tmp_path / "dpkg-deb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UserError, match=r"a damaged archive \(dpkg-deb cannot read it\)"):
        read_members(tmp_path / "a.deb", FILES)


def test_what_is_no_archive_is_one_line(tmp_path):
    """Fault: a pipe is waited for; a folder or a missing file is a traceback."""
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("pipe", "pipe or a device"), (".", "a folder"), ("gone", "No such file")):
        with pytest.raises(UserError, match=f"cannot read .*: .*{reason}"):
            read_members(tmp_path / name, FILES)
    (tmp_path / "text").write_text("<html>404</html>")
    with pytest.raises(UserError, match="a damaged archive"):
        read_members(tmp_path / "text", FILES)


def test_an_archive_that_unpacks_without_end(tmp_path, monkeypatch):
    """Fault: a small archive fills the memory, by many bytes or by one large file."""
    (tmp_path / "a.tgz").write_bytes(tar_bytes({"zeros": bytes(1 << 20), "last": b"last"}, "w:gz"))
    (tmp_path / "a.deb").write_bytes(b"!<arch>\n" + f"{'data.tar.xz':<48}{9_999_999_999}`\n".encode())
    with pytest.raises(UserError, match=r"data\.tar\.xz is said to have 9,999,999,999 bytes"):
        read_members(tmp_path / "a.deb", ["zeros"])
    monkeypatch.setattr(archives, "MOST_FILE", 1 << 19)
    with pytest.raises(UserError, match=r"zeros has 1,048,576 bytes, more than 524,288"):
        read_members(tmp_path / "a.tgz", ["zeros"])
    assert read_members(tmp_path / "a.tgz", ["last"]) == {"last": b"last"}
    monkeypatch.setattr(archives, "MOST_UNPACKED", 1 << 19)
    with pytest.raises(UserError, match=r"it unpacks to more than 524,288 bytes"):
        read_members(tmp_path / "a.tgz", ["last"])
