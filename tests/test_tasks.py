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


NIGHT = ["--prompt", "make it night"]
CASES = {  # config: condition, further arguments of sample and of export
    "photos_real_world": ("photo.png", [], []),
    "photos_inpainting": ("photo.png", ["--mask", "mask.png"], []),
    "photos_depth": ("depth.png", [], []),
    "photos_editing": ("photo.png", NIGHT, NIGHT),
    "photos_editing_finetune": ("photo.png", NIGHT, NIGHT),
    "photos_pe_codi": ("photo.png", [], []),
    "photos_t2i": ("photo.png", [], []),
    "photos_finetune": ("photo.png", [], []),
    "photos_consistency": ("photo.png", [], []),
    "photos_guided_1": ("photo.png", [], []),
    "photos_guided_2": ("photo.png", [], []),
}
FEATURES = ["--features", str(ROOT / "assets" / "photos-base" / "features")]


def trained(name: str, folder: Path) -> Path:
    """The bundle of a config at smoke length. Its mu is raised, because three steps teach it little."""
    overrides = [*SHORT, *QUIET]
    if name == "photos_guided_2":
        overrides += [f"base={trained('photos_guided_1', folder / 'first')}", "method.updates=1"]
    bundle = train(config.load(ROOT / "configs" / f"{name}.yaml", overrides), folder / "run")
    model = codi_tf.load(bundle)
    if hasattr(model.student.adapter, "mu"):
        model.student.adapter.mu.assign(np.full(model.student.adapter.mu.shape, 0.3, "float32"))
    model.save(bundle)
    return bundle


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize("name", CASES)
def test_from_the_config_to_an_exported_picture(name, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    condition, told, baked = CASES[name]
    told = [str(photo / word) if word.endswith(".png") else word for word in told]
    bundle = trained(name, tmp_path)

    given = ["--condition", str(photo / condition), "--seed", "3"]
    sample._main([str(bundle), *given, "--steps", "1", "--out", str(tmp_path / "out.png"), *told])
    picture = pixels(tmp_path / "out.png")
    assert picture.shape == (S, S, 3) and picture.std() > 5

    evaluate._main([str(bundle), "--out", str(tmp_path / "report"), "--steps", "1", "--count", "4", *FEATURES])
    rows = json.loads((tmp_path / "report" / "metrics.json").read_text())["rows"]
    assert all(np.isfinite(row["frechet_photos"]) for row in rows.values()) and len(rows) == 4

    out = tmp_path / "package"
    export._main([str(bundle), "--format", "onnx", "--steps", "1", "--out", str(out), *baked])
    masks = told if "--mask" in told else []
    capsys.readouterr()
    run._main([str(out), *given, "--out", str(tmp_path / "ran.png"), *masks])
    assert ("its pixels are those of" in capsys.readouterr().out) == ("--mask" in told)
    assert np.abs(pixels(tmp_path / "ran.png") - picture).max() <= 1
    assert package.read_package(out).task == codi_tf.load(bundle).task_config()["name"]

    if name == "photos_editing_finetune":  # the undistilled teacher is guided by picture and instruction
        guided = ["--guidance", "1.5", "--text-guidance", "3"]
        sample._main([str(bundle), *given, "--steps", "1", "--out", str(tmp_path / "guided.png"), *told, *guided])
        assert np.abs(pixels(tmp_path / "guided.png") - picture).max() > 1
        evaluate._main(
            [str(bundle), "--out", str(tmp_path / "guided"), "--steps", "1", "--count", "4", *FEATURES, *guided]
        )
        assert json.loads((tmp_path / "guided" / "metrics.json").read_text())["rows"] != rows


def test_what_the_others_start_from_is_trained_by_its_config(tmp_path, monkeypatch):
    """The autoencoder, the base of it and the small decoder: each is saved, loaded and used."""
    monkeypatch.chdir(ROOT)
    short = [one for one in (*SHORT, *QUIET) if "encode_once" not in one]

    def made(name: str, *overrides: str) -> Path:
        return train(config.load(ROOT / "configs" / f"{name}.yaml", [*short, *overrides]), tmp_path / name)

    photo = data.load_photos("heldout")["astronaut"][None, :S, 200 : 200 + S] / np.float32(127.5) - 1
    vae = codi_tf.load_stable_diffusion(made("photos_vae"))
    assert vae.unet is None and np.isfinite(vae.decode(vae.encode(photo))).all()
    base = codi_tf.load_stable_diffusion(made("photos_base", f"base={tmp_path / 'photos_vae' / 'result'}"))
    latents = base.encode(photo)
    said = base.unet(latents, np.array([10], "int32"), base.context)
    assert said.shape == latents.shape and np.isfinite(said).all()
    decoder = codi_tf.load_decoder(made("photos_decoder"))
    assert decoder(latents).shape == photo.shape
