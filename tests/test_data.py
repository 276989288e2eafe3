"""The data: photos of the split, examples that are functions of (seed, i), batches that resume."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from codi_tf import data
from codi_tf.core.errors import UserError
from codi_tf.data.open_source import open_source
from codi_tf.tasks import make_task

S = 16
TASK = make_task("super_resolution")


def ramp(height, width, mark):
    """A photo that knows its coordinates: channels (row, column, mark)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.full_like(y, mark)], axis=-1).astype(np.uint8)


def noise_photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


PHOTOS = {"a": noise_photo(40, 60, 1), "b": noise_photo(50, 30, 2)}


def take(dataset, count):
    """The first `count` elements stacked: name -> [count, ...]."""
    return next(dataset.batch(count).as_numpy_iterator())


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


# --- embedded photos


def test_embedded_photos():
    train, heldout = data.load_photos("train"), data.load_photos("heldout")
    assert set(heldout) == {"astronaut", "coffee", "camera", "gravel"}
    assert len(train) == 13
    for photo in [*train.values(), *heldout.values()]:
        assert photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3
        assert min(photo.shape[:2]) >= 300 and photo.std() > 5
    assert train["retina"].shape == (1411, 1411, 3)
    np.testing.assert_array_equal(train["china"], load_sample_image("china.jpg"))
    assert (heldout["camera"] == heldout["camera"][..., :1]).all()  # a gray photo


def test_splits_share_no_photo():
    digests = [{hashlib.sha256(p.tobytes()).hexdigest() for p in data.load_photos(s).values()} for s in data.PHOTOS]
    assert len(digests) == 2 and not digests[0] & digests[1]
    assert [len(d) for d in digests] == [13, 4]  # nor one photo twice


def test_unknown_split():
    with pytest.raises(UserError, match="'test'; valid splits: train, heldout"):
        data.load_photos("test")


@pytest.mark.parametrize(("module", "package"), [("skimage", "scikit-image"), ("sklearn", "scikit-learn")])
def test_missing_package(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)  # how Python itself marks a module as absent
    with pytest.raises(UserError, match=f"pip install {package}"):
        data.load_photos("train")


# --- a folder


@pytest.fixture
def folder(tmp_path):
    for i in range(40):
        Image.fromarray(noise_photo(4, 6, i)).save(tmp_path / f"{i:02}.png")
    return tmp_path


def folder_split(folder, split=None, heldout_fraction=0.1):
    """The names in a split."""
    return set(open_source(str(folder), split, heldout_fraction=heldout_fraction).images)


def test_folder(tmp_path):
    for name in ("b.png", "a.PNG", "c.bmp", "d.tif"):
        Image.fromarray(PHOTOS["a"]).save(tmp_path / name)
    for name in ("e.jpg", "f.jpeg", "g.webp"):
        Image.fromarray(PHOTOS["a"]).save(tmp_path / name)
    Image.fromarray(PHOTOS["a"][..., 0]).save(tmp_path / "gray.png")
    (tmp_path / "notes.txt").write_text("not a photo")
    (tmp_path / "more.png").mkdir()
    photos = open_source(str(tmp_path)).images
    assert list(photos) == ["a.PNG", "b.png", "c.bmp", "d.tif", "e.jpg", "f.jpeg", "g.webp", "gray.png"]
    for name in ("a.PNG", "b.png", "c.bmp", "d.tif"):
        np.testing.assert_array_equal(photos[name], PHOTOS["a"])
    assert all(photo.shape == (40, 60, 3) and photo.dtype == np.uint8 for photo in photos.values())
    np.testing.assert_array_equal(photos["gray.png"], PHOTOS["a"][..., :1].repeat(3, axis=2))


def test_folder_split_is_a_partition(folder):
    parts = [folder_split(folder, split, 0.3) for split in ("train", "heldout")]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == folder_split(folder)
    assert 5 <= len(parts[1]) <= 19  # expected 12 of 40


def test_folder_split_follows_from_the_name_alone(folder):
    before = folder_split(folder, "heldout", 0.3)
    for i in range(20, 40):
        (folder / f"{i:02}.png").unlink()
    Image.fromarray(PHOTOS["a"]).save(folder / "0new.png")
    after = folder_split(folder, "heldout", 0.3) - {"0new.png"}
    assert after == {name for name in before if int(name[:2]) < 20}
    digest = int(hashlib.sha256(b"00.png").hexdigest()[:16], 16) / 2**64  # the rule itself: others may rely on it
    assert "00.png" in folder_split(folder, "heldout", digest + 1e-9)
    assert "00.png" in folder_split(folder, "train", digest - 1e-9)


