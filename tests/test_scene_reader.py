"""The reader of scenes: its network and losses, what its training gets of examples, its folder, and its statements."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from commands import run_here

from codi_tf import config
from codi_tf.checkpoints.base import make_network
from codi_tf.cli import train as command
from codi_tf.core.errors import UserError
from codi_tf.data import batches, evaluation_set, load_source
from codi_tf.data.scenes import LABELS, Scenes
from codi_tf.evaluation.scenes import shared_eye
from codi_tf.methods.reader import Reader as Settings
from codi_tf.methods.reader import reading_losses, worsened
from codi_tf.models.scene_reader import Reading, SceneReader, means
from codi_tf.scenes.captions import Statements, parse
from codi_tf.scenes.reading import VOCABULARY, load_reader, save_reader
from codi_tf.scenes.statements import agreement, columns_of_shares, is_caption, occurrences, share_right
from codi_tf.scenes.world import FLOORS
from codi_tf.tasks import make_task

S, N = 32, 3
TINY = {"stem": 4, "widths": [8, 8, 8], "blocks": 1, "groups": 4}


def tiny_reader(seed: int = 0) -> SceneReader:
    keras.utils.set_random_seed(seed)
    return make_network(SceneReader, {**VOCABULARY, **TINY}, "reader")


def scenes(count: int, **options) -> dict:
    return next(iter(batches(Scenes("train"), None, image_size=S, batch_size=count, seed=3, **options)))


def test_batches_have_the_keys_that_are_named_and_no_others():
    """Catches keys that are lost on the way, and labels of another example than the image's."""
    source, keys = Scenes("train"), ("depth", "objects", *LABELS)
    plain = scenes(4)
    batch = scenes(4, keys=keys)
    assert set(plain) == {"image"} and set(batch) == {"image", *keys}
    np.testing.assert_array_equal(batch["image"], plain["image"])
    assert batch["objects"].shape == (4, S, S) and batch["size"].shape == (4, N) and batch["count"].shape == (4,)
    seen = [set(np.unique(one)) - {N, N + 1} for one in batch["objects"].numpy()]
    assert [len(one) for one in seen] == batch["count"].numpy().tolist()
    drawn = evaluation_set(source, None, image_size=S, count=2, seed=5, keys=("caption", "floor"))
    assert drawn["floor"].tolist() == [FLOORS.index(parse(text).floor) for text in drawn["caption"]]
    with pytest.raises(UserError, match=r"these data have images without objects \(they have: image\); name other"):
        batches({"a": np.zeros((S, S, 3), "uint8")}, None, image_size=S, batch_size=1, seed=0, keys=("objects",))


def test_captions_of_an_edit_are_those_of_the_scenes_before_and_after_it():
    source = load_source("scenes", "heldout", make_task("editing"))
    drawn = evaluation_set(source, None, image_size=16, count=24, seed=0, keys=("caption", "source_caption"))
    stated = (map(parse, drawn[key]) for key in ("source_caption", "caption"))
    edits = list(zip(drawn["prompt"], *stated, strict=True))
    assert not any(is_caption(text) for text, *_ in edits)
    floors = [(text.split()[-1], b.floor, a.floor) for text, b, a in edits if text.startswith("make the floor")]
    assert floors and all(word == after != before for word, before, after in floors)
    others = [(before, after) for text, before, after in edits if "floor" not in text]
    assert others and all(before.floor == after.floor and before != after for before, after in others)


def test_means_are_weighted_by_the_shares_of_each_object():
    values = np.arange(8, dtype="float32").reshape(1, 2, 2, 2)  # cells (0, 1), (2, 3), (4, 5), (6, 7)
    shares = np.zeros((1, 2, 2, 3), "float32")
    shares[0, 0, 0, 0], shares[0, 1, 1, 0], shares[0, 0, 1, 1] = 0.25, 0.75, 0.5
    np.testing.assert_allclose(means(values, shares), [[[4.5, 5.5], [2, 3], [0, 0]]], rtol=1e-5)


def reading_of(truth: dict, sure: float) -> Reading:
    """The reading of a network that is right and sure: its logits are 0, and `sure` for what is true."""
    pixels = tf.one_hot(tf.minimum(truth["objects"], N), N + 1)
    shares = tf.nn.avg_pool2d(pixels, 4, 4, "VALID")
    attributes = {name: sure * tf.one_hot(truth[name], size) for name, size in VOCABULARY["attributes"].items()}
    cells = {name: tf.einsum("bhwn,bnv->bhwv", shares[..., :-1], logits) for name, logits in attributes.items()}
    scene = {name: sure * tf.one_hot(truth[name], size) for name, size in VOCABULARY["scene"].items()}
    scene["count"] = sure * tf.one_hot(truth["count"] - 1, N)
    objects = tf.math.log(shares + 1e-9) if sure else 0.0 * shares
    return Reading(objects, tf.nn.avg_pool2d(truth["depth"], 4, 4, "VALID"), cells, attributes, scene)


