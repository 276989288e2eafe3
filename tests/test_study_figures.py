"""CoDi's further figures: x_hat at every step of two bundles, and the table of latencies, at a tiny size."""

from __future__ import annotations

import numpy as np
import pytest
from commands import run_here
from conftest import SCHEDULER, VAE, make_model
from tiny import UNET, tiny_base, tiny_photos

import codi_tf
from codi_tf.checkpoints.base import Base, make_autoencoder, make_unet
from codi_tf.core.noise import gaussian_noise
from codi_tf.evaluation.samplers import model_sampler
from codi_tf.io.images import read_image
from studies import latency, steps
from studies.common.pages import marks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two bundles of one task and autoencoder, and a folder of photos."""
    path, base = tmp_path_factory.mktemp("steps"), tiny_base()
    make_model(base).save(path / "codi")
    make_model(base, method=codi_tf.Finetune()).save(path / "ldm")
    make_model(tiny_base(1)).save(path / "other")
    tiny_photos(path / "photos")
    return path


@pytest.mark.usefixtures("eager")
def test_a_process_starts_from_the_noise_and_ends_in_the_samplers_image(folder):
    """Catches another noise or place than evaluations have, and rows of another number of steps."""
    model = codi_tf.load(folder / "codi")
    condition = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    rows = steps.process(model, {"condition": condition}, 1, 2)
    assert [len(row) for row in rows] == [1, 2, 3]
    noise = gaussian_noise(0, model.latent_shape(2, 16, 16))
    np.testing.assert_allclose(rows[0][0], np.asarray(model.generator.decode(noise))[1], atol=1e-5)
    for count in (1, 2):
        expected = model_sampler(model, count)(condition)[0][1]
        np.testing.assert_allclose(rows[count][-1], expected, atol=1e-4)


@pytest.mark.usefixtures("eager")
def test_the_command_writes_both_side_by_side(folder, tmp_path):
    """Both triangles, of different images, with T from 0; models that cannot be compared are one line."""
    call = (folder / "codi", folder / "ldm", "--data", folder / "photos", "--steps", 1)
    done = run_here(steps._main, *call, "--out", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    image = read_image(tmp_path / "out.png")
    left, right = np.split(image[:, : image.shape[1] // 2 * 2], 2, axis=1)
    assert left.shape[0] > 2 * steps.SMALLEST and left.shape[1] > 4 * steps.SMALLEST and np.abs(left - right).max() > 0
    refused = run_here(steps._main, folder / "codi", folder / "other", *call[2:], "--out", tmp_path / "no.png")
    assert refused.returncode == 2 and "differ in their autoencoder" in refused.stderr
    refused = run_here(steps._main, *call, "--out", tmp_path / "no.jpg")
    assert refused.returncode == 2 and "name a file that ends with .png" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_the_table_of_latencies_has_medians_and_ratios():
    """Catches a ratio to another row."""
    seconds = {name: np.full(3, of) for name, of in zip(latency.PAPER, (0.2, 0.25, 0.1, 1.0), strict=True)}
    lines = latency.table(seconds).splitlines()
    assert lines[2] == "| CoDi, 4 steps | 200 [200, 200] | 2.00 | 107 ms, 1.04 |"
    assert lines[5] == "| LDM, 50 steps | 1,000 [1,000, 1,000] | 10.00 | 977 ms, 9.49 |"


@pytest.mark.slow
def test_latencies_are_measured_and_written_into_the_page(tmp_path, monkeypatch):
    """All four systems of one base run; catches an adapter that does not fit the network."""
    tiny = make_unet({**UNET, "sample_size": 8}), make_autoencoder({**VAE, "block_out_channels": [8, 8, 8, 8]})
    monkeypatch.setattr(latency, "make_base", lambda width, compute: Base(*tiny, dict(SCHEDULER)))
    page, (begin, end) = tmp_path / "page.md", marks(latency.PART)
    page.write_text(f"above\n{begin}\n{end}\nbelow\n")
    done = run_here(latency._main, "--width", 20, "--size", 64, "--rounds", 1, "--page", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert all(f"| {name} |" in text for name in latency.PAPER) and text.endswith(f"{end}\nbelow\n")
    assert "`python -m studies.latency --width 20 --size 64 --rounds 1 --compute float32`" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--width", 30), "--width is 30: it must be a multiple of 20"),
        (("--size", 100), "--size is 100: it must be a multiple of 64"),
        (("--page", "none.md"), "none.md: no such page"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments, message):
    done = run_here(latency._main, *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr


def test_a_width_of_320_is_stable_diffusion():
    """As Stable Diffusion's own files have it; the network is not built."""
    unet, vae = latency.layout(320)
    assert unet == {"block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": 8, "norm_num_groups": 32}
    assert vae == {"block_out_channels": [128, 256, 512, 512], "norm_num_groups": 32}