def test_folder_errors(tmp_path):
    with pytest.raises(UserError, match="no image in folder"):
        open_source(str(tmp_path))
    Image.fromarray(PHOTOS["a"]).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="none of the 1 images .* falls in split 'heldout'.*heldout_fraction"):
        folder_split(tmp_path, "heldout", 0.0)
    with pytest.raises(UserError, match="valid splits"):
        folder_split(tmp_path, "test")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
    with pytest.raises(UserError, match=r"1 of 2 records are unreadable, more than max_unreadable 0\.01 .*b\.png"):
        open_source(str(tmp_path))
    with pytest.warns(UserWarning, match=r"1 of 2 records are unreadable and left out: .*b\.png"):
        assert list(open_source(str(tmp_path), max_unreadable=0.5).images) == ["a.png"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match="1 of 1 records are unreadable"):
        open_source(str(tmp_path), max_unreadable=1.0)


# --- crops


def test_crops_shape_dtype_range_index():
    dataset = data.crops(PHOTOS, image_size=S, seed=0)
    assert dataset.element_spec["image"] == tf.TensorSpec([S, S, 3], tf.float32)
    assert dataset.element_spec["index"] == tf.TensorSpec([], tf.int64)
    examples = take(dataset, 50)
    assert examples["index"].tolist() == list(range(50))
    assert -1 <= examples["image"].min() < -0.9 and 0.9 < examples["image"].max() <= 1


def test_example_is_a_function_of_seed_and_index():
    whole = take(data.crops(PHOTOS, image_size=S, seed=7), 30)
    assert_same(whole, take(data.crops(PHOTOS, image_size=S, seed=7), 30))
    tail = take(data.crops(PHOTOS, image_size=S, seed=7, start=11), 19)
    assert_same({name: value[11:] for name, value in whole.items()}, tail)


def test_examples_and_seeds_differ():
    photos = {"a": noise_photo(300, 400)}
    examples = [take(data.crops(photos, image_size=S, seed=seed), 40)["image"] for seed in (0, 1, -1)]
    every = np.concatenate(examples).reshape(120, -1)
    assert len(np.unique(every, axis=0)) == 120


def test_index_may_be_large():
    start = 3 * 2**32
    near, far = (take(data.crops(PHOTOS, image_size=S, seed=0, start=first), 2) for first in (0, start))
    assert far["index"].tolist() == [start, start + 1]
    assert np.abs(near["image"] - far["image"]).max() > 0.1  # the index is not cut to 32 bits


def test_photo_of_the_crops_size_is_returned_whole():
    photo = noise_photo(S, S)
    crop = take(data.crops({"a": photo}, image_size=S, seed=0, augment=False), 3)["image"]
    np.testing.assert_allclose(crop, np.stack([photo / 127.5 - 1] * 3), atol=1e-6)


def test_window_is_a_shrunk_square_of_the_photo():
    """On a photo of coordinates a crop is a ramp: its slope is the zoom, its start the place."""
    height, width, count = 200, 240, 400
    crops = take(data.crops({"a": ramp(height, width, 77)}, image_size=S, seed=0, augment=False), count)["image"]
    pixels = (crops + 1) * 127.5  # [N, S, S, 3]
    assert np.abs(pixels[..., 2] - 77).max() < 1.01  # never a pixel from outside of the photo
    inner = pixels[:, 1:-1, 1:-1]
    slopes = [(inner[:, -1, :, 0] - inner[:, 0, :, 0]) / (S - 3), (inner[:, :, -1, 1] - inner[:, :, 0, 1]) / (S - 3)]
    zoom = slopes[0].mean(axis=1)
    np.testing.assert_allclose(zoom, slopes[1].mean(axis=1), atol=0.12)  # square windows
    straight = inner[:, :1, :, 0] + zoom[:, None, None] * np.arange(S - 2)[:, None]
    assert np.abs(inner[..., 0] - straight).max() < 1.6  # no fold, no jump
    assert 0.96 < zoom.min() < 1.05 and 2.35 < zoom.max() < 2.55
    assert abs(np.log(zoom).mean() - np.log(2.5) / 2) < 4 * np.log(2.5) / np.sqrt(12 * count)  # log-uniform
    top = pixels[:, 0, :, 0].mean(axis=1) - (zoom - 1) / 2
    place = top / (height - S * zoom)  # 0 at the top edge, 1 at the bottom edge
    assert -0.02 < place.min() < 0.03 and 0.97 < place.max() < 1.02
    assert abs(place.mean() - 0.5) < 4 / np.sqrt(12 * count)


