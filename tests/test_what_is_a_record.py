"""One rule for what is a record: folders, tar files and patterns; in memory and streamed; what is left out is said."""

from __future__ import annotations

import io
import os
import tarfile
import warnings

import numpy as np
import pytest
from commands import run_here
from PIL import Image
from shards import encoded, new_image, write_tar

from codi_tf import data
from codi_tf.core.errors import UserError, user_errors
from codi_tf.data import open_source as opening
from codi_tf.data.open_source import open_source
from codi_tf.tasks import make_task

S = 16
IMAGE = {i: encoded(new_image(i)) for i in range(12)}
FILES = {  # records first
    "a.png": IMAGE[0],
    "a.txt": b"a text",
    "deep/er/b.png": IMAGE[1],
    "deep/er/b.json": b'{"caption": "of json"}',
    "deep/shot_1_f1.8.png": IMAGE[2],
    "e.jfif": encoded(new_image(3), "JPEG"),
    "Mr. Smith.PNG": IMAGE[4],
    # parts of others, left out and named
    "a.mask.png": IMAGE[5],
    "c.heic": b"of a phone",
    "deep/notes.md": b"# notes",
    "without.txt": b"of nothing",
    # hidden
    "._a.png": b"of macOS",
    ".cache/x.png": IMAGE[6],
    "__MACOSX/a.png": b"of macOS",
    "deep/Thumbs.db": b"of Windows",
    "README.md": b"# of the folder",
}
RECORDS = ["Mr. Smith.PNG", "a.png", "b.png", "e.jfif", "shot_1_f1.8.png"]
LEFT_OUT = ["a.mask.png", "c.heic", "notes.md", "without.txt"]


def write_folder(folder, files=FILES):
    for name, payload in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload)
    return folder


def opened(text, **options):
    """The payloads of a source's records, sorted, their texts, and the one warning about what is left out."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = open_source(str(text), **options)
    said = [str(one.message) for one in caught if "left out" in str(one.message)]
    if isinstance(source, data.Photos):
        pixels = {int(photo.astype(np.int64).sum()) for photo in source.images.values()}
    else:
        records = [source.records.read(i) for i in range(len(source))]
        pixels = {int(np.asarray(_decoded(one["image"]), np.int64).sum()) for one in records}
    return source, pixels, said


def _decoded(payload):
    return Image.open(io.BytesIO(payload)).convert("RGB")


@pytest.mark.parametrize("kind", ["folder", "streamed folder", "tar", "pattern"])
def test_the_same_files_are_records_everywhere(tmp_path, monkeypatch, kind):
    """Fault: names with dots, nested folders and .jfif are left out in silence; hidden files count; masks count."""
    folder = write_folder(tmp_path / "data")
    if kind == "streamed folder":
        monkeypatch.setattr(opening, "IN_MEMORY", 0)
    text = {"tar": tmp_path / "data.tar", "pattern": f"{folder}/**"}.get(kind, folder)
    if kind == "tar":
        write_tar(text, {f"./{name}": payload for name, payload in FILES.items()})
    source, pixels, said = opened(text)
    expected = {name: payload for name, payload in FILES.items() if os.path.basename(name) in RECORDS}
    expected = {
        int(np.asarray(_decoded(one), np.int64).sum()) for name, one in expected.items() if "MACOSX" not in name
    }
    assert len(source) == len(RECORDS) and pixels == expected
    assert len(said) == 1 and "files that are neither images nor companions of one are left out: 4 (" in said[0]
    assert (
        all(name in said[0] for name in LEFT_OUT)
        and "._a" not in said[0]
        and "Thumbs" not in said[0]
        and "README" not in said[0]
    )
    prompts = [
        example["prompt"].decode() for example in data.crops(source, image_size=S, seed=0).take(40).as_numpy_iterator()
    ]
    assert set(prompts) == {"a text", "of json", ""}


def test_a_folder_in_a_tar_file_out_of_order(tmp_path):
    """Fault: a caption that does not stand beside its image, as in a packed folder, is lost."""
    files = {"b.txt": b"b", "a.png": IMAGE[0], "c.png": IMAGE[2], "b.png": IMAGE[1], "c.txt": b"c", "a.txt": b"a"}
    records = open_source(str(write_tar(tmp_path / "a.tar", files))).records
    assert [records.read(i)["text"] for i in range(3)] == [b"a", b"c", b"b"]


def test_two_tar_files_put_together(tmp_path):
    """Fault: images of one name in one tar file share a caption that belongs to one of them."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, payload in (("0.png", IMAGE[0]), ("0.txt", b"one"), ("1.png", IMAGE[1]), ("0.png", IMAGE[2])):
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            tar.addfile(member, io.BytesIO(payload))
    records = open_source(str(tmp_path / "a.tar")).records
    assert [records.read(i) for i in range(3)] == [
        {"image": IMAGE[0], "text": b"one"},
        {"image": IMAGE[1]},
        {"image": IMAGE[2]},
    ]


