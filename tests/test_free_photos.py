"""`codi photos`: the list of photos, how packages are fetched or found, and the folder that is written."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from commands import run_here
from PIL import Image

from codi_tf.cli import photos as command
from codi_tf.core.errors import UserError
from codi_tf.data.open_source import open_source
from codi_tf.data.splits import is_heldout
from codi_tf.io.free_photos import LICENSES, credits, free_photos
from codi_tf.io.images import read_image, resize
from codi_tf.io.inside import is_name
from codi_tf.io.packages import ARCHIVES, Package, fetch, files_of

PAGE = Path(__file__).parents[1] / "docs" / "photos.md"
DEBIAN = Package("some-wallpapers", "debian", "1.0-1", "https://example.org/some", "copyright")
NPM = Package("@some/img-cat", "npm", "0.2.3", "https://example.org/cat", "datapackage.json")


def photo(seed, height, width):
    """The bytes of a smooth image."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


LARGE, SMALL, CAT = photo(0, 300, 200), photo(1, 40, 64), photo(2, 80, 90)


def entry(name, package, path, content, license="CC0-1.0"):
    digest = hashlib.sha256(content).hexdigest()
    author = f"who made {name}"
    return {"name": name, "package": package.name, "path": path, "author": author, "license": license, "sha256": digest}


@pytest.fixture
def own_list(tmp_path, monkeypatch):
    """Three photos in two packages; one file of `DEBIAN` differs in the packages that `write_packages` makes."""
    path = tmp_path / "list.json"
    photos = [
        entry("tall", DEBIAN, "usr/share/tall.png", LARGE),
        entry("small", DEBIAN, "usr/share/small.png", SMALL, "CC-BY-4.0"),
        entry("changed", DEBIAN, "usr/share/changed.png", b"of another version"),
        entry("cat", NPM, "package/image.png", CAT),
    ]
    path.write_text(json.dumps({"packages": [vars(DEBIAN), vars(NPM)], "photos": photos}))
    monkeypatch.setattr(command, "free_photos", lambda: free_photos(path))
    return free_photos(path)