def test_window_stays_within_a_small_photo():
    crops = take(data.crops({"a": ramp(20, 100, 55)}, image_size=S, seed=0), 200)["image"]
    assert np.abs((crops[..., 2] + 1) * 127.5 - 55).max() < 1.01


def test_photos_are_drawn_by_the_square_root_of_their_area():
    photos = {"small": ramp(50, 50, 10), "large": ramp(150, 150, 60), "wide": ramp(50, 200, 120)}
    marks = (take(data.crops(photos, image_size=S, seed=0), 900)["image"][:, 8, 8, 2] + 1) * 127.5
    share = np.array([(np.abs(marks - mark) < 2).mean() for mark in (10, 60, 120)])
    assert share.sum() == pytest.approx(1)
    np.testing.assert_allclose(share, [1 / 6, 3 / 6, 2 / 6], atol=4 * np.sqrt(0.25 / 900))


def test_augmentation_mirrors_half_of_the_examples():
    plain, augmented = (take(data.crops(PHOTOS, image_size=S, seed=3, augment=a), 200)["image"] for a in (False, True))
    same = (plain == augmented).all(axis=(1, 2, 3))
    mirrored = (plain[:, :, ::-1] == augmented).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(200)


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    crops = take(data.crops({"a": stripes}, image_size=24, seed=0), 200)["image"]
    contrast = np.sort(crops[:, 2:-2, 2:-2].std(axis=(1, 2, 3)))
    assert contrast[-1] > 0.9  # unshrunk: the stripes
    assert contrast[40] < 0.25  # window 1.5 or more times the crop, from the pyramid's other levels: gray


def test_large_photo_is_shrunk_first():
    row = np.linspace(0, 255, 1600).astype(np.uint8)
    photo = np.tile(row[None, :, None], (900, 1, 3))  # black to white over 1600 pixels: over 800 once shrunk
    crops = 127.5 * take(data.crops({"a": photo}, image_size=64, seed=0, augment=False), 60)["image"]
    zoom = (crops[:, :, -1] - crops[:, :, 0]).mean(axis=(1, 2)) / 63 / (255 / 800)
    assert 0.95 < zoom.min() < 1.2 and 2.1 < zoom.max() < 2.55


def test_wrong_photos():
    with pytest.raises(UserError, match="image b: it is 50x30, smaller than image_size 32"):
        data.crops(PHOTOS, image_size=32, seed=0)
    with pytest.raises(UserError, match="no images"):
        data.crops({}, image_size=32, seed=0)


# --- batches


def test_batches_shapes_and_keys():
    dataset = data.batches(PHOTOS, TASK, image_size=S, batch_size=4, seed=0)
    spec = tf.TensorSpec([4, S, S, 3], tf.float32)
    assert dataset.element_spec == {"image": spec, "condition": spec}
    batch = next(iter(dataset))
    for value in batch.values():
        assert -1 <= value.numpy().min() < value.numpy().max() <= 1
    assert data.batches(PHOTOS, None, image_size=S, batch_size=4, seed=0).element_spec == {"image": spec}


def first_batches(count, **arguments):
    arguments = {"image_size": S, "batch_size": 4, "seed": 5, **arguments}
    return list(itertools.islice(data.batches(PHOTOS, TASK, **arguments).as_numpy_iterator(), count))


def joined(batches):
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def test_batches_resume():
    whole = first_batches(6)
    for step in (1, 4):
        for expected, resumed in zip(whole[step:], first_batches(6 - step, start_step=step), strict=True):
            assert_same(expected, resumed)


def test_batch_k_holds_the_examples_from_k_times_b():
    examples = take(data.crops(PHOTOS, image_size=S, seed=5), 12)["image"]
    np.testing.assert_array_equal(joined(first_batches(3))["image"], examples)
    assert_same(joined(first_batches(3)), joined(first_batches(2, batch_size=6)))  # conditions included


