"""Packages whose steps are guided by condition and prompt: two or three evaluations, and the images of Python."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import run_here
from tiny import randomize, tiny_base, tiny_text

import codi_tf
from codi_tf.checkpoints.stable_diffusion import with_text
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from export import __main__ as export
from export.build import make_package
from export.emit.program import SamplerProgram
from export.emit.terms import View
from export.formats import FORMATS
from export.package.manifest import read_package
from export.runtime.sampler import load_any

RANDOM = np.random.default_rng(0)
S, PROMPT = 16, "make it night"
DROPPING = {"drop_condition": 0.1, "drop_prompt": 0.1}


def slow(*values):
    """A case of which the quick tier has another."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models whose adapters act: editing by InstructPix2Pix's adapter and the paper's, inpainting with a prompt."""
    base = with_text(tiny_base(), tiny_text(tmp_path_factory.mktemp("text"), 8))
    made = {}
    for name, adapter, task in (
        ("ip2p", "concat", "editing"),
        ("mu", "mu", "editing"),
        ("fill", "concat", "inpainting"),
    ):
        made[name] = codi_tf.CoDi(base, adapter, task=task, method=codi_tf.Finetune(**DROPPING), image_size=S)
        randomize(made[name].student.adapter.variables)
    return made


def given(channels: int = 3) -> np.ndarray:
    image = RANDOM.random((1, S, S, channels)).astype("float32")
    image[..., 3:] = image[..., 3:] > 0.5
    return image


def image_of(package, condition, ids):
    package = read_package(package)
    return load_any(package)(condition, gaussian_noise(3, package.latent_shape), ids if package.prompted else None)[0]


GUIDED = {"guidance": 1.6, "text_guidance": 3.0}


@pytest.mark.parametrize(
    ("format", "layout", "name", "options", "evaluations"),
    [
        ("onnx", "parts", "ip2p", GUIDED, 3),
        slow("tflite", "whole", "ip2p", GUIDED, 3),
        slow("saved_model", "whole", "ip2p", GUIDED, 3),
        slow("onnx", "whole", "mu", GUIDED, 3),
        slow("tflite", "parts", "mu", GUIDED, 3),
        slow("tflite", "halves", "mu", GUIDED, 3),
        slow("onnx", "whole", "ip2p", {"guidance": 1.6}, 3),
        slow("onnx", "parts", "fill", {"text_guidance": 3.0, "prompt": PROMPT}, 2),
        slow("tflite", "parts", "fill", {"guidance": 1.6}, 2),
    ],
)
def test_the_image_is_pythons(format, layout, name, options, evaluations, models, tmp_path, monkeypatch):
    """Catches a weight or a prompt of another term, and features of the condition where there should be none."""
    model = models[name]
    if layout == "halves":
        weights = sum(variable.numpy().nbytes for variable in model.network.unet.variables)
        monkeypatch.setattr(FORMATS[format], "max_graph", weights - 1)
    model.save(tmp_path / "bundle")
    shared = {"format": format, "layout": "whole" if layout == "whole" else "parts", "steps": 2, "report": False}
    make_package(tmp_path / "bundle", tmp_path / "out", **shared, **options)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["evaluations"] == evaluations and ("step_2" in manifest["graphs"]) == (layout == "halves")
    wanted = {key: value for key, value in options.items() if key != "prompt"}
    assert {key: manifest.get(key) for key in wanted} == wanted
    condition = given(model.task.condition_channels)
    prompt = PROMPT if model.task.prompted else options.get("prompt")
    ids = None if prompt is None else model.base.tokenizer([prompt])[0]
    made = image_of(tmp_path / "out", condition, ids)
    expected, plain = (model.generate(condition, prompt, steps=2, seed=3, **values)[0] / 255 for values in (wanted, {}))
    np.testing.assert_allclose(made, expected, atol=1.01 / 255)
    assert np.abs(made - plain).max() > 2 / 255


def test_each_view_of_the_condition_is_computed_once(models):
    """Catches features of concat that are computed again for the empty prompt, on which they do not depend."""
    shared = {"steps": 2, "height": S, "width": S, **GUIDED}
    views = {name: SamplerProgram(models[name], **shared).views for name in ("ip2p", "mu")}
    nothing = View(shown=False, prompted=False)
    assert views["mu"] == [View(), View(prompted=False), nothing]
    assert views["ip2p"] == [View(), nothing._replace(prompted=True)]
    assert SamplerProgram(models["ip2p"], steps=2, height=S, width=S).views == [View()]


@pytest.mark.slow
def test_the_command_and_its_report_say_what_a_step_costs(models, tmp_path):
    """Catches a report that counts one evaluation."""
    models["ip2p"].save(tmp_path / "bundle")
    options = ["--format", "onnx", "--steps", 2, "--guidance", "1.6", "--text-guidance", "3"]
    done = run_here(export.main, tmp_path / "bundle", *options, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    done = run_here(export.main, tmp_path / "bundle", *options[:4], "--out", tmp_path / "plain")
    plain = json.loads((tmp_path / "plain" / "report.json").read_text())
    assert (report["evaluations_per_step"], plain["evaluations_per_step"]) == (3, 1)
    both = [one["parts"]["step"]["multiply_adds"] for one in (report, plain)]
    assert 2 * both[1] < both[0] <= 3 * both[1]
    said = (tmp_path / "out" / "report.md").read_text()
    assert "A step evaluates the network 3 times: guidance 1.6 by the condition, 3 by the prompt." in said


def test_a_guidance_without_effect_is_refused_in_one_line(models):
    plain = codi_tf.CoDi(tiny_base(), image_size=S)

    def refused(model, message, **options):
        with pytest.raises(UserError, match=message) as error:
            SamplerProgram(model, steps=2, height=S, width=S, **options)
        assert "\n" not in str(error.value)

    refused(plain, "guidance is 2.0: this model was trained without; use 1 or leave it out", guidance=2.0)
    refused(models["fill"], "text_guidance is 2.0: there is no prompt; give one or use 1", text_guidance=2.0)
    refused(plain, "text_guidance is 2.0: there is no prompt", text_guidance=2.0)
