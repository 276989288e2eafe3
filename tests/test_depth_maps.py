"""Photos with depth maps: the embedded pair, and folders with their mistakes named."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from skimage import data as skimage_data

from codi_tf import data
from codi_tf.core.errors import UserError, user_errors
from codi_tf.data.depth_maps import load_depth_folder, load_stereo, open_depth
from codi_tf.data.open_source import open_source
from codi_tf.data.stream import Stream
from codi_tf.tasks.depth import Depth

RANDOM = np.random.default_rng(0)


def crops(source, count, size=32, **options):
    options = {"image_size": size, "seed": 0, "augment": False, **options}
    return list(data.crops(source, **options).take(count).as_numpy_iterator())


# --- the embedded pair


def test_the_stereo_pair_is_scikit_images():
    photo, _, disparity = skimage_data.stereo_motorcycle()
    source = load_stereo()
    near = source.companions["motorcycle"]
    assert source.provides == ("depth",) and near.shape == (500, 741, 1) and near.dtype == np.float32
    np.testing.assert_array_equal(source.images["motorcycle"], photo)
    known = np.isfinite(disparity)
    np.testing.assert_array_equal(near[known][:, 0], disparity[known])
    assert 0.05 < 1 - known.mean() < 0.1 and np.isfinite(near).all()


def test_splits_are_disjoint_parts_of_the_image():
    whole, train, heldout = load_stereo(), load_stereo("train"), load_stereo("heldout")
    for which in ("images", "companions"):
        parts = [getattr(source, which)["motorcycle"] for source in (train, heldout)]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), getattr(whole, which)["motorcycle"])
        assert min(part.shape[1] for part in parts) >= 240
    with pytest.raises(UserError, match="unknown split 'test'"):
        load_stereo("test")


def test_what_is_near_in_the_image_is_bright_in_the_condition():
    """The motorcycle stands before its garage: whatever the window, the condition follows the measured disparity."""
    _, _, disparity = skimage_data.stereo_motorcycle()
    known = np.isfinite(disparity)
    condition = Depth().degrade(load_stereo().companions["motorcycle"], seed=None).numpy()[..., 0]
    assert stats.spearmanr(condition[known], disparity[known]).statistic > 0.9999
    held = data.evaluation_set(load_stereo("heldout"), Depth(), image_size=64, count=4, seed=0)
    assert held["condition"].shape == (4, 64, 64, 3)
    assert (held["condition"].min(axis=(1, 2, 3)) == -1).all() and (held["condition"].max(axis=(1, 2, 3)) == 1).all()


def test_batches_of_the_task():
    options = {"image_size": 32, "batch_size": 4, "seed": 0}
    batches = list(data.batches(load_stereo("train"), Depth(), **options).take(3).as_numpy_iterator())
    assert batches[0]["image"].shape == batches[0]["condition"].shape == (4, 32, 32, 3)
    resumed = next(data.batches(load_stereo("train"), Depth(), start_step=2, **options).as_numpy_iterator())
    for key, value in batches[2].items():
        np.testing.assert_array_equal(resumed[key], value)


# --- folders


def write_pair(folder, name="a", size=(40, 60), suffix=".png", scale=1.0):
    """A photo whose red is four times its column, and the map of the columns."""
    height, width = size
    columns = np.broadcast_to(np.arange(width), size)
    photo = np.zeros((height, width, 3), np.uint8)
    photo[..., 0] = 4 * columns
    Image.fromarray(photo).save(folder / f"{name}.png")
    near = scale * (1 + columns)
    path = folder / f"{name}.depth{suffix}"
    if suffix == ".npy":
        np.save(path, near)
    elif suffix == ".png":
        Image.fromarray(near.astype(np.uint16)).save(path)
    else:
        Image.fromarray(near.astype(np.float32)).save(path)
    return path


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("suffix", [".png", ".npy", ".tif", ".pfm"])
def test_maps_are_cut_where_their_photos_are(tmp_path, suffix, augment):
    write_pair(tmp_path, suffix=suffix, scale=100)
    source = load_depth_folder(tmp_path)
    assert source.provides == ("depth",) and list(source.images) == ["a.png"]
    for example in crops(source, 20, size=16, augment=augment):
        assert example["depth"].shape == (16, 16, 1) and example["depth"].dtype == np.float32
        columns = 127.5 * (example["image"][..., 0] + 1) / 4
        # Shrinking moves both a little, by less than half a pixel of the photo.
        np.testing.assert_allclose(example["depth"][..., 0] / 100, 1 + columns, atol=0.4)


def test_distances_become_nearness(tmp_path):
    write_pair(tmp_path)
    as_disparity, as_depth = (
        load_depth_folder(tmp_path, kind=kind).companions["a.png"] for kind in ("disparity", "depth")
    )
    np.testing.assert_allclose(as_depth, 1 / as_disparity, rtol=1e-6)


def test_holes_of_measured_maps_are_filled(tmp_path):
    path = write_pair(tmp_path)
    values = np.asarray(Image.open(path)).astype(np.uint16)
    values[:, 10:20] = 0
    Image.fromarray(values).save(path)
    near = load_depth_folder(tmp_path, kind="depth").companions["a.png"][..., 0]
    np.testing.assert_allclose(near[:, 10:20], 1 / 21, rtol=1e-6)  # column 20 is farther than column 9
    assert (load_depth_folder(tmp_path).companions["a.png"][:, 10:20] == 0).all()  # a disparity of 0 is a value


def test_captions(tmp_path):
    for name in ("a", "b"):
        write_pair(tmp_path, name)
    assert load_depth_folder(tmp_path).prompts is None
    (tmp_path / "b.txt").write_text("a ramp,\n from dark to  bright ä\n", encoding="utf-8")
    source = load_depth_folder(tmp_path)
    assert source.prompts == {"a.png": "", "b.png": "a ramp, from dark to bright ä"}
    assert source.provides == ("depth", "prompt")
    assert {one["prompt"].decode() for one in crops(source, 20, size=16)} == set(source.prompts.values())
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"b\.png: its text is damaged"):
        crops(load_depth_folder(tmp_path), 1, size=16)


def test_splits_by_file_name(tmp_path):
    names = [f"photo{i}" for i in range(12)]
    for name in names:
        write_pair(tmp_path, name, size=(8, 8))
    train, heldout = (set(load_depth_folder(tmp_path, s, heldout_fraction=0.4).images) for s in ("train", "heldout"))
    assert train and heldout and not train & heldout and train | heldout == {f"{name}.png" for name in names}
    (tmp_path / "heldout").mkdir()
    same = set(open_source(plain_folder(tmp_path / "plain", names), "heldout", heldout_fraction=0.4).images)
    assert same == heldout  # as without maps
    assert "none of the 12 pairs" in error_of(tmp_path, "heldout", heldout_fraction=0.0)
    assert "unknown split" in error_of(tmp_path, "test")


def plain_folder(folder, names):
    folder.mkdir()
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    return str(folder)


def error_of(folder, *arguments, **options):
    with pytest.raises(UserError) as caught:
        load_depth_folder(folder, *arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_has_no_counterpart_is_left_out_counted_and_named(tmp_path):
    write_pair(tmp_path)
    for name in "bcdefgh":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.jpg")
    np.save(tmp_path / "z.depth.npy", np.eye(8))
    with pytest.warns(UserWarning) as caught:
        source = load_depth_folder(tmp_path)
    lines = [str(one.message) for one in caught]
    assert list(source.images) == ["a.png"] and all("\n" not in line for line in lines)
    assert any(
        "images without a depth map are left out: 7 (b.jpg, c.jpg, d.jpg, e.jpg, f.jpg, ...)" in s for s in lines
    )
    assert any("depth maps without an image are left out: 1 (z.depth.npy)" in line for line in lines)


def test_mistakes_are_named(tmp_path):
    assert "no such folder" in error_of(tmp_path / "none")
    assert "no image in folder" in error_of(tmp_path)
    photo = tmp_path / "a.jpg"
    Image.new("RGB", (60, 40)).save(photo)
    message = error_of(tmp_path)
    assert "a.depth.png for a.jpg" in message and "codi depth" in message
    depth_map = tmp_path / "a.depth.npy"
    for values, expected in (
        (np.ones((40, 60, 3)), "shape (40, 60, 3)"),
        (np.ones((40, 60)), "constant"),
        (np.full((40, 60), np.nan), "unknown everywhere"),
        (RANDOM.uniform(size=(60, 40)), "is 40x60, but a.jpg is 60x40; make them of one size"),
    ):
        np.save(depth_map, values)
        message = error_of(tmp_path)
        assert expected in message and str(depth_map) in message
    np.save(depth_map, RANDOM.uniform(size=(40, 60)))
    assert load_depth_folder(tmp_path).companions["a.jpg"].shape == (40, 60, 1)
    assert "kind must be" in error_of(tmp_path, kind="metres")
    photo.write_bytes(photo.read_bytes()[:200])
    assert f"cannot read image {photo}" in error_of(tmp_path)
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    assert "a.jpg and a.png have one name" in error_of(tmp_path)


# --- folders that do not fit into memory, and shards


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr("codi_tf.data.open_source.IN_MEMORY", 3 * 40 * 60 * 7)


@pytest.mark.parametrize("suffix", [".png", ".npy", ".tif", ".pfm"])
def test_large_folders_are_read_as_they_are_needed(tmp_path, little_memory, suffix):
    for name in "abcd":
        path = write_pair(tmp_path, name, suffix=suffix, scale=100)
    (tmp_path / "a.txt").write_text("a ramp")
    source = load_depth_folder(tmp_path, kind="depth")
    assert isinstance(source, Stream) and set(source.provides) == {"depth", "prompt"} and len(source) == 4
    for example in crops(source, 12, size=16, augment=True):
        columns = 127.5 * (example["image"][..., 0] + 1) / 4
        np.testing.assert_allclose(0.01 / example["depth"][..., 0], 1 + columns, atol=0.5)
        assert example["prompt"] in (b"a ramp", b"")
    path.unlink()
    with pytest.warns(UserWarning, match="left out: 1"):
        assert not isinstance(load_depth_folder(tmp_path), Stream)  # three fit


def test_mistakes_in_large_folders_are_counted(tmp_path, little_memory):
    for name in "abcdef":
        write_pair(tmp_path, name, suffix=".npy")
    np.save(tmp_path / "b.depth.npy", np.ones((40, 60)))
    np.save(tmp_path / "c.depth.npy", RANDOM.uniform(size=(60, 40)))
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\xff")
    source = load_depth_folder(tmp_path, max_unreadable=0.5)
    assert len(crops(source, 6, size=16)) == 6
    lines = sorted(source.unreadable)
    assert len(lines) == 3 and all("\n" not in line for line in lines)
    for line, (name, expected) in zip(
        lines, (("b", "is constant"), ("c", "60x40"), ("d", "its text is damaged")), strict=True
    ):
        assert line.startswith(str(tmp_path / f"{name}.png")) and expected in line
    with pytest.raises(UserError, match="unreadable"), user_errors():
        crops(load_depth_folder(tmp_path), 6, size=16)


def test_mistakes_in_small_folders_are_counted_by_the_same_rule(tmp_path):
    for name in "abcdefgh":
        write_pair(tmp_path, name, suffix=".npy")
    np.save(tmp_path / "b.depth.npy", np.full((40, 60), np.nan))
    np.save(tmp_path / "c.depth.npy", RANDOM.uniform(size=(60, 40)))
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "e.png").write_bytes((tmp_path / "e.png").read_bytes()[:100])
    with pytest.warns(UserWarning) as caught:
        source = load_depth_folder(tmp_path, max_unreadable=0.5)
    assert list(source.images) == list(source.companions) == [f"{name}.png" for name in "adfgh"]
    (line,) = (str(one.message) for one in caught)
    assert line.startswith("3 of 8 records are unreadable and left out: ")
    assert all(name in line for name in ("b.depth.npy", "c.depth.npy", "e.png"))
    with pytest.warns(UserWarning, match=r"4 of 8 records are unreadable and left out: .* and 1 more"):
        crops(source, 1, size=16)
    message = error_of(tmp_path, max_unreadable=0.37)
    assert message.startswith("3 of 8 records are unreadable, more than max_unreadable 0.37 allows: ")


def test_depth_from_wherever_it_lies(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    write_pair(folder)
    assert open_depth(folder, kind="depth").kind == "depth"
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, file.name)
    source = open_depth(tmp_path / "shard.tar")
    assert source.provides == ("depth", "replaced")
    for example in crops(source, 4, size=16):
        columns = 127.5 * (example["image"][..., 0] + 1) / 4
        np.testing.assert_allclose(example["depth"][..., 0], 1 + columns, atol=0.5)
    with pytest.raises(UserError, match="must be of the kind disparity, not depth"):
        open_depth(tmp_path / "shard.tar", kind="depth")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(folder / "a.png", "a.png")
    with pytest.raises(UserError, match="has no depth maps"):
        open_depth(tmp_path / "shard.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image in folder"):
        open_depth(tmp_path / "empty")
