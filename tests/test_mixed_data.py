"""Several sources as one: whose example comes when, what the examples have, and how a config names them."""

import numpy as np
import pytest
from PIL import Image

from codi_tf.config import places
from codi_tf.core.errors import UserError
from codi_tf.data import batches, crops, load_source
from codi_tf.data.stream import warn_of_unreadable

SIDE = 16


def first(source, count: int) -> list[dict]:
    """The first examples of a source, of seed 3, not mirrored."""
    dataset = crops(source, image_size=SIDE, seed=3, augment=False).take(count)
    return list(dataset.as_numpy_iterator())


@pytest.fixture
def folder(tmp_path):
    """A folder of three images of one color each, with captions."""
    for i, level in enumerate((10, 120, 230)):
        Image.new("RGB", (40, 40), (level,) * 3).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"gray {level}")
    return tmp_path


def test_sources_take_turns(folder):
    """Catches a source that is skipped, and one whose every n-th example alone is used."""
    mixed = load_source(f"scenes + {folder}", None)
    assert mixed.provides == ("prompt",)
    shown = first(mixed, 8)
    flat = [np.ptp(example["image"]) < 1e-6 for example in shown]
    assert flat == [False, True] * 4
    assert all(set(example) == {"image", "prompt", "index"} for example in shown)
    assert {example["prompt"].decode() for example in shown[1::2]} <= {"gray 10", "gray 120", "gray 230"}
    alone = first(load_source("scenes", None), 8)
    assert not any(np.array_equal(example["image"], shown[0]["image"]) for example in alone[1:])


def test_what_one_source_lacks_no_example_has():
    """Catches depth that half of the examples would have."""
    mixed = load_source("scenes + photos", "train")
    assert mixed.provides == () and len(mixed.names) == len(load_source("photos", "train").names)
    assert set(first(mixed, 1)[0]) == {"image", "index"}
    with pytest.raises(UserError, match="without prompt"):
        batches(mixed, None, image_size=SIDE, batch_size=2, seed=0, tokenizer=lambda texts: np.zeros((2, 3), np.int32))


def test_texts_that_are_not_asked_for_no_source_gives(folder):
    """Catches captions that one source gives in any case and the other one does not: the examples would not match."""
    mixed = load_source(f"scenes + {folder}", None)
    batch = next(iter(batches(mixed, None, image_size=SIDE, batch_size=4, seed=0)))
    assert set(batch) == {"image"}


def test_a_folder_may_have_the_sign_in_its_name(tmp_path):
    """Catches a path that is taken apart although it exists."""
    folder = tmp_path / "a + b"
    folder.mkdir()
    Image.new("RGB", (40, 40)).save(folder / "a.png")
    assert len(load_source(str(folder), None)) == 1
    values = {"data": {"source": "a + b"}}
    places.resolve(values, tmp_path / "own.yaml")
    assert values["data"]["source"] == str(folder)


def test_a_config_s_sources_are_resolved_one_by_one(folder, monkeypatch, tmp_path):
    """Catches a mixed source whose folder is looked up from the working directory only."""
    config = tmp_path / "own.yaml"
    (tmp_path / "pictures").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    values = {"data": {"source": "photos + pictures"}}
    places.resolve(values, config)
    assert values["data"]["source"] == f"photos + {tmp_path / 'pictures'}"


def test_a_damaged_image_of_one_source_is_told(folder):
    """Catches a warning that only a source on its own gives."""
    (folder / "3.png").write_bytes((folder / "2.png").read_bytes()[:40])
    with pytest.warns(UserWarning, match="unreadable"):
        source = load_source(f"photos + {folder}", None, max_unreadable=0.9)
        first(source, 8)
        warn_of_unreadable(source)
