"""Records of `codi prepare`: the pictures of the Python reader bit by bit, read by operations of TensorFlow alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from commands import run_here
from numbered_images import S, marks, take
from PIL import Image
from prepared_records import numbered_records, prepared
from shards import decoded, encoded, new_image, write_tar

from codi_tf import config, data
from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.cli import prepare
from codi_tf.core.errors import UserError, user_errors
from codi_tf.data.counts import Counts
from codi_tf.data.examples import with_features
from codi_tf.data.mixed import Mixed
from codi_tf.data.open_source import open_source
from codi_tf.data.permutation import permuted, permuted_in_graph
from codi_tf.data.pipeline import REPLACED
from codi_tf.data.prepared import Prepared, read_index
from codi_tf.data.records import index_tfrecord
from codi_tf.data.service import callbacks
from codi_tf.tasks import make_task
from codi_tf.training.experiment import build_task, load_source, takes_prompts

CONFIGS = Path(__file__).parents[1] / "configs"
SMOOTH = np.clip(np.cumsum(np.random.default_rng(1).normal(0, 4, (91, 123, 3)), axis=1) + 128, 0, 255).astype(np.uint8)


def write_kinds(folder):
    """Images of many kinds, those that TensorFlow cannot decode as small as the crop allows."""
    folder.mkdir()
    small, exif = new_image(3), Image.Exif()
    exif[0x0112] = 6
    palette = Image.fromarray(small).quantize(16)
    palette.info["transparency"] = 3
    Image.fromarray(SMOOTH).save(folder / "a.jpg", quality=90)  # 4:2:0, of an odd size: it is drafted
    Image.fromarray(SMOOTH).convert("L").save(folder / "b.jpg")
    Image.fromarray(SMOOTH).save(folder / "c.webp")
    Image.fromarray(SMOOTH).save(folder / "d.png")
    Image.fromarray(small).convert("CMYK").save(folder / "e.jpg")
    Image.fromarray(small).save(folder / "f.jpg", exif=exif)
    palette.save(folder / "g.png", transparency=3)
    Image.fromarray((small[..., 0].astype(np.uint16) << 8) + small[..., 1]).save(folder / "h.png")
    Image.fromarray(small).save(folder / "i.tif")
    Image.fromarray(small).save(folder / "j.avif")
    Image.fromarray(np.dstack([small, small[..., :1]])).save(folder / "k.png")  # over white
    for name in ("a", "e", "k"):
        (folder / f"{name}.txt").write_text(f"the  picture {name}\n")
    return folder


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return write_kinds(tmp_path_factory.mktemp("kinds") / "images")


@pytest.fixture(scope="module")
def folder(kinds):
    return prepared(kinds, kinds.parent / "prepared")


@pytest.fixture
def numbered(tmp_path):
    return numbered_records(tmp_path)


def damage(folder, number):
    """Another bit in the content of a record."""
    index = read_index(folder)
    with open(index.paths[index.shard[number]], "r+b") as file:
        file.seek(index.offset[number] + 40)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def test_the_order_is_that_of_python():
    """Fault: a shift with a sign, or an epoch of 32 bits."""
    for count, seed in ((1, 0), (7, -3), (1000, 2**63 - 1), (2**33, 5)):
        places = np.unique(np.linspace(0, count - 1, 9).astype(np.int64))
        for epoch in (0, 1, 2**40):
            found = permuted_in_graph(tf.constant(places), count, seed=seed, epoch=tf.constant(epoch, tf.int64))
            assert found.numpy().tolist() == [permuted(int(i), count, seed=seed, epoch=epoch) for i in places]


def test_the_pictures_are_those_of_the_python_reader(kinds, folder):
    """Faults: another chroma upsampling, another draft, a window that is rounded otherwise, transparency over black."""
    python = open_source(str(kinds), in_memory=False)
    ours = data.load_source(str(folder), None)
    assert isinstance(ours, Prepared) and ours.provides == ("prompt", REPLACED) and ours.missing_prompts == 8
    expected, found = (take(source, 66, augment=True, recolor=True) for source in (python, ours))
    assert found.pop(REPLACED).sum() == expected.pop(REPLACED).sum() == 0
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, key)
    assert set(expected["prompt"]) == {b"", b"the picture a", b"the picture e", b"the picture k"}


def test_files_that_tensorflow_decodes_are_kept(kinds, folder):
    """Fault: photos that grow fivefold, as PNG files. The records are those of tf.train.Example, for other readers."""
    records = with_features(index_tfrecord(sorted(folder.glob("*.tfrecord"))), {})
    stored = {name: records.read(i)["image"] for i, name in enumerate(json.loads((folder / "names.json").read_text()))}
    for name in ("a.jpg", "b.jpg", "c.webp", "d.png", "i.tif", "f.jpg"):
        assert (stored[name] == (kinds / name).read_bytes()) == (name in ("a.jpg", "b.jpg", "c.webp", "d.png")), name
    np.testing.assert_array_equal(decoded(stored["i.tif"]), new_image(3))
    assert decoded(stored["f.jpg"]).shape == (24, 20, 3)


def test_batches_are_functions_of_seed_and_number(numbered):
    source, task = data.load_source(str(numbered), None), make_task("super_resolution", scale=2)
    options = {"image_size": S, "batch_size": 4, "seed": 3, "keys": (REPLACED,)}
    straight = list(data.batches(source, task, **options).take(5).as_numpy_iterator())
    resumed = list(data.batches(source, task, start_step=3, count=2, **options).as_numpy_iterator())
    assert len(resumed) == 2
    for ours, theirs in zip(resumed, straight[3:], strict=True):
        for key, value in theirs.items():
            np.testing.assert_array_equal(ours[key], value)
    epoch = np.concatenate([marks(batch) for batch in straight[:3]])
    assert sorted(epoch) == list(range(12))


def test_a_damaged_record_is_replaced_by_the_next_and_counted(numbered):
    whole = take(data.load_source(str(numbered), None), 12)
    damage(numbered, 5)
    found = take(data.load_source(str(numbered), None), 12)
    order = [permuted(i, 12, seed=0, epoch=0) for i in range(12)]
    place = order.index(5)
    assert list(marks(whole)) == order
    assert list(marks(found)) == [order[(i + 1) % 12] if i == place else n for i, n in enumerate(order)]
    assert found[REPLACED].tolist() == [int(i == place) for i in range(12)]


def test_damage_among_sources_that_take_turns_is_counted(numbered):
    """Fault: what only one of the sources counts is left out."""
    damage(numbered, 5)
    source = Mixed([data.load_source(str(numbered), None), data.Photos({"a": new_image(0)})])
    assert take(source, 24)[REPLACED].sum() == 1


def test_nothing_but_damage_is_one_line(numbered):
    for i in range(12):
        damage(numbered, i)
    batches = data.batches(data.load_source(str(numbered), None), None, image_size=S, batch_size=2, seed=0)
    with (
        pytest.raises(UserError, match="records: none of its 12 records can be read; run codi prepare again"),
        user_errors(),
    ):
        next(iter(batches))


def test_too_much_damage_ends_a_run(numbered):
    counts = Counts([data.load_source(str(numbered), None, max_unreadable=0.1)])
    counts.add(12, replaced=1.0)
    with pytest.warns(UserWarning, match="records: 1 of 12 records that were read are damaged, others replaced them"):
        counts.warn_of_replaced()
    with pytest.raises(UserError, match=r"2 of 18 records that were read are damaged, more than max_unreadable 0\.1"):
        counts.add(6, replaced=1.0)


def test_images_smaller_than_the_crop(numbered):
    with pytest.raises(UserError, match="it is 40x56, smaller than image_size 48"):
        data.load_source(str(numbered), None).drawer(image_size=48, augment=False, recolor=False)


def test_a_file_that_is_cut_off_or_missing_is_one_line(numbered):
    shard = numbered / "examples-00000.tfrecord"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(UserError, match=rf"00000.tfrecord: has {len(content) - 1} of {len(content)} bytes; copy it"):
        data.load_source(str(numbered), None)
    shard.unlink()
    with pytest.raises(UserError, match="examples-00000.tfrecord: is missing; copy it again"):
        data.load_source(str(numbered), None)


def test_the_same_images_are_held_out(kinds, folder):
    """Fault: training on images that a report on the folder measures."""
    for split in ("train", "heldout"):
        options = {"heldout_fraction": 0.4}
        theirs = open_source(str(kinds), split, in_memory=False, **options).records
        ours = data.load_source(str(folder), split, **options)
        assert [theirs.split_name(i) for i in range(len(theirs))] == list(ours.index.names)


@pytest.mark.parametrize("task", ["depth", "pairs"])
def test_companions(tmp_path, task):
    """Faults: a map that loses its precision, a window of its own."""
    key = make_task(task).condition_key
    images = tmp_path / "images"
    images.mkdir()
    for i in range(4):
        random = np.random.default_rng(i)
        (images / f"{i}.png").write_bytes(encoded(new_image(i, 30, 44)))
        values = random.integers(1, 65536, (30, 44), np.uint16)
        companion = Image.fromarray(values) if key == "depth" else Image.fromarray(new_image(9 + i, 30, 44))
        companion.save(images / f"{i}.{key}.png")
    out = prepared(images, tmp_path / "out", "--task", task)
    chosen = make_task(task)
    if key == "depth":
        python = open_source(str(images), condition_key="depth")
    else:
        python = data.load_source(str(images), None, chosen)
    expected = take(python, 12, augment=True)
    found = take(data.load_source(str(out), None, chosen), 12, augment=True)
    for name in ("image", key):
        np.testing.assert_array_equal(found[name], expected[name])
    with pytest.raises(UserError, match="was prepared without source" if key == "depth" else "without depth"):
        data.load_source(str(out), None, make_task("pairs" if key == "depth" else "depth"))


def test_tokens_that_are_written_need_no_python(tmp_path, kinds):
    tokenizer = Tokenizer.from_merges([("t", "h"), ("th", "e</w>")])
    tokenizer.save(tmp_path / "tokenizer")
    out = prepared(kinds, tmp_path / "out", "--tokenizer", tmp_path / "tokenizer")
    source, options = data.load_source(str(out), None), {"image_size": S, "batch_size": 11, "seed": 0}
    batches = data.batches(source, None, tokenizer=tokenizer, **options)
    prompts = [text.decode() for text in take(source, 11)["prompt"]]
    np.testing.assert_array_equal(next(iter(batches))["tokens"], tokenizer(prompts))
    assert not callbacks(batches)
    other = data.batches(source, None, tokenizer=Tokenizer.from_merges([]), **options)
    assert callbacks(other) and next(iter(other))["tokens"].shape == (11, 77)


@pytest.mark.parametrize("name", ["photos", "scenes", "prepared"])
def test_no_python_takes_part(folder, name):
    name = str(folder) if name == "prepared" else name
    options = {"image_size": S, "batch_size": 2, "seed": 0}
    assert not callbacks(data.batches(data.load_source(name, "train"), make_task("super_resolution"), **options))


@pytest.mark.slow
def test_no_python_takes_part_in_the_input_of_any_config(tmp_path):
    """One input for each source, task and size. Where a config names data of the user, a tar file stands for them."""
    y, x = np.mgrid[:520, :530]
    image = encoded(np.stack([y // 3, x // 3, (y + x) // 5], axis=-1).astype(np.uint8))
    files = {"png": image, "source.png": image, "depth.png": encoded((y + x).astype(np.uint16)), "txt": b"a text"}
    user = write_tar(tmp_path / "user.tar", {f"{i}.{kind}": files[kind] for i in range(8) for kind in files})
    seen, tokenizer = {}, Tokenizer.from_merges([])
    for path in sorted(CONFIGS.glob("*.yaml")):
        experiment = config.load(path, [])
        if experiment.data.source not in ("photos", "scenes"):
            experiment = config.load(path, [f"data.source={user}", "data.buckets=[]"])
        settings, prompted = experiment.data, takes_prompts(experiment)
        seen[settings.source, str(experiment.task), settings.image_size, prompted] = experiment
    assert len(seen) > 8 and any(name == str(user) for name, *_ in seen)
    for (name, _, size, prompted), experiment in seen.items():
        source = load_source(experiment, "train")
        texts = tokenizer if prompted and name != str(user) else None  # of other prompts Python makes the tokens
        options = {"image_size": size, "batch_size": 2, "seed": 0, "recolor": experiment.data.recolor}
        keys = data.counted_keys(source, texts)
        batches = data.batches(source, build_task(experiment), tokenizer=texts, keys=keys, **options)
        assert not callbacks(batches), name


def test_nothing_is_left_of_work_that_fails(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        (images / f"{i}.png").write_bytes(b"no image")
    done = run_here(prepare.main, images, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "out").exists()
    assert done.stderr.splitlines()[-1].startswith("error: 3 of 3 records are unreadable")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_unfit_sources_and_options_are_one_line(tmp_path, folder):
    for arguments, message in (
        ((folder,), "TensorFlow alone reads these already; name them in data.source"),
        (("scenes",), "scenes: TensorFlow alone makes these examples already"),
        (("photos + scenes",), "prepare each of these sources alone"),
        (("photos", "scale=2"), "scale=2: options of a task need --task"),
        (("photos", "--tokenizer", tmp_path), f"{tmp_path / 'vocab.json'}"),
        ((tmp_path / "nowhere",), "nothing is at"),
    ):
        done = run_here(prepare.main, *arguments, "--out", tmp_path / "out")
        assert done.returncode == 2 and message in done.stderr.splitlines()[-1], done.stderr
    assert "already exists" in run_here(prepare.main, "photos", "--out", folder).stderr


def test_photos_of_the_repository(tmp_path):
    out = prepared("photos", tmp_path / "out")
    source = data.load_source(str(out), "train")
    assert len(read_index(out).names) == 17 and source.provides == (REPLACED,)
    batch = next(iter(data.batches(source, make_task("super_resolution"), image_size=64, batch_size=4, seed=0)))
    assert batch["condition"].shape == (4, 64, 64, 3)