def test_the_losses_of_one_who_knows_nothing_and_of_one_who_is_right():
    """Catches labels that are off by one, counted where no object is, or compared with the wrong logits."""
    truth = scenes(4, keys=Settings.needs)
    unsure, right = (reading_losses(reading_of(truth, sure), truth) for sure in (0.0, 50.0))
    of_objects = np.log(2) + np.log(2) + np.log(8) + np.log(4)
    np.testing.assert_allclose(unsure["attributes"], [of_objects] * 4, rtol=1e-4)
    np.testing.assert_allclose(unsure["cells"], [of_objects] * 4, rtol=1e-4)
    np.testing.assert_allclose(unsure["scene"], [np.log(3) + np.log(4) + np.log(3)] * 4, rtol=1e-4)
    np.testing.assert_allclose(unsure["nearness"], np.zeros(4), atol=1e-6)
    assert all(np.all(right[name] < 1e-3) for name in ("attributes", "scene"))
    pixels = np.eye(N + 1)[np.minimum(truth["objects"], N)]
    shares = pixels.reshape(4, S // 4, 4, S // 4, 4, N + 1).mean(axis=(2, 4))
    weights = 1 + 3 * (1 - shares[..., N])
    entropy = -np.sum(shares * np.log(shares + 1e-9), axis=-1)  # of cells that two share
    np.testing.assert_allclose(right["objects"], np.mean(weights * entropy, axis=(1, 2)), rtol=1e-3)
    np.testing.assert_allclose(unsure["objects"], np.mean(weights * np.log(4), axis=(1, 2)), rtol=1e-4)


def test_a_small_object_counts_as_much_as_a_large_one():
    """Catches a mean over cells: the first object has 4 of them, the second 60."""
    truth = {key: value[:1] for key, value in scenes(4, keys=Settings.needs).items()}
    objects = np.full((1, S, S), 1, "int32")
    objects[:, :8, :8] = 0
    truth |= {"objects": tf.constant(objects), "count": tf.constant([2])}
    right = reading_of(truth, 50.0)
    of_second = np.float32(objects[:, ::4, ::4, None] == 1)

    def loss(known) -> np.ndarray:
        return reading_losses(right._replace(cells={k: known * x for k, x in right.cells.items()}), truth)["cells"]

    np.testing.assert_allclose(loss(of_second), 0.5 * loss(0.0), rtol=1e-3)


def test_images_are_worsened_as_far_as_is_drawn():
    image = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 3)).astype("float32")
    noise = np.ones_like(image)
    made = worsened(image, tf.constant([0.0, 0.59, 1.0]), tf.constant([0.0, 0.5, 0.0]), noise).numpy()
    np.testing.assert_array_equal(made[0], image[0])
    np.testing.assert_allclose(made[1], image[1] + 0.03, atol=1e-6)
    assert np.abs(np.diff(made[2], axis=0)).mean() < 0.5 * np.abs(np.diff(image[2], axis=0)).mean()
    np.testing.assert_allclose(made[2].mean(), image[2].mean(), atol=0.02)


RUN = {
    "method": {"name": "reader", "network": TINY},
    "data": {"source": "scenes", "image_size": S},
    "train": {"steps": 24, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 0, "ema_decay": 0.5, "log_every": 1},
}


