"""Images on remote paths, on TensorFlow's file system in memory: the examples of the same files on this machine."""

from __future__ import annotations

import numpy as np
import pytest
from commands import run_here
from numbered_images import numbered_files, take
from shards import encoded, example, new_image, write_tar, write_tfrecord
from small_runs import experiment, make_start

from codi_tf import config, data
from codi_tf.cli import prepare
from codi_tf.cli.train import train
from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path
from codi_tf.data.open_source import open_source
from codi_tf.data.service import callbacks
from codi_tf.io import remote
from codi_tf.tasks import make_task


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a/: images, captions and sources; t/: a tar file of these; r/: a TFRecord file."""
    folder = tmp_path_factory.mktemp("here")
    members = numbered_files(6) | {f"{i:03}.txt": f"number {i}".encode() for i in range(6)}
    members |= {f"{i:03}.source.png": encoded(new_image(i, 40, 56)) for i in range(6)}
    for name in ("a", "t", "r"):
        (folder / name).mkdir()
    for name, content in members.items():
        (folder / "a" / name).write_bytes(content)
    write_tar(folder / "t" / "0.tar", members)
    write_tfrecord(folder / "r" / "0.tfrecord", [example(image=members[f"{i:03}.png"]) for i in range(6)])
    return folder


@pytest.fixture(scope="module")
def there(here):
    """The same, remote."""
    for path in here.rglob("*"):
        if path.is_file():
            remote.upload(path, as_path("ram://images").joinpath(*path.relative_to(here).parts))
    return "ram://images"


@pytest.mark.parametrize("name", ["a", "a/00*.png", "t", "t/{0..0}.tar", "r"])
def test_examples_are_those_of_this_machine(here, there, name):
    """Fault: companions that are not found, records in another order."""
    local, far = (
        open_source(f"{place}/{name}", "train", in_memory=False, heldout_fraction=0.3) for place in (here, there)
    )
    assert 0 < len(far) == len(local) and far.provides == local.provides
    expected, found = take(local, 12), take(far, 12)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)
    options = {"image_size": 16, "batch_size": 2, "seed": 0}
    assert callbacks(data.batches(far, None, **options)) == (name == "r")


def test_pairs_and_images_in_memory(here, there):
    task = make_task("pairs")
    for name in ("{}/a", "{0}/a:{0}/a"):
        expected, found = (take(data.load_source(name.format(place), None, task), 8) for place in (here, there))
        for key in ("image", "source"):
            np.testing.assert_array_equal(found[key], expected[key])
    expected, found = (data.load_source(f"{place}/a", None) for place in (here, there))
    assert isinstance(found, data.Photos) and found.prompts == expected.prompts and found.names == expected.names
    images = [data.evaluation_set(one, None, image_size=16, count=4, seed=0)["image"] for one in (expected, found)]
    np.testing.assert_array_equal(*images)


def test_what_is_not_there_is_one_line(there, tmp_path):
    for name in (f"{there}/b", f"{there}/*.jpg", f"{there}/a/b.tar"):
        with pytest.raises(UserError, match="nothing is at ram://images/|TFRecord|tar"):
            open_source(name)
    with pytest.raises(UserError, match="parquet files are read from this machine alone"):
        data.load_source(f"{there}/x.parquet", None, make_task("editing"))
    done = run_here(prepare.main, f"{there}/a", "--out", tmp_path / "prepared")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_trains_on_images_in_a_bucket(there, tmp_path):
    """Fault: one of the places where training looks at its data takes them for files of this machine."""
    start = make_start(tmp_path)
    values = experiment(start).as_dict()
    values["data"] |= {"source": f"{there}/a", "image_size": 16, "encode_once": 0}
    assert (train(config.from_dict(values), tmp_path / "run") / "codi.json").is_file()
