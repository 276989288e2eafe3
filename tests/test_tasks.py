"""Every task from its config to a picture: trained from the small base, sampled, measured, exported, run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import codi_tf
from codi_tf import config, data, evaluate, sample
from codi_tf.train import train
from export import __main__ as export
from export import package, run

ROOT = Path(__file__).parents[1]
S = 64
SHORT = [f"data.image_size={S}", "data.encode_once=0", "train.steps=3", "train.batch_size=2", "train.warmup_steps=0"]
QUIET = ["train.sample_every=0", "train.log_every=3"]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A held-out photo, a mask and a depth map, as files."""
    folder = tmp_path_factory.mktemp("photo")
    picture = data.load_photos("heldout")["astronaut"][:S, 200 : 200 + S]
    Image.fromarray(picture).save(folder / "photo.png")
    mask = np.zeros((S, S), np.uint8)
    mask[16:48, 16:48] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    ramp = np.linspace(0, 65535, S * S).reshape(S, S).astype(np.uint16)
    Image.fromarray(ramp).save(folder / "depth.png")
    return folder


CASES = {
    "photos_real_world": ("photo.png", [], []),
    "photos_inpainting": ("photo.png", ["--mask", "mask.png"], []),
    "photos_depth": ("depth.png", [], []),
    "photos_editing": ("photo.png", ["--prompt", "make it night"], ["--prompt", "make it night"]),
}


@pytest.mark.parametrize("name", CASES)
def test_from_the_config_to_an_exported_picture(name, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    condition, told, baked = CASES[name]
    told = [str(photo / word) if word.endswith(".png") else word for word in told]
    bundle = train(config.load(ROOT / "configs" / f"{name}.yaml", [*SHORT, *QUIET]), tmp_path / "run")
    model = codi_tf.load(bundle)
    model.student.adapter.mu.assign(np.full(model.student.adapter.mu.shape, 0.3, "float32"))  # three steps teach little
    model.save(bundle)

    steps = ["--steps", "1", "--seed", "3"]
    sample._main(
        [str(bundle), "--condition", str(photo / condition), "--out", str(tmp_path / "out.png"), *told, *steps]
    )
    picture = np.asarray(Image.open(tmp_path / "out.png"))
    assert picture.shape == (S, S, 3) and picture.std() > 5

    features = ["--features", str(ROOT / "assets" / "photos-base" / "features")]
    evaluate._main([str(bundle), "--out", str(tmp_path / "report"), "--steps", "1", "--count", "4", *features])
    rows = json.loads((tmp_path / "report" / "metrics.json").read_text())["rows"]
    assert all(np.isfinite(row["frechet_photos"]) for row in rows.values()) and len(rows) == 4

    out = tmp_path / "package"
    export._main([str(bundle), "--format", "onnx", "--steps", "1", "--out", str(out), *baked])
    masks = told if "--mask" in told else []
    run._main(
        [str(out), "--condition", str(photo / condition), "--out", str(tmp_path / "ran.png"), "--seed", "3", *masks]
    )
    ran = np.asarray(Image.open(tmp_path / "ran.png"))
    assert np.abs(ran.astype(int) - picture).max() <= 1
    assert package.read_package(out).task == model.task_config()["name"]