@pytest.mark.slow
def test_training_falls_and_its_result_reads(tmp_path):
    """From the config to statements; images of another size and other folders are refused in one line."""
    command.train(config.from_dict(RUN), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert np.mean([line["loss"] for line in lines[-8:]]) < 0.9 * np.mean([line["loss"] for line in lines[:4]])
    eye = shared_eye(str(tmp_path / "run"), S)  # the folder of a run stands for its result
    assert eye is shared_eye(str(tmp_path / "run" / "result"), S)
    reader = eye.reader
    seen = reader.read(scenes(3)["image"].numpy(), batch=2)
    assert len(seen.statements) == 3 and seen.nearness.shape == (3, S // 4, S // 4)
    assert all(set(one) == {"size", "material", "color", "shape"} for s in seen.statements for one in s.objects)


def test_data_without_what_it_needs_are_refused_in_one_line(tmp_path):
    (tmp_path / "config.yaml").write_text(json.dumps({**RUN, "data": {"source": "photos", "image_size": S}}))
    ended = run_here(command.main, tmp_path / "config.yaml", "--out", tmp_path / "run")
    assert ended.returncode == 2 and "these data have images without depth (they have: image)" in ended.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    save_reader(tiny_reader(), folder, image_size=S)
    return folder


def test_it_comes_back_from_its_folder(folder):
    """In float16: readings agree to its precision; what is read is what the network says."""
    images = scenes(3)["image"]
    network, reader = tiny_reader(), load_reader(folder)
    reading, seen = network(images), reader.read(images.numpy(), batch=2)
    np.testing.assert_allclose(seen.nearness, reading.nearness[..., 0], atol=0.01)
    np.testing.assert_allclose(reader.features(images), network.features(images), atol=0.03)
    assert [len(one.objects) for one in seen.statements] == (1 + np.argmax(reading.scene["count"], -1)).tolist()


def test_other_sizes_and_other_folders_are_refused_in_one_line(folder, tmp_path):
    with pytest.raises(UserError, match="was trained on images of 32x32 pixels, not 64x64"):
        load_reader(folder).read(np.zeros((1, 64, 64, 3), "float32"))
    with pytest.raises(UserError, match="not 32x48"):
        load_reader(folder).read(np.zeros((1, 32, 48, 3), "float32"))
    about = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"_class_name": "UNet"}, "holds no reader of scenes; name the folder of one"),
        ({"objects": 4}, "of another world"),
        ({"words": {**about["words"], "floor": ["wooden", "tiled", "sandy", "snowy"]}}, "of another world"),
        ({"widths": [8, 8]}, "widths is .*: it must be a list of 3; train the reader again"),
        ({"widths": [9, 8, 8]}, "not the configuration of a reader of scenes"),
        ({"widths": [16, 8, 8]}, "of another shape"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(about | change))
        weights = "diffusion_pytorch_model.safetensors"
        (tmp_path / weights).write_bytes((folder / weights).read_bytes())
        with pytest.raises(UserError, match=message):
            load_reader(tmp_path)


STATED = parse("a large matte red cube and a small shiny blue sphere on a sandy floor at night")


@pytest.mark.parametrize(
    ("seen", "right"),
    [
        ("a large matte red cube and a small shiny blue sphere on a sandy floor at night", (1, 8, 1, 1)),
        ("a small shiny blue sphere and a large matte red cube on a sandy floor at night", (1, 4, 1, 1)),
        ("a small shiny blue sphere on a sandy floor at noon", (0, 4, 1, 0)),
        ("a large matte green cube and a small shiny blue sphere on a tiled floor at night", (1, 7, 0, 1)),
        (
            "a small shiny white cone, a large matte red cube and a small shiny blue sphere on a sandy floor at night",
            (0, 8, 1, 1),
        ),
    ],
)
def test_statements_that_are_right(seen, right):
    """Counts by hand, of 1, 8, 1 and 1: exchanged, missing, changed and further objects."""
    found = agreement(STATED, parse(seen))
    assert tuple(found.values()) == tuple(zip(right, (1, 8, 1, 1), strict=True))
    assert share_right(STATED, parse(seen)) == sum(right) / 11
    assert share_right(STATED, parse(seen), "attributes") == right[1] / 8


def test_what_is_not_stated_is_not_asked_for():
    found = agreement(parse("a red cube"), STATED)
    assert found == {"count": (0, 1), "attributes": (2, 2), "floor": (0, 0), "light": (0, 0)}
    assert share_right(parse("a red cube"), STATED, "floor") == 1.0
    assert agreement(parse("at night"), STATED)["count"] == (0, 0)


def test_captions_are_told_from_instructions():
    assert is_caption("a large matte red cube on sand, at night") and is_caption("at night")
    assert not any(map(is_caption, ("make the red cube blue", "remove the sphere", "make it night", "a dog", "")))


def test_occurrences_are_counted_by_kind():
    floor, light, color, shape = (np.array(occurrences(STATED))[part].tolist() for part in columns_of_shares())
    assert floor == [0, 0, 1, 0] and light == [0, 0, 1]
    assert color == [1, 0, 1, 0, 0, 0, 0, 0] and shape == [1, 1, 0, 0]
    assert sum(occurrences(Statements((), None, None))) == 0
