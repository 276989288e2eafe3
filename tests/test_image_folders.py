"""Folders of images in, folders of images out: names, resuming, images that fail, and the commands that take them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import run_here
from conftest import make_base, make_model
from export_cases import exported
from PIL import Image

from codi_tf.cli import restore
from codi_tf.core.errors import UserError
from codi_tf.io.depth_files import photo_files
from codi_tf.io.folders import MARKER
from codi_tf.io.image_folders import ResultFolder, partners
from codi_tf.tasks import make_task
from export.runtime import run as export_run

NAMES = ("a.png", "b.JPG", "more/a.png", "more/deep/c.gif")


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Images in nested folders, with a text that is none."""
    for i, name in enumerate(NAMES):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(8, 12, i)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "a.txt").write_text("a caption")
    return tmp_path / "in"


def results(folder: Path, out: Path, **settings) -> ResultFolder:
    return ResultFolder(out, folder, photo_files(folder), settings)


def inverted(folder: Path, calls: list[str]):
    files = photo_files(folder)

    def make(scale: int, name: str) -> np.ndarray:
        calls.append(name)
        return 255 - np.asarray(Image.open(files[name]).convert("RGB"))

    return make


def visible(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("[!.]*") if path.is_file())


def test_results_have_the_names_of_their_images_and_are_made_once(folder, tmp_path):
    """Catches flattened folders, results that are made again, and a model that is loaded for nothing."""
    out, calls = tmp_path / "out", []
    text = results(folder, out, model=Path("m"), steps=(1, 2)).fill(lambda: 1, inverted(folder, calls))
    assert text == f"{out}: 4 of 4 images made" and calls == ["a", "b", "more/a", "more/deep/c"]
    assert visible(out) == ["a.png", "b.JPG", "more/a.png", "more/deep/c.png"]
    np.testing.assert_array_equal(Image.open(out / "more" / "a.png"), 255 - pixels(8, 12, 2))
    (out / "more" / "a.png").unlink()
    again = results(folder, out, model=Path("m"), steps=[1, 2])
    assert again.waiting == ["more/a"]
    assert again.fill(lambda: 1, inverted(folder, calls)) == f"{out}: 1 of 4 images made, 3 were there"
    assert calls[4:] == ["more/a"]
    done = results(folder, out, model=Path("m"), steps=[1, 2]).fill(lambda: pytest.fail("loaded"), inverted(folder, []))
    assert done == f"{out}: all 4 images were there"


def test_what_fails_is_named_at_the_end_and_ends_nothing(folder, tmp_path, capsys):
    """Catches a bad image that costs the others their turn, and a failure that the command is silent about."""
    whole = inverted(folder, [])

    def make(model, name):
        if name == "b":
            raise UserError("b.JPG: truncated")
        if name == "more/a":
            raise MemoryError
        return whole(model, name)

    out = tmp_path / "out"
    with pytest.raises(UserError, match="2 of 4 images made, 2 failed: b, more/a; correct them and start again"):
        results(folder, out).fill(lambda: None, make)
    assert visible(out) == ["a.png", "more/deep/c.png"]
    said = capsys.readouterr().err
    assert "b: b.JPG: truncated\n" in said and "more/a: not enough memory" in said and "image 4/4" in said
    assert results(folder, out).waiting == ["b", "more/a"]


def test_a_mistake_that_concerns_all_images_is_one_line_and_leaves_nothing(folder, tmp_path):
    """Catches a wrong option that is told once for each of a thousand images."""

    def make(model, name):
        raise UserError("--prompt: there is no text encoder")

    with pytest.raises(UserError, match="^--prompt: there is no text encoder$"):
        results(folder, tmp_path / "out").fill(lambda: None, make)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, OSError(28, "No space left on device")])
def test_bugs_full_disks_and_interruptions_end_it_and_it_goes_on(folder, tmp_path, error):
    """Catches a bug that counts as a bad image, and results of a stopped command that are lost or half."""
    out, calls = tmp_path / "out", []
    whole = inverted(folder, calls)

    def make(model, name):
        if name == "more/a":
            raise error
        return whole(model, name)

    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        results(folder, out).fill(lambda: None, make)
    assert visible(out) == ["a.png", "b.JPG"]
    results(folder, out).fill(lambda: None, whole)
    assert calls == ["a", "b", "more/a", "more/deep/c"]