@pytest.mark.parametrize("threads", [1, 4])
def test_batches_do_not_depend_on_the_threads(threads):
    assert_same(joined(first_batches(8)), joined(first_batches(8, num_threads=threads)))


def test_batches_are_the_same_in_another_process():
    code = (
        "import hashlib, itertools, numpy as np, test_data\n"
        "digest = hashlib.sha256()\n"
        "for batch in test_data.first_batches(3):\n"
        "    for name in sorted(batch): digest.update(batch[name].tobytes())\n"
        "print(digest.hexdigest())"
    )
    digest = hashlib.sha256()
    for batch in first_batches(3):
        for name in sorted(batch):
            digest.update(batch[name].tobytes())
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "123", "TF_NUM_INTEROP_THREADS": "3"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest.hexdigest()


def test_degradation_differs_between_examples_of_one_image():
    photo = {"a": noise_photo(S, S)}
    batch = next(data.batches(photo, TASK, image_size=S, batch_size=8, seed=0, augment=False).as_numpy_iterator())
    assert (batch["image"] == batch["image"][0]).all()
    assert len(np.unique(batch["condition"].reshape(8, -1), axis=0)) == 8


# --- evaluation


def test_evaluation_set():
    examples = data.evaluation_set(PHOTOS, TASK, image_size=S, count=10, seed=5)
    assert set(examples) == {"image", "condition"}
    for value in examples.values():
        assert isinstance(value, np.ndarray) and value.shape == (10, S, S, 3) and value.dtype == np.float32
    np.testing.assert_array_equal(
        examples["image"], take(data.crops(PHOTOS, image_size=S, seed=5, augment=False), 10)["image"]
    )
    assert_same(examples, data.evaluation_set(PHOTOS, TASK, image_size=S, count=10, seed=5))
    assert set(data.evaluation_set(PHOTOS, None, image_size=S, count=2, seed=5)) == {"image"}


def test_evaluation_conditions_are_those_of_batches_without_augmentation():
    examples = data.evaluation_set(PHOTOS, TASK, image_size=S, count=8, seed=5)
    assert_same(examples, joined(first_batches(2, augment=False)))


def test_recolored_permutes_channels_and_changes_their_gammas():
    levels = np.linspace(0.0, 1.0, 16, dtype=np.float32)
    exponents = np.array(
        [1.0, 3.0, 9.0]
    )  # tells the channels apart whatever the gamma, which is below 1.65 and above 0.6
    image = (2 * levels[:, None, None] ** exponents - 1).astype(np.float32)  # [16, 1, 3]
    orders, gammas = set(), []
    for seed in range(200):
        unit = (np.asarray(data.recolored(tf.constant(image), tf.constant([seed, 1]))) + 1) / 2
        assert np.array_equal(unit[0], np.zeros((1, 3))) and np.array_equal(unit[-1], np.ones((1, 3)))
        found = np.log(unit[8, 0]) / np.log(levels[8])  # exponent x gamma
        order = tuple(int(np.abs(np.log(exponents / e)).argmin()) for e in found)
        assert sorted(order) == [0, 1, 2]
        gamma = found / exponents[list(order)]
        np.testing.assert_allclose(unit[:, 0], levels[:, None] ** (exponents[list(order)] * gamma), atol=2e-5)
        orders.add(order)
        gammas.append(np.log(gamma))
    gammas = np.array(gammas)
    assert len(orders) == 6
    assert np.abs(gammas).max() <= 0.5 + 1e-4
    assert np.abs(gammas.mean(axis=0)).max() < 0.08  # uniform in -0.5..0.5: the mean of 200 has a deviation of 0.02
    np.testing.assert_allclose(gammas.std(axis=0), 1 / np.sqrt(12), rtol=0.15)


def test_recoloring_leaves_place_and_mirroring_of_a_crop_alone():
    photos = {"ramp": np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)}
    plain, other = (
        next(data.crops(photos, image_size=16, seed=3, recolor=recolor).as_numpy_iterator())["image"]
        for recolor in (False, True)
    )
    assert not np.array_equal(plain, other)
    ranks = [np.argsort(plain[..., c], axis=None, kind="stable") for c in range(3)]
    for channel in range(3):  # a gamma keeps the order of the pixels
        assert any(np.all(np.diff(other[..., channel].ravel()[rank]) >= -1e-6) for rank in ranks)