def test_links_and_what_is_no_file(tmp_path):
    """Fault: a broken link or a pipe is left out in silence; a link that leads back is followed for ever."""
    folder = write_folder(tmp_path / "data", {"sub/a.png": IMAGE[0]})
    (folder / "back").symlink_to(folder)
    (folder / "again").symlink_to(folder / "sub")
    (folder / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    source, _, said = opened(folder)
    assert len(source) == 1
    assert said == [
        f"{folder}: files that are neither images nor companions of one are left out: 2 "
        "(gone.png (a broken link), pipe.png (not a file))"
    ]


def test_nested_shards_and_what_lies_between(tmp_path):
    """Fault: shards in subfolders are not found; a compressed shard between others is left out in silence."""
    folder = tmp_path / "data"
    for i in range(2):
        (folder / f"part{i}").mkdir(parents=True)
        write_tar(folder / f"part{i}" / "a.tar", {f"{i}.png": IMAGE[i], f"{i}.cls": b"1"})
    (folder / "part1" / "b.tar.gz").write_bytes(b"")
    source, _, said = opened(folder)
    assert len(source) == 2 and len(said) == 1
    assert "left out: 3 (0.cls, 1.cls, b.tar.gz)" in said[0]


def test_accents_and_what_is_no_file_beside_an_image(tmp_path):
    """Fault: macOS decomposes accents, so a caption is lost; a pipe or folder that is called NAME.txt is read."""
    folder = write_folder(tmp_path / "data", {"caf\u00e9.png": IMAGE[0], "cafe\u0301.txt": b"t", "b.png": IMAGE[1]})
    (folder / "b.txt").mkdir()
    os.mkfifo(folder / "b.json")
    source, _, said = opened(folder)
    assert source.prompts == {"caf\u00e9.png": "t", "b.png": ""}
    assert "b.json (not a file)" in said[0]


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    """Fault: "no image" in a folder full of a phone's."""
    folder = write_folder(tmp_path / "data", {"a.heic": b"", "sub/b.HEIC": b"", "c.mov": b""})
    with pytest.raises(UserError, match=r"no image in folder .*data \(it holds 2 \.heic, 1 \.mov\); expected files"):
        open_source(str(folder))


def test_many_left_out_are_counted_by_their_endings(tmp_path):
    """Fault: a line per file, or a number that does not say of what."""
    names = {f"{i}.heic": b"" for i in range(7)} | {f"{i}.mov": b"" for i in range(3)}
    _, _, said = opened(write_folder(tmp_path / "data", names | {"a.png": IMAGE[0]}))
    assert "left out: 10 (7 .heic, 3 .mov: 0.heic, 0.mov, 1.heic, 1.mov, 2.heic, ...)" in said[0]


def test_pairs_are_not_taken_for_images(tmp_path):
    """Fault: the low-resolution versions of `codi pairs` become images of their own."""
    folder = write_folder(tmp_path / "data", {"gt/0.png": IMAGE[0], "lq/0.png": IMAGE[1], "pairs.json": b"{}"})
    with pytest.raises(UserError, match=r"holds pairs to evaluate on; .* name .*gt"):
        open_source(str(folder))


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_image_smaller_than_the_crop_counts_as_unreadable(tmp_path, monkeypatch, in_memory):
    """Fault: in memory one small image ends the run; streamed it is counted."""
    folder = write_folder(tmp_path / "data", {f"{i}.png": payload for i, payload in IMAGE.items()})
    (folder / "small.png").write_bytes(encoded(new_image(0, 8, 60)))
    if not in_memory:
        monkeypatch.setattr(opening, "IN_MEMORY", 0)

    def read(share):
        source = open_source(str(folder), max_unreadable=share)
        return list(data.crops(source, image_size=S, seed=0).take(40).as_numpy_iterator())

    with (
        pytest.raises(UserError, match=r"of \d+ records are unreadable.*8x60, smaller than image_size 16.*or repair"),
        user_errors(),
    ):
        read(0.01)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(read(0.1)) == 40
    assert [f"{one.message}" for one in caught if "8x60" in str(one.message)] or not in_memory


def test_nested_depth_maps_and_triplets(tmp_path):
    """Fault: the depth task, the edits and the depth command read the top folder alone."""
    near = encoded(np.arange(20 * 24, dtype=np.uint16).reshape(20, 24) * 100)
    folder = write_folder(
        tmp_path / "depth", {"sub/a.png": IMAGE[0], "sub/a.depth.png": near, "sub/a.txt": b"t", "x.heic": b""}
    )
    with pytest.warns(UserWarning, match=r"left out: 1 \(x\.heic\)"):
        source = data.load_source(str(folder), None, make_task("depth"))
    assert len(source) == 1 and source.provides == ("depth", "prompt") and source.prompts == {"a.png": "t"}
    edits = write_folder(
        tmp_path / "edits", {"sub/a.png": IMAGE[0], "sub/a.source.png": IMAGE[1], "sub/a.txt": b"edit"}
    )
    source = data.load_source(str(edits), None, make_task("editing"))
    assert len(source) == 1 and set(source.records.read(0)) == {"image", "source", "text"}


def test_a_run_says_once_what_it_leaves_out(tmp_path):
    """Fault: the command repeats the line for each split, or does not say it."""
    from codi_tf.cli import pairs

    folder = write_folder(tmp_path / "data", {f"{i}/{i}.png": payload for i, payload in IMAGE.items()})
    (folder / "a.heic").write_bytes(b"")
    done = run_here(
        pairs.main, "--out", tmp_path / "out", "--data", folder, "--split", "all", "--task", "bicubic", "--count", 2,
        "--size", 16,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr.count("a.heic") == 1
