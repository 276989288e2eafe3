"""The command line that evaluates: the files of a report, and mistakes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_base, make_model
from PIL import Image

import codi_tf
from codi_tf import data
from codi_tf.cli.evaluate import PROCESS_STEPS, main
from codi_tf.cli.evaluate_inputs import inputs_of
from codi_tf.cli.evaluate_options import parse
from codi_tf.core.errors import Interrupted, UserError
from codi_tf.core.progress import Progress
from codi_tf.evaluation.curves import COLORS
from codi_tf.evaluation.features import load_or_train
from codi_tf.evaluation.loading import labels
from codi_tf.evaluation.measuring import Evaluator
from codi_tf.evaluation.samplers import model_process, model_sampler
from codi_tf.io.folders import MARKER
from codi_tf.io.hashing import folder_sha256
from codi_tf.io.images import to_uint8
from codi_tf.io.weights import save_network
from codi_tf.methods.finetune import Finetune
from codi_tf.tasks import make_task

S, CELL = 16, 128  # the grids show each pixel eight times
ROOT = Path(codi_tf.__file__).parents[1]


@pytest.fixture(scope="module")
def second_bundle(bundle, tmp_path_factory):
    """The first bundle with another adapter: it shares task, size and autoencoder. It takes a guidance."""
    folder = tmp_path_factory.mktemp("second") / "runs" / "other" / "result"
    shutil.copytree(bundle, folder)
    other = codi_tf.load(bundle)
    other.student.adapter.mu.assign(-other.student.adapter.mu)
    save_network(other.student.adapter, folder / "adapter")
    about = json.loads((folder / "codi.json").read_text())
    about["method"] = {"name": "finetune", "space": "velocity", "drop_condition": 0.1}
    about["result_decay"] = 0.0
    (folder / "codi.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def report(bundle, second_bundle, feature_folder, tmp_path_factory):
    """Two bundles, of which one takes the guidance, two samplers, two numbers of steps."""
    out = tmp_path_factory.mktemp("new") / "new" / "report"
    options = ["--steps", "1,3", "--samplers", "ddim,dpm++", "--count", "8", "--features", str(feature_folder)]
    tf.config.run_functions_eagerly(True)  # tracing every sampler takes longer
    try:
        main([str(bundle), str(second_bundle), *options, "--seed", "7", "--guidance", "3", "--out", str(out)])
    finally:
        tf.config.run_functions_eagerly(False)
    return out


@pytest.fixture(autouse=True)
def short_processes(monkeypatch):
    """Two images of a process in place of ten, which take 55 evaluations; the report of this module has ten."""
    monkeypatch.setattr("codi_tf.cli.evaluate.PROCESS_STEPS", (1, 2))


@pytest.fixture(scope="module")
def model(bundle):
    return codi_tf.load(bundle)


NAMES = [
    f"{label}, {name}, {steps}"
    for label in ("bundle", "other")
    for name in ("ddim", "dpm++")
    for steps in ("1 step", "3 steps")
]
ALL = ["bicubic", *NAMES, "autoencoder", "original"]
PROCESSES = [f"process-{i}.png" for i in range(1, 5)]


def examples(count: int = 8, seed: int = 7, task: str = "super_resolution") -> dict[str, np.ndarray]:
    return data.evaluation_set(data.load_photos("heldout"), make_task(task), image_size=S, count=count, seed=seed)


def open_png(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def assert_shows(grid: np.ndarray, top: int, left: int, image: np.ndarray) -> None:
    """An image in [-1, 1] stands at a place of a grid, eight times as large."""
    cell = grid[top : top + CELL : CELL // S, left : left + CELL : CELL // S]
    np.testing.assert_allclose(cell.astype(int), to_uint8((image + 1) / 2), atol=1)


def test_the_files_of_a_report(report):
    files = [MARKER, "curves.png", "grid.png", "metrics.json", "metrics.npz", *PROCESSES, "report.md"]
    assert sorted(path.name for path in report.iterdir()) == files
    assert [path.name for path in report.parent.iterdir()] == ["report"]
    page = (report / "report.md").read_text()
    for name in ("curves.png", "grid.png", *PROCESSES):
        assert page.count(f"]({name})") == 1, name
    table = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")]
    assert table == ["", "---", *ALL]
    assert "8 crops of 16 pixels from 4 held-out images of photos, seed 7. Samplers: ddim, dpm++." in page


def test_figures_and_settings(report, bundle, second_bundle, feature_folder):
    written = json.loads((report / "metrics.json").read_text())
    rows, settings = written["rows"], written["settings"]
    assert list(rows) == ALL
    assert rows["bundle, ddim, 3 steps"]["latent_error"] != rows["other, ddim, 3 steps"]["latent_error"]
    assert rows["bundle, ddim, 3 steps"]["latent_error"] != rows["bundle, dpm++, 3 steps"]["latent_error"]
    assert settings["bundles"]["bundle"]["sha256"] == folder_sha256(bundle)
    assert settings["bundles"]["other"] == {
        "path": str(second_bundle),
        "sha256": folder_sha256(second_bundle),
        "task": json.loads((second_bundle / "codi.json").read_text())["task"],
    }
    assert settings["features"] == {"path": str(feature_folder), "sha256": folder_sha256(feature_folder)}
    assert settings["steps"] == [1, 3] and settings["samplers"] == ["ddim", "dpm++"]
    assert (settings["count"], settings["seed"], settings["image_size"]) == (8, 7, S)
    figure = rows["other, dpm++, 3 steps"]
    low, high = figure["psnr_interval"]
    assert (
        f"| other, dpm++, 3 steps | {figure['psnr']:.2f} [{low:.2f}, {high:.2f}] |"
        in (report / "report.md").read_text()
    )


def test_values_of_every_image(report):
    rows = json.loads((report / "metrics.json").read_text())["rows"]
    with np.load(report / "metrics.npz", allow_pickle=False) as values:
        assert list(values["rows"]) == ALL
        for name in ("psnr", "ssim", "sharpness", "latent_error"):
            assert values[name].shape == (len(ALL), 8)
            for i, label in enumerate(ALL):
                if rows[label][name] is not None:
                    assert values[name][i].mean() == pytest.approx(rows[label][name], rel=1e-9)
    with np.load(report / "metrics.npz") as values:
        assert set(values.files) == {"rows", "psnr", "ssim", "sharpness", "latent_error"}


def test_curves(report):
    """One color a bundle."""
    image = open_png(report / "curves.png")
    shown = [int((image == tuple(bytes.fromhex(color[1:]))).all(axis=-1).sum()) for color in COLORS]
    assert min(shown[:2]) > 200 and max(shown[2:6]) == 0


def test_the_grid_shows_the_same_inputs(report, model):
    """The inputs of most contrast, in the order of it, each with a row for every bundle and sampler."""
    grid, inputs = open_png(report / "grid.png"), examples()
    order = np.argsort(-inputs["image"].std(axis=(1, 2, 3)))[:3]  # three inputs: four series make twelve rows
    images, _ = model_sampler(model, 3, seed=7, sampler="dpm++")(inputs["condition"])
    left, width = grid.shape[1] - 4 * (CELL + 8), grid.shape[1]
    last = grid.shape[0] - 4 * (CELL + 8)  # the first row of the last input
    assert_shows(grid, last + CELL + 8, left + CELL + 8, images[order[-1]])
    assert_shows(grid, last, width - 2 * (CELL + 8), inputs["condition"][order[-1]])
    assert_shows(grid, last, width - CELL - 8, inputs["image"][order[-1]])
    assert (grid[last + CELL + 8 :, width - 2 * (CELL + 8) :] == 255).all()
    assert grid.shape[0] > 12 * (CELL + 8)


def test_a_process_image(report, model):
    grid, inputs = open_png(report / "process-1.png"), examples()
    first = int(np.argmax(inputs["image"].std(axis=(1, 2, 3))))
    longest = max(PROCESS_STEPS)
    assert longest == 10
    top, left = (grid.shape[0] - 10 * (CELL + 8), grid.shape[1] - 12 * (CELL + 8))
    for steps in (1, 3, 10):
        way = model_process(model, inputs["condition"][first], first, steps, seed=7)
        for after in range(steps):
            assert_shows(grid, top + (steps - 1) * (CELL + 8), left + after * (CELL + 8), way[after])
    assert_shows(grid, top, grid.shape[1] - CELL - 8, inputs["image"][first])


def test_guidance_is_for_bundles_that_take_it(report, bundle, second_bundle, model):
    """A step then has two evaluations."""
    page = (report / "report.md").read_text()
    assert f"- bundle: `{bundle}`\n- other: `{second_bundle}`, guidance 3, two evaluations a step\n" in page
    rows = json.loads((report / "metrics.json").read_text())["rows"]
    inputs = examples()
    x = np.array(model.base.encode(inputs["image"]))
    for label, one, guidance in (("bundle", model, None), ("other", codi_tf.load(second_bundle), 3.0)):
        _, latents = model_sampler(one, 3, seed=7, guidance=guidance)(inputs["condition"])
        expected = pytest.approx(np.mean(np.square(latents - x)), rel=1e-4)
        assert rows[f"{label}, ddim, 3 steps"]["latent_error"] == expected


def write_pairs(folder: Path, *, scale: int = 4, size: int = S) -> Path:
    source, task = data.load_photos("heldout"), make_task("bicubic", scale=scale)
    shared = {"about": {}, "report": lambda done: None}
    data.write_pairs(folder, source, task, count=4, size=size, seed=3, **shared)
    return folder


def test_pairs_are_measured_on(bundle, feature_folder, tmp_path):
    folder, out = write_pairs(tmp_path / "pairs"), tmp_path / "report"
    options = ["--data", str(folder), "--steps", "1", "--count", "4", "--features", str(feature_folder)]
    main([str(bundle), *options, "--out", str(out)])
    written = json.loads((out / "metrics.json").read_text())
    pairs = data.read_pairs(folder, 4)
    squares = np.mean(np.square((pairs["condition"] - pairs["image"]) / 2, dtype=np.float64), axis=(1, 2, 3))
    assert written["rows"]["bicubic"]["psnr"] == pytest.approx(np.mean(-10 * np.log10(squares)), abs=1e-4)
    assert written["settings"]["photos"] == [f"0000{i}.png" for i in range(4)]
    assert (written["settings"]["data"], written["settings"]["image_size"]) == (str(folder), S)


def test_pairs_that_do_not_fit(bundle, model, tmp_path):
    def message(folder, one=model) -> str:
        options = parse([str(bundle), "--out", "report", "--data", str(folder), "--count", "4"], "codi evaluate")
        with pytest.raises(UserError) as caught:
            inputs_of(options, one)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    pairs = write_pairs(tmp_path / "pairs")
    painter = make_model(make_base(), task=make_task("inpainting"))
    assert "pairs are for super-resolution; name other data for these bundles" in message(pairs, painter)
    assert "has pairs of scale 2, not 4" in message(write_pairs(tmp_path / "half", scale=2))
    odd = write_pairs(tmp_path / "odd", size=S + 4)
    assert message(odd) == f"{odd}: pairs of 20 pixels; these networks take multiples of 8"


def test_one_bundle_and_one_sampler_have_short_names(feature_folder, tmp_path, capsys):
    """And the condition of a task with a mask is no bicubic image."""
    make_model(make_base(), task=make_task("inpainting"), method=Finetune()).save(tmp_path / "painter")
    out = tmp_path / "report"
    options = ["--steps", "2", "--count", "3", "--features", str(feature_folder), "--out", str(out)]
    main([str(tmp_path / "painter"), *options])
    rows = json.loads((out / "metrics.json").read_text())["rows"]
    assert list(rows) == ["condition", "painter, 2 steps", "autoencoder", "original"]
    printed = capsys.readouterr().out
    assert "\npainter, 2 steps  " in printed and printed.endswith(f"{out}\n")
    assert "gray: autoencoder and condition" in (out / "report.md").read_text()
    grid, inputs = open_png(out / "grid.png"), examples(3, seed=0, task="inpainting")
    order = np.argsort(-inputs["image"].std(axis=(1, 2, 3)))
    for i, place in enumerate(order):
        assert_shows(grid, grid.shape[0] - (3 - i) * (CELL + 8), 8, inputs["condition"][place, ..., :3])


def test_features_are_made_where_they_are_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(data.PHOTOS, "train", data.PHOTOS["heldout"][:2])
    monkeypatch.setattr("codi_tf.evaluation.features.TRAINING_STEPS", 2)
    monkeypatch.setattr("codi_tf.evaluation.features.CROPS_PER_PHOTO", 2)
    made = load_or_train(tmp_path / "features", S)
    monkeypatch.setitem(data.PHOTOS, "train", ())  # nothing could be trained any more
    read = load_or_train(tmp_path / "features", S)
    x = np.linspace(-1, 1, 2 * S * S * 3, dtype="float32").reshape(2, S, S, 3)
    np.testing.assert_array_equal(read.features(x), made.features(x))
    assert read.num_photos == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps is 0: it must be a whole number from 1 to 1000"),
        (["--steps", "1,1"], "--steps is 1,1: give each value once"),
        (["--steps", "1,x"], "--steps is x: it must be a whole number"),
        (["--steps", "1001"], "from 1 to 1000"),
        (["--samplers", "euler"], "--samplers is euler: choose from .*ddim, ddpm, dpm, dpm\\+\\+"),
        (["--samplers", "ddim,ddim"], "--samplers is ddim,ddim: give each value once"),
        (["--guidance", "nan"], "must be a finite number"),
        (["--guidance", "2"], "no bundle was trained to take one"),
        (["--prompt", "a cat"], "no bundle has a text encoder"),
        (["--count", "100001"], "--count is 100001: it must be a whole number from 2 to 100000"),
        (["--features", "report/features"], "--features is report/features: the report replaces report"),
        (["--split", "train"], "--split is train: choose from heldout, all"),
        (["--lpips", "none.safetensors"], "--lpips is none.safetensors: no such file"),
        (["--lpips", "file"], "file"),
        (["--inception", "none.safetensors"], "--inception is none.safetensors: no such file"),
        (["--inception", "keras:none.h5"], "--inception is keras:none.h5: no such file"),
        (["--clip", "none", "--prompt", "a cat"], "--clip is none: no such folder"),
        (["--clip", "full"], "give --prompt or --prompts"),
        (["--count", "1"], "--count is 1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--data", "none"], "nothing is at none; name a folder of images"),
        (["--out", "file"], "exists and is no folder"),
        (["--out", "full"], "exists and is no report"),
        (["--out", "file/report"], "choose another place"),
        (["--features", "full"], "no such file"),
        (["none"], "no such bundle"),
        (["full"], "full: no bundle is in it .there is no codi.json.; train one"),
        (["bundle"], "named twice"),
        (["foreign"], "differ in their autoencoder"),
    ],
)
def test_mistakes(bundle, feature_folder, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    (tmp_path / "bundle").symlink_to(bundle)
    if options == ["foreign"]:
        shutil.copytree(bundle, tmp_path / "foreign")
        other = codi_tf.load(bundle)
        other.base.vae.variables[0].assign_add(other.base.vae.variables[0] + 1)
        save_network(other.base.vae, tmp_path / "foreign" / "vae")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        usual = {"--steps": "1", "--count": "2", "--features": str(feature_folder), "--out": "report"}
        main([str(bundle), *options, *(x for pair in usual.items() if pair[0] not in options for x in pair)])
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_labels():
    assert labels([Path("runs/a/result"), Path("runs/b/result"), Path("c")]) == ["a", "b", "c"]
    assert labels([Path("x/a"), Path("y/a")]) == ["x/a", "y/a"]


def test_mistakes_are_told_before_tensorflow_is_loaded(tmp_path):
    program = (
        "import sys; from codi_tf.core.command_line import run_command; from codi_tf.cli.evaluate import main; "
        "status = run_command(main); assert not {'tensorflow', 'keras'} & sys.modules.keys(); sys.exit(status)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "none"), "--out", str(tmp_path / "report")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"error: {tmp_path / 'none'}: no such bundle; train one or name another\n"


@pytest.mark.slow
def test_an_evaluation_that_was_interrupted_goes_on(bundle, feature_folder, tmp_path, monkeypatch):
    """Ctrl-C lost all figures, and SIGTERM left a hidden folder. What was measured is not measured again."""
    out, straight = tmp_path / "report", tmp_path / "straight"
    words = [str(bundle), "--steps", "1,2", "--count", "4", "--features", str(feature_folder), "--out"]
    real = Progress.update

    def update(bar, done, note=""):
        real(bar, done, note)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", update)
        with pytest.raises(Interrupted, match="stopped by SIGTERM; figures of 1 of 2 samplers are kept: the same"):
            main([*words, str(out)])
    assert [path.name for path in tmp_path.iterdir()] == [".report.measured"]
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "measure", counted := counting(Evaluator.measure))
        main([*words, str(out)])
    assert counted.calls == 4  # two steps, the condition, the autoencoder, the original; not one step
    main([*words, str(straight)])
    assert (out / "metrics.json").read_bytes() == (straight / "metrics.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "straight"]


def counting(function):
    """The function, which counts its calls."""

    def called(*args, **options):
        called.calls += 1
        return function(*args, **options)

    called.calls = 0
    return called
