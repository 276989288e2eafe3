"""Exports of other samplers than ddim: any whose steps are deterministic and of first order, also from outside."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from conftest import make_base, make_model
from tiny import tiny_base

from codi_tf.core.errors import UserError
from codi_tf.diffusion.grid import Grid, first_order_steps, levels_after
from codi_tf.diffusion.process import trailing_times
from codi_tf.diffusion.samplers import SAMPLERS
from codi_tf.methods.codi import ConditionalDistillation
from export.build import write_package
from export.emit.program import SamplerProgram
from export.emit.sampler import step_numbers
from export.package.manifest import read_package
from export.runtime import run


def late_grid(schedule, num_steps: int) -> Grid:
    """DDIM at times that are denser where it is clean."""
    last = schedule.num_steps - 1
    times = sorted({round(t * t / last) for t in trailing_times(num_steps, schedule.num_steps)}, reverse=True)
    return Grid(first_order_steps(schedule, times, levels_after(schedule, times)))


@pytest.fixture(scope="module")
def model():
    SAMPLERS.register("late")(late_grid)  # here and not above: tests of all samplers are collected before
    return make_model(make_base())


@pytest.mark.parametrize("format, layout", [("onnx", "parts"), ("onnx", "whole"), ("saved_model", "whole")])
def test_a_package_takes_the_steps_of_its_sampler(model, tmp_path, format, layout):
    """Catches an export, or a gate, that takes ddim's steps whatever the sampler."""
    program = SamplerProgram(model, steps=3, height=16, width=16, sampler="late")
    assert program.at(16, 24).sampler == "late"
    (figures,) = write_package([program], tmp_path / "package", format=format, layout=layout, report=False)
    assert figures["psnr_db"] > 80 and all(error < 1e-4 for error in figures["part_errors"].values())
    manifest = json.loads((tmp_path / "package" / "manifest.json").read_text())
    assert manifest["sampler"] == "late"
    assert [step["t"] for step in manifest["schedule"]] == [step.t for step in program.grid.steps] != [999, 666, 333]
    if format == "saved_model":
        return
    image = np.random.default_rng(0).random((16, 16, 3), dtype=np.float32)
    made = run.generate(run.load(read_package(tmp_path / "package")), image, seed=4)
    expected, others = (model.generate(image, steps=3, seed=4, sampler=name) / 255 for name in ("late", "ddim"))
    np.testing.assert_allclose(made, expected, atol=1.01 / 255)
    assert np.abs(expected - others).max() > 4 / 255


def test_boundary_scalings_of_the_noise_alone_are_exported(tmp_path):
    """Catches a package whose steps scale the signal, too: the gate would refuse it."""
    scheduler = {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}
    base = dataclasses.replace(tiny_base(), scheduler=scheduler)
    models = [make_model(base, method=ConditionalDistillation(boundary=kind)) for kind in ("noise", True)]
    program, other = (SamplerProgram(model, steps=2, height=16, width=16) for model in models)
    (figures,) = write_package([program], tmp_path / "package", format="onnx", layout="whole", report=False)
    assert figures["psnr_db"] > 60
    pairs = zip(step_numbers(models[0], program.grid), step_numbers(models[1], other.grid), strict=True)
    assert all(abs(ours.a - both.a) > 1e-3 for ours, both in pairs)


@pytest.mark.parametrize("sampler", ["stochastic", "consistency", "ddpm", "dpm", "dpm++", "lcm"])
def test_other_steps_are_refused_in_one_line(model, sampler):
    options = {"height": 16, "width": 16, "sampler": sampler}
    with pytest.raises(UserError, match="sampler is '.*': exported steps are deterministic and of first order"):
        SamplerProgram(model, steps=3, **options)
    assert SamplerProgram(model, steps=1, **options).steps == 1  # with one step all samplers are ddim


def test_an_unknown_sampler_is_refused(model):
    with pytest.raises(UserError, match="unknown sampler 'ddimm': did you mean 'ddim'"):
        SamplerProgram(model, steps=2, height=16, width=16, sampler="ddimm")
