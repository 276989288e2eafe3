"""Every task from its config to an image: trained from the small base, sampled, measured, exported, run."""

from __future__ import annotations

import numpy as np
import pytest
from end_to_end import ROOT, S, check, measured, photo, sampled, trained
from PIL import Image

pytestmark = pytest.mark.usefixtures("memory_goes_back_after_each")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A held-out photo, a mask and a depth map, as files."""
    folder = tmp_path_factory.mktemp("photo")
    Image.fromarray(photo()).save(folder / "photo.png")
    mask = np.zeros((S, S), np.uint8)
    mask[16:48, 16:48] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    ramp = np.linspace(0, 65535, S * S).reshape(S, S).astype(np.uint16)
    Image.fromarray(ramp).save(folder / "depth.png")
    return folder


NIGHT = ("--prompt", "make it night")
CASES = {  # config: condition, mask, prompt
    "photos_real_world": ("photo.png", None, ()),
    "photos_inpainting": ("photo.png", "mask.png", ()),
    "photos_depth": ("depth.png", None, ()),
    "photos_editing": ("photo.png", None, NIGHT),
    "photos_editing_finetune": ("photo.png", None, NIGHT),
}


QUICK = "photos_inpainting"
EVERY = [pytest.param(name, marks=() if name == QUICK else pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("name", EVERY)
def test_from_the_config_to_an_exported_image(request, name, files, tmp_path, monkeypatch, capsys):
    if name == QUICK:
        request.getfixturevalue("eager")
    monkeypatch.chdir(ROOT)
    condition, mask, prompt = CASES[name]
    given = ["--condition", str(files / condition), *prompt]
    given += [] if mask is None else ["--mask", str(files / mask)]
    bundle = trained(name, tmp_path)
    image, rows = check(bundle, given, tmp_path, baked=prompt)
    assert capsys.readouterr().out.count("its pixels are those of") == (0 if mask is None else 2)  # sample, export.run
    if name == "photos_editing_finetune":  # the undistilled teacher is guided by image and instruction
        guidance = ("--guidance", "1.5", "--text-guidance", "3")
        guided = sampled(bundle, [*given, *guidance], tmp_path / "guided.png")
        assert np.abs(guided - image).max() > 1
        assert measured(bundle, tmp_path / "guided", *guidance) != rows