def write_tar(path, files):
    """A .tgz; under the name of a .deb it is read as well, since its content tells."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_packages(folder, debian="some-wallpapers_2%3a1.0-1_all.deb", npm="some-img-cat-0.2.3.tgz"):
    folder.mkdir(exist_ok=True)
    files = {"usr/share/tall.png": LARGE, "usr/share/small.png": SMALL, "usr/share/changed.png": b"this one"}
    if debian:
        write_tar(folder / debian, files)
    if npm:
        write_tar(folder / npm, {"package/image.png": CAT})
    return folder


def test_the_list_is_complete():
    """Fault: a photo of an unknown license or author, a name that leaves the folder, a hash that was mistyped."""
    photos = free_photos()
    assert len({one.name for one in photos}) == len({one.sha256 for one in photos}) == len(photos) >= 30
    for one in photos:
        assert is_name(one.name) and "/" not in one.name and "." not in one.name
        assert is_name(one.path) and one.author.strip() and one.license in LICENSES
        assert re.fullmatch("[0-9a-f]{64}", one.sha256)
        assert one.package.archive in ARCHIVES and one.package.version and one.package.stated_in
        assert one.package.source.startswith("http")
    assert set(LICENSES) == {one.license for one in photos}


def test_the_page_lists_the_photos_and_those_held_out():
    """Fault: the page names other authors or licenses than the list; the split changes."""
    text, photos = PAGE.read_text(), free_photos()
    assert credits(photos) in text
    held_out = {one.name for one in photos if is_heldout(f"{one.name}.png", 0.1)}
    said = re.search(r"held out of training: ([^.]+)\.", " ".join(text.split()))
    assert set(said[1].replace(" and ", ", ").split(", ")) == held_out
    assert f"{len(photos)} photos" in text


def test_photos_from_a_folder_of_packages(tmp_path, own_list):
    """Fault: a changed file is written; the size, the pixels or the credits are wrong; the folder is no source."""
    out, packages = tmp_path / "out", write_packages(tmp_path / "packages")
    done = run_here(command.main, "--out", out, "--packages", packages, "--size", 150)
    assert done.returncode == 0 and f"{out}: 3 of 4 photos" in done.stdout
    assert re.findall("^warning: .*", done.stderr, re.MULTILINE) == [
        "warning: some-wallpapers 1.0-1: another version, in which these files differ or are missing: "
        "usr/share/changed.png"
    ]
    assert sorted(path.name for path in out.glob("*")) == [".made-by-codi_tf", "LICENSES.md", "cat.png", *PNGS]
    tall = resize(np.asarray(Image.open(io.BytesIO(LARGE)), np.float32) / 255, 150, 100)
    assert np.abs(read_image(out / "tall.png") - tall).max() < 0.502 / 255
    np.testing.assert_array_equal(
        read_image(out / "small.png"), np.asarray(Image.open(io.BytesIO(SMALL))) / np.float32(255)
    )
    text = (out / "LICENSES.md").read_text()
    assert (
        all(f"| {name} | who made {name} |" in text for name in ("tall", "small", "cat")) and "| changed |" not in text
    )
    assert LICENSES["CC-BY-4.0"] in text and LICENSES["CC-BY-SA-3.0"] not in text


PNGS = ["small.png", "tall.png"]


def test_the_folder_is_a_source_and_is_replaced(tmp_path, own_list, recwarn):
    """Fault: the credits count as a file that is left out; a second call is refused, or replaces what is not ours."""
    out, packages = tmp_path / "out", write_packages(tmp_path / "packages")
    for _ in range(2):
        assert run_here(command.main, "--out", out, "--packages", packages).returncode == 0
    recwarn.clear()
    assert open_source(str(out)).names == ("cat.png", "small.png", "tall.png") and not recwarn.list
    (out / "mine.png").write_bytes(SMALL)
    done = run_here(command.main, "--out", out, "--packages", packages)
    assert done.returncode == 2 and "mine.png" in done.stderr and (out / "mine.png").exists()


def test_without_any_photo_nothing_is_written(tmp_path, own_list):
    """Fault: an empty folder stands for success; one line does not say which packages are wanted."""
    empty = tmp_path / "packages"
    empty.mkdir()
    done = run_here(command.main, "--out", tmp_path / "out", "--packages", empty)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    said = done.stderr.strip().splitlines()[-1]
    assert said == (
        f"error: none of the 4 photos can be had: some-wallpapers 1.0-1, @some/img-cat 0.2.3: not in {empty}; fetch it "
        "into that folder"
    )
    done = run_here(command.main, "--out", tmp_path / "out", "--packages", tmp_path / "gone")
    assert done.returncode == 2 and "gone: no such folder" in done.stderr


def test_a_damaged_package_costs_its_own_photos_alone(tmp_path, own_list):
    """Fault: one bad package ends the command, or goes unsaid."""
    packages = write_packages(tmp_path / "packages")
    (packages / "some-wallpapers_2%3a1.0-1_all.deb").write_bytes(b"!<arch>\n")
    done = run_here(command.main, "--out", tmp_path / "out", "--packages", packages)
    assert done.returncode == 0 and "1 of 4 photos" in done.stdout
    assert "warning: some-wallpapers 1.0-1: " in done.stderr and "a damaged archive" in done.stderr


def program(folder, name, script):
    """A program of the system, for as long as PATH leads to `folder` first."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_packages_are_fetched_and_gone_afterwards(tmp_path, own_list, monkeypatch):
    """Fault: the wrong package or version is asked for; packages stay on the disk."""
    store, tools, work = write_packages(tmp_path / "store"), tmp_path / "tools", tmp_path / "tmp"
    work.mkdir()
    program(tools, "apt-get", f'[ "$*" = "download some-wallpapers" ] && cp {store}/*.deb .')
    program(tools, "npm", f'[ "$*" = "pack --loglevel=error @some/img-cat@0.2.3" ] && cp {store}/*.tgz .')
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setattr("tempfile.tempdir", str(work))
    done = run_here(command.main, "--out", tmp_path / "out")
    assert done.returncode == 0 and "3 of 4 photos" in done.stdout
    assert not list(work.iterdir())


def test_a_tool_that_is_missing_or_fails_is_one_line(tmp_path, monkeypatch):
    """Fault: a traceback, or pages of what the tool says."""
    tools = tmp_path / "tools"
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(UserError, match=r"^apt-get is missing; install it, or fetch it by hand .* --packages$"):
        fetch(DEBIAN, tmp_path)
    program(tools, "apt-get", "echo 'W: slow' >&2; echo 'E: Unable to locate package x' >&2; exit 100")
    with pytest.raises(UserError, match=r"^apt-get fails \(E: Unable to locate package x\); run apt-get update, or "):
        fetch(DEBIAN, tmp_path)
    program(tools, "npm", "exit 1")
    with pytest.raises(UserError, match=r"^npm fails \(it says nothing\)"):
        fetch(NPM, tmp_path)


def test_files_of_a_package(tmp_path):
    """Fault: a package with a similar name is taken."""
    names = ["some-wallpapers_1_all.deb", "some-wallpapers_2_all.deb", "some-wallpapers-extra_1_all.deb"]
    for name in [*names, "some-img-cat-0.2.3.tgz", "some-img-caterpillar-1.tgz"]:
        (tmp_path / name).touch()
    assert [path.name for path in files_of(DEBIAN, tmp_path)] == names[:2]
    assert [path.name for path in files_of(NPM, tmp_path)] == ["some-img-cat-0.2.3.tgz"]
