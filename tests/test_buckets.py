"""Aspect-ratio buckets: which image is in which, whose turn it is, windows without distortion, and runs that resume."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from conftest import SCHEDULER
from numbered_images import ramp, stream_of
from shards import encoded
from small_runs import TRAIN, crash, experiment, make_start
from tiny import UNET

from codi_tf import config, data
from codi_tf.cli.cache import encode
from codi_tf.cli.train import train
from codi_tf.core.errors import UserError
from codi_tf.data.buckets import ROUND, Turns, bucket_of, sources_of_buckets
from codi_tf.data.scenes import Scenes
from codi_tf.io.images import write_png
from codi_tf.training.experiment import build_trainer, load_source
from codi_tf.training.feed import open_feed
from codi_tf.training.loop import make_loop

SQUARE, WIDE, TALL = (24, 24), (16, 32), (32, 16)
BUCKETS = [SQUARE, WIDE, TALL]
SIZES = [(40, 44), (20, 40), (48, 20), (24, 24), (33, 90)]  # of images
EXPECTED = [SQUARE, WIDE, TALL, SQUARE, WIDE]


@pytest.mark.parametrize(("size", "expected"), [*zip(SIZES, EXPECTED, strict=True), ((16, 40), WIDE), ((20, 20), None)])
def test_an_image_is_in_the_bucket_of_the_nearest_shape_that_it_fills(size, expected):
    found = bucket_of(size, BUCKETS)
    assert (None if found is None else BUCKETS[found]) == expected
    assert bucket_of((64, 64), [(16, 16), SQUARE, WIDE]) == 1  # of equal shapes the largest
    assert bucket_of((44, 40), [WIDE, TALL]) == 1  # tall is as far from square as wide is: ratios, not differences


def test_turns_are_a_function_of_the_seed_and_the_step():
    """Catches a count that a resumed run gets wrong, and a bucket that starves."""
    turns = Turns((70, 25, 1), seed=3)
    order = [turns.at(step) for step in range(3 * ROUND)]
    for step in (0, 1, 17, ROUND, 2 * ROUND + 5):
        assert turns.before(step) == np.bincount(order[:step], minlength=3).tolist()
    counts = np.bincount(order[: sum(turns.shares)], minlength=3)
    assert counts.min() >= 1 and abs(counts[0] / counts[1] - 70 / 25) < 0.3
    assert Turns((7000, 25, 1), seed=3).shares == [64, 1, 1]  # of a 7,000th, too
    assert order == [Turns((70, 25, 1), seed=3).at(step) for step in range(3 * ROUND)]
    first = slice(0, sum(turns.shares))
    second = slice(first.stop, 2 * first.stop)
    assert order[first] != order[second]  # a round has an order of its own
    assert order != [Turns((70, 25, 1), seed=4).at(step) for step in range(3 * ROUND)]


def numbered_photos():
    return {f"{i:03}": ramp(*size, i) for i, size in enumerate(SIZES)}


def on_disk(tmp_path):
    return stream_of(tmp_path, {f"{name}.png": encoded(image) for name, image in numbered_photos().items()})


@pytest.mark.parametrize("kind", ["in memory", "on disk"])
def test_every_image_is_in_the_source_of_its_bucket(kind, tmp_path):
    source = on_disk(tmp_path) if kind == "on disk" else data.Photos(numbered_photos())
    found = sources_of_buckets(source, BUCKETS, "DATA")
    for bucket, own in zip(BUCKETS, found, strict=True):
        numbers = {i for i, expected in enumerate(EXPECTED) if expected == bucket}
        examples = data.crops(own, image_size=bucket, seed=0, augment=False).take(12)
        images = np.stack([example["image"] for example in examples.as_numpy_iterator()])
        assert images.shape == (12, *bucket, 3)
        marks = set(np.rint((images[:, 0, 0, 2] + 1) * 127.5).astype(int).tolist())
        assert len(own) == len(numbers) and marks == numbers


@pytest.mark.parametrize("kind", ["in memory", "on disk"])
def test_a_window_has_the_shape_of_its_bucket_and_is_not_distorted(kind, tmp_path):
    """Catches a window that is stretched: rows and columns of the image are as far apart from each other."""
    image = ramp(70, 110, 0)
    source = stream_of(tmp_path, {"a.png": encoded(image)}) if kind == "on disk" else data.Photos({"a": image})
    examples = data.crops(source, image_size=WIDE, seed=0, augment=False).take(20)
    steps = []
    for example in examples.as_numpy_iterator():
        places = (example["image"] + 1) * 127.5
        steps.append((np.ptp(places[:, 0, 0]) / 15, np.ptp(places[0, :, 1]) / 31))
    down, across = np.transpose(steps)
    np.testing.assert_allclose(down, across, rtol=0.1)
    assert down.min() < 1.3 and down.max() > 2.0  # from the crop's size to 2.5 times as much


def test_images_smaller_than_every_bucket_count_as_unreadable(tmp_path):
    photos = {**numbered_photos(), "small": ramp(12, 40, 99)}
    source = data.Photos(photos, max_unreadable=0.5)
    with pytest.warns(UserWarning, match="1 of 6 records .* image small: it is 12x40, smaller than every bucket"):
        found = sources_of_buckets(source, BUCKETS, "DATA")
    assert sum(map(len, found)) == 5
    with pytest.raises(UserError, match="1 of 6 records are unreadable, more than max_unreadable 0 allows"):
        sources_of_buckets(data.Photos(photos), BUCKETS, "DATA")


def test_buckets_that_cannot_be_filled_are_refused_in_one_line():
    with pytest.raises(
        UserError, match=r"has 16x64, and no image of DATA is for it \(they are 20x40, 24x24, "
    ) as caught:
        sources_of_buckets(data.Photos(numbered_photos()), [*BUCKETS, (16, 64)][::-1], "DATA")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="the images of scenes cannot be sorted by their sizes: remove it"):
        sources_of_buckets(Scenes("train"), BUCKETS, "scenes")


REFUSED = {
    "no pair": ({"buckets": [24]}, r"data.buckets has 24: a bucket is \[height, width\], multiples of 8"),
    "odd": ({"buckets": [[24, 30]]}, r"data.buckets has \[24, 30\]: a bucket is"),
    "twice": ({"buckets": [[24, 24], [24, 24]]}, r"data.buckets has \[24, 24\] twice: remove one"),
    "encoded once": ({"buckets": [[24, 24]], "encode_once": 8}, "latents of one shape are encoded; remove one"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_cannot_be_are_refused(name):
    values, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        config.Data(**values)


# Runs


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The folder of a base, and photos of two shapes beside it."""
    base = make_start(tmp_path_factory.mktemp("start"))
    random = np.random.default_rng(1)
    for i in range(24):
        size = (20, 36) if i % 2 else (36, 20)
        write_png(base.with_name("photos") / f"{i}.png", random.integers(0, 256, (*size, 3), "uint8"))
    return base