def test_results_do_not_mix(folder, tmp_path):
    """Catches photos of the user's that are taken for results, other settings, and results that would be read."""
    out = tmp_path / "out"
    results(folder, out, steps=4).fill(lambda: None, inverted(folder, []))
    with pytest.raises(UserError, match="was started with steps = 4, now it is 8"):
        results(folder, out, steps=8)
    shutil.copytree(out, tmp_path / "other")
    (tmp_path / "other" / MARKER).unlink()
    for _ in range(2):
        with pytest.raises(UserError, match="already exists; name a new folder"):
            results(folder, tmp_path / "other", steps=4)
        (tmp_path / "other" / MARKER).write_text(json.dumps({"kind": "bundle", "files": []}))
    for place in (folder, folder / "results", tmp_path):
        with pytest.raises(UserError, match="results must be apart|already exists"):
            results(folder, place, steps=4)
    assert not (folder / "results").exists()
    with pytest.raises(UserError, match="is a file, not a folder"):
        results(folder, folder / "a.png")


def test_files_of_other_kinds_are_matched_by_name(folder, tmp_path):
    """Catches a mask of another image of the same name in another folder."""
    files, one = photo_files(folder), folder / "a.png"
    assert partners(files, "--mask", one, photo_files) == dict.fromkeys(files, one)
    shutil.copytree(folder, tmp_path / "masks")
    found = partners(files, "--mask", tmp_path / "masks", photo_files)
    assert found["more/a"] == tmp_path / "masks" / "more" / "a.png" and list(found) == list(files)
    (tmp_path / "masks" / "more" / "a.png").unlink()
    with pytest.raises(UserError, match=r"--mask is .*: it has no more/a\.png"):
        partners(files, "--mask", tmp_path / "masks", photo_files)


@pytest.mark.usefixtures("eager")
def test_restore_takes_a_folder(bundle, folder, tmp_path):
    """Catches results that differ from those of each image alone, by noise, names or options."""
    (folder / "more" / "a.png").write_bytes(b"no image")
    given = (bundle, "--steps", 1, "--seed", 3)
    done = run_here(restore.main, *given, "--condition", folder, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].endswith(
        "3 of 4 images made, 1 failed: more/a; correct them and start again"
    )
    alone = run_here(restore.main, *given, "--condition", folder / "a.png", "--out", tmp_path / "a.png")
    assert alone.returncode == 0 and (tmp_path / "a.png").read_bytes() == (tmp_path / "out" / "a.png").read_bytes()
    Image.fromarray(pixels(8, 12, 9)).save(folder / "more" / "a.png")
    done = run_here(restore.main, *given, "--condition", folder, "--out", tmp_path / "out")
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'out'}: 1 of 4 images made, 3 were there\n"
    done = run_here(restore.main, *given, "--condition", folder, "--out", tmp_path / "out.png", "--mask", folder)
    assert done.returncode == 2 and "takes no mask" in done.stderr and not (tmp_path / "out.png").exists()


@pytest.mark.usefixtures("eager")
def test_restore_takes_a_folder_of_masks(folder, tmp_path):
    """Catches an image that is filled where another's mask is white."""
    make_model(make_base(), task=make_task("inpainting")).save(tmp_path / "bundle")
    (tmp_path / "few").mkdir()
    for i, name in enumerate(("a", "b")):
        Image.fromarray(pixels(8, 12, i)).save(tmp_path / "few" / f"{name}.png")
        mask = np.zeros((8, 12), np.uint8)
        mask[:, 4 * i : 4 * i + 6] = 255
        Image.fromarray(mask).save(tmp_path / "few" / f"{name}.mask.png")
    few = ("--condition", tmp_path / "few", "--mask", tmp_path / "few", "--out", tmp_path / "out")
    done = run_here(restore.main, tmp_path / "bundle", "--steps", 1, *few)
    assert done.returncode == 0, done.stderr
    for i, name in enumerate(("a", "b")):
        same = (np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) == pixels(8, 12, i)).all(axis=(0, 2))
        assert same.tolist() == [not 4 * i <= column < 4 * i + 6 for column in range(12)]


def test_a_package_takes_a_folder(bundle, folder, tmp_path):
    """Catches a package that makes other images of a folder than of each file, and one that starts again."""
    package = exported(bundle, "onnx")
    done = run_here(export_run.main, package, "--condition", folder, "--out", tmp_path / "out", "--seed", 3)
    assert done.returncode == 0 and "image 4/4" in done.stderr, done.stderr
    run_here(export_run.main, package, "--condition", folder / "a.png", "--out", tmp_path / "a.png", "--seed", 3)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "out" / "a.png").read_bytes()
    again = (package, "--condition", folder, "--out", tmp_path / "out")
    done = run_here(export_run.main, *again, "--seed", 3, "--threads", 1)
    assert done.stdout == f"{tmp_path / 'out'}: all 4 images were there\n"
    done = run_here(export_run.main, *again, "--seed", 4)
    assert done.returncode == 2 and "was started with seed = 3, now it is 4" in done.stderr
