"""A kind of input from outside, a segmentation map NAME.labels.png, and a task that uses it: two definitions, no more.

Each test catches a module that knows the kinds of input by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from PIL import Image
from shards import encoded, example, write_tar, write_tfrecord
from tiny import tiny_base

from codi_tf import data
from codi_tf.companions import COMPANIONS, Companion
from codi_tf.core.errors import UserError
from codi_tf.data.open_source import open_source
from codi_tf.tasks import TASKS, Task, make_task

S, CLASSES = 16, 4


class Labels(Companion):
    """A class for every pixel, uint8 [H, W, 1]."""

    extensions: ClassVar[tuple[str, ...]] = (".png",)
    channels: ClassVar[int] = 1
    is_color: ClassVar[bool] = False
    resampling: ClassVar[str] = "nearest"

    def window(self, image: Image.Image, box) -> np.ndarray:
        if image.mode != "L":
            raise UserError(f"the labels are of mode {image.mode}, not of 8 bits in gray")
        return np.asarray(image.crop(box))[..., np.newaxis]


@dataclass(frozen=True, kw_only=True)
class FromLabels(Task):
    """condition = the class as a shade of gray."""

    condition_key: ClassVar[str] = "labels"

    def degrade(self, image, seed):
        return tf.repeat(2 * image / (CLASSES - 1) - 1, 3, axis=-1)


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """What a test registers is gone after it."""
    for registry in (COMPANIONS, TASKS):
        [registry[name] for name in registry]  # those of ours stay
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    COMPANIONS.register("labels")(Labels)
    TASKS.register("from_labels")(FromLabels)


def files(count: int = 4) -> dict[str, bytes]:
    """Images of vertical bands, as bright as their class, and their labels."""
    found = {}
    for i in range(count):
        labels = np.tile(np.repeat(np.arange(CLASSES, dtype=np.uint8), 8 + i), (24, 1))
        found[f"{i}.png"] = encoded(np.repeat(labels[..., None] * 85, 3, axis=-1))
        found[f"{i}.labels.png"] = encoded(labels)
    return found


def written(path, kind: str, files: dict[str, bytes]) -> str:
    if kind == "tar":
        return str(write_tar(path / "a.tar", files))
    if kind == "tfrecord":
        names = [name for name in files if "labels" not in name]
        payloads = [example(image=files[name], map=files[name.replace(".", ".labels.")]) for name in names]
        return f"{write_tfrecord(path / 'a.tfrecord', payloads)}?labels=map"
    for name, payload in files.items():
        (path / name).write_bytes(payload)
    return str(path)


@pytest.mark.parametrize("kind", ["folder", "tar", "tfrecord"])
def test_a_task_of_a_new_kind_of_input_is_trained(tmp_path, kind):
    model = make_model(tiny_base(), task="from_labels", train="adapter")
    model.compile("adam")
    source = data.load_source(written(tmp_path, kind, files()), None, model.task)
    assert len(source) == 4 and source.provides == ("labels",)
    batch = next(iter(data.batches(source, model.task, image_size=S, batch_size=8, seed=0, augment=True)))
    condition, image = batch["condition"].numpy(), batch["image"].numpy()
    classes = 1.5 * (condition + 1)
    np.testing.assert_allclose(classes, np.rint(classes), atol=1e-6)  # they are not mixed
    assert set(np.rint(classes).ravel()) == {0, 1, 2, 3}
    assert np.corrcoef(condition.ravel(), image.ravel())[0, 1] > 0.9  # the same window, mirrored alike
    recolored = next(iter(data.batches(source, model.task, image_size=S, batch_size=8, seed=0, recolor=True)))
    np.testing.assert_array_equal(recolored["condition"], condition)
    assert (recolored["image"].numpy() != image).any()
    assert np.isfinite(float(model.train_step(batch)["loss"]))


def test_in_memory_windows_are_cut_alike():
    labels = np.tile(np.repeat(np.arange(CLASSES, dtype=np.uint8), 300), (1000, 1))
    photos = {"a": np.repeat(labels[..., None] * 85, 3, axis=-1)}
    source = data.Photos(photos, {"a": labels[..., None]}, "labels")
    task, size = make_task("from_labels"), 256  # the image is made smaller before a window is cut
    examples = data.evaluation_set(source, task, image_size=size, count=4, seed=0)
    classes = 1.5 * (examples["condition"] + 1)
    np.testing.assert_allclose(classes, np.rint(classes), atol=1e-6)
    assert np.corrcoef(classes.ravel(), examples["image"].ravel())[0, 1] > 0.9


def test_a_companion_says_how_it_is_mirrored():
    @COMPANIONS.register("directions")
    class Directions(Companion):
        channels, dtype, is_color = 1, "float32", False

        def mirrored(self, window):
            return -window[:, ::-1]

    photos, right = {"a": np.zeros((S, S, 3), np.uint8)}, {"a": np.ones((S, S, 1), np.float32)}
    drawn = data.crops(data.Photos(photos, right, "directions"), image_size=S, seed=0).take(20).as_numpy_iterator()
    assert {float(value) for one in drawn for value in one["directions"].ravel()} == {-1.0, 1.0}


def test_faults_are_named(tmp_path):
    task, found = make_task("from_labels"), files()
    with pytest.raises(UserError, match="these data have images without labels .they have: image.; name other data"):
        data.batches(data.load_source("photos", "heldout", task), task, image_size=S, batch_size=2, seed=0)
    found["1.labels.png"] = found["1.png"]
    source = data.load_source(written(tmp_path, "folder", found), None, task, max_unreadable=0.5)
    next(iter(data.batches(source, task, image_size=S, batch_size=8, seed=0)))
    assert len(source.unreadable) == 1 and "the labels are of mode RGB" in source.unreadable[0]
    with pytest.raises(UserError, match=r"0.labels.png is a companion of an image: name that image"):
        open_source(str(tmp_path / "0.labels.png"))


def test_a_kind_that_nobody_registered_is_named():
    class Unknown(FromLabels):
        condition_key: ClassVar[str] = "edges"

    with pytest.raises(UserError, match="unknown companion 'edges': known are source, depth, labels; others"):
        data.load_source("photos", None, Unknown())
    with pytest.raises(UserError, match="unknown companion 'edges'"):
        data.Photos({"a": np.zeros((S, S, 3), np.uint8)}, {"a": np.zeros((S, S, 1), np.uint8)}, "edges")