def bucketed(start, steps=6, **changes):
    changes = {"data__buckets": [list(WIDE), list(TALL)], **changes}
    return experiment(start, train={**TRAIN, "steps": steps, "save_every": 2}, **changes)


def test_batches_take_turns_and_each_shape_is_traced_once(start):
    run = bucketed(start)
    trainer = build_trainer(run)
    feed = open_feed(run, trainer, tf.distribute.get_strategy(), 0, source=load_source(run, "train"))
    loop, seen = make_loop(trainer, tf.distribute.get_strategy()), []
    for step in range(6):
        batches, count = feed.at(step, 1)
        assert count == 1
        seen.append(tuple(batches.element_spec["image"].shape))
        assert np.isfinite(float(loop(batches, tf.constant(1), tf.constant(0))["loss"]))
    assert set(seen) == {(2, *WIDE, 3), (2, *TALL, 3)}
    assert loop.experimental_get_tracing_count() == 2
    _, together = feed.at(0, 6)
    assert together == next((step for step, shape in enumerate(seen) if shape != seen[0]), 6)


@pytest.mark.usefixtures("eager")
def test_a_resumed_run_ends_as_an_uninterrupted_one(start, tmp_path, monkeypatch):
    """Catches a bucket whose batches start again, or are skipped, when a run resumes."""
    run = bucketed(start)
    train(run, tmp_path / "straight")
    crash(monkeypatch, run, tmp_path / "resumed", 3)  # its state is of step 2
    train(run, tmp_path / "resumed")
    files = [path.relative_to(tmp_path / "straight") for path in (tmp_path / "straight/result").rglob("*.safetensors")]
    assert len(files) >= 3
    for file in files:
        assert (tmp_path / "straight" / file).read_bytes() == (tmp_path / "resumed" / file).read_bytes()


def test_what_a_run_with_buckets_refuses(start, tmp_path):
    with pytest.raises(UserError, match="data.buckets has 64x8, and no image of .* is for it"):
        train(bucketed(start, data__buckets=[list(WIDE), list(TALL), [64, 8]]), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()
    with pytest.raises(UserError, match="data.buckets is set: examples of one size are encoded"):
        encode(bucketed(start), tmp_path / "cache", examples=4, shard=4)


def test_the_networks_must_divide_a_bucket(start):
    levels = {"down_block_types": ["DownBlock2D"] * 3, "up_block_types": ["UpBlock2D"] * 3}
    method = {"name": "pretrain", "network": {**UNET, **levels, "block_out_channels": [8] * 3}, "scheduler": SCHEDULER}
    with pytest.raises(UserError, match="data.buckets has 16x24: these networks need multiples of 16"):
        build_trainer(bucketed(start, method=method, task=None, data__buckets=[[16, 24]]))
