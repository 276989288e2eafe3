"""Models that come with codi_tf, by their names; `codi edit`; a bundle and its base that move together."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from commands import run_here
from PIL import Image
from tiny import tiny_base, tiny_text

import codi_tf
from codi_tf.bundle import copy_bundle
from codi_tf.checkpoints.folder import save_base
from codi_tf.cli import edit, restore
from codi_tf.core.errors import UserError
from codi_tf.io.bundle_files import model_at, read_about
from codi_tf.io.starter import shipped_model, starter_folder
from codi_tf.tasks import make_task

BEFORE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    """A starter folder with a base, and beside it bundles of its adapters: the base is named, not copied."""
    folder = tmp_path_factory.mktemp("starter")
    assets = folder / "assets"
    (assets / "tiny-base").mkdir(parents=True)
    save_base(tiny_base(), assets / "tiny-base")
    tiny_text(assets / "tiny-base", 8)
    base = codi_tf.load_stable_diffusion(assets / "tiny-base")
    for name, task in (("tiny-editing", "editing"), ("tiny-depth", "depth")):
        codi_tf.CoDi(base, train="adapter", image_size=16, task=make_task(task)).save(assets / name)
    return folder


@pytest.fixture
def elsewhere(starter, tmp_path, monkeypatch):
    """A working directory with an image and nothing else; codi_tf brings the models of `starter`."""
    monkeypatch.setattr("codi_tf.io.starter.starter_folder", lambda: starter)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(BEFORE).save("in.png")
    return tmp_path


def test_a_name_stands_for_a_model_that_comes_along_unless_something_is_there(tmp_path, monkeypatch):
    """Catches a name that leads out of assets/, and a user's folder that is passed over."""
    monkeypatch.chdir(tmp_path)
    from_here = tmp_path / "scenes-reader"
    assert model_at(from_here.relative_to(tmp_path)) == starter_folder() / "assets" / "scenes-reader"
    assert shipped_model("photos-base/undistilled") == starter_folder() / "assets" / "photos-base" / "undistilled"
    for name in ("..", "../configs", str(starter_folder() / "assets" / "scenes-reader"), "mine", ""):
        assert shipped_model(name) is None, name
    from_here.mkdir()
    assert model_at(from_here.relative_to(tmp_path)) == from_here.relative_to(tmp_path)


def test_a_bundle_beside_its_base_names_it_by_the_way_there(starter, tmp_path):
    """Catches a bundle that works on the machine alone on which it was made."""
    about = json.loads((starter / "assets" / "tiny-editing" / "codi.json").read_text("utf-8"))
    assert about["base"]["path"] == "../tiny-base"
    shutil.copytree(starter / "assets" / "tiny-editing", tmp_path / "tiny-editing")
    with pytest.raises(UserError, match="tiny-base is missing"):
        codi_tf.load(tmp_path / "tiny-editing")
    shutil.copytree(starter / "assets" / "tiny-base", tmp_path / "tiny-base")
    assert codi_tf.load(tmp_path / "tiny-editing").task == make_task("editing")


def test_a_copy_in_half_precision_keeps_what_the_bundle_says(starter, tmp_path):
    """Catches a bundle that is shipped without a word of how it was made."""
    made = {"steps": 7}
    model = codi_tf.load(starter / "assets" / "tiny-depth")
    model.save(tmp_path / "made", provenance=made)
    copy_bundle(tmp_path / "made", tmp_path / "copy", dtype="float16")
    assert read_about(tmp_path / "copy") == read_about(tmp_path / "made")
    assert read_about(tmp_path / "copy")["provenance"] == made
    weights = "adapter/diffusion_pytorch_model.safetensors"
    sizes = [(tmp_path / name / weights).stat().st_size for name in ("made", "copy")]
    assert sizes[1] < 0.7 * sizes[0]
    half, whole = (codi_tf.load(tmp_path / name).student.adapter.weights for name in ("copy", "made"))
    for a, b in zip(half, whole, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy().astype("float16").astype("float32"))


@pytest.mark.parametrize(("dtype", "steps"), [("int8", 200), ("int4", 12)])
def test_integers_are_for_a_bundle_of_an_adapter_alone(starter, tmp_path, dtype, steps):
    """Catches a base in integers, which diffusers could not read, and a copy that is not smaller."""
    model, weights = codi_tf.load(starter / "assets" / "tiny-depth"), "adapter/diffusion_pytorch_model.safetensors"
    model.save(tmp_path / "half", dtype="float16")
    copy_bundle(tmp_path / "half", tmp_path / "copy", dtype=dtype)
    sizes = [(tmp_path / name / weights).stat().st_size for name in ("half", "copy")]
    assert sizes[1] < 0.9 * sizes[0]  # in so small a network the names and scales count
    for a, b in zip(
        codi_tf.load(tmp_path / "copy").student.adapter.weights, model.student.adapter.weights, strict=True
    ):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=np.abs(b.numpy()).max() / steps)
    whole = codi_tf.CoDi(codi_tf.load_stable_diffusion(starter / "assets" / "tiny-base"), image_size=16)
    with pytest.raises(UserError, match=f"{dtype}: that is for bundles that hold the adapter alone"):
        whole.save(tmp_path / "whole", dtype=dtype)
    assert not (tmp_path / "whole").exists()


def test_edit_makes_what_the_instruction_says_from_the_image(elsewhere):
    """By the name of a model, as right after an installation; the image is that of `CoDi.generate`."""
    words = ("tiny-editing", "--image", "in.png", "--prompt", "make it night", "--seed", 3)
    done = run_here(edit.main, *words, "--out", "out.png")
    assert (done.returncode, done.stdout) == (0, "out.png\n"), done.stderr
    expected = codi_tf.load("tiny-editing").generate(BEFORE, "make it night", seed=3)
    np.testing.assert_allclose(np.asarray(Image.open("out.png")).astype(int), expected, atol=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tiny-depth", "--prompt", "x"], "takes no instruction; name a model for editing, or use codi restore"),
        (["tiny-editing"], "--prompt is missing"),
        (["tiny-base", "--prompt", "x"], "is no trained model"),
        (["nothing", "--prompt", "x"], "nothing: no such model, here or among those that come with codi_tf; train one"),
        (["tiny-edit", "--prompt", "x"], "among those that come with codi_tf; did you mean tiny-editing?"),
        (["tiny-editing", "--prompt", "x", "--mask", "in.png"], "unrecognized arguments: --mask"),
    ],
)
def test_edit_says_what_is_wrong_in_one_line(elsewhere, words, said):
    done = run_here(edit.main, *words, "--image", "in.png", "--out", "out.png")
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (elsewhere / "out.png").exists()


def test_each_command_names_its_own_option(elsewhere):
    """Catches `codi edit` that asks for --condition."""
    for command, name, flag in ((edit, "tiny-editing", "--image"), (restore, "tiny-depth", "--condition")):
        done = run_here(command.main, name, "--prompt", "x", "--out", "out.png")
        assert done.returncode == 2 and done.stderr.startswith(f"error: {flag} is missing: ")
        done = run_here(command.main, name, "--prompt", "x", flag, "in.png", "--out", "in.png")
        assert done.returncode == 2 and f"it would replace the {flag}" in done.stderr
