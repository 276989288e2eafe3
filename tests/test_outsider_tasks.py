"""Tasks and samplers from outside: registered by a test, then trained, saved, loaded and sampled as the built-in ones.

Each catches a name that is kept in a second list, a guess from channels or keys, or a bundle that knows only our tasks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from end_to_end import ROOT
from PIL import Image
from tiny import tiny_base

import codi_tf
from codi_tf import data
from codi_tf.cli.sample import main
from codi_tf.core.errors import UserError
from codi_tf.diffusion.grid import Grid, first_order_steps, levels_after
from codi_tf.diffusion.process import trailing_times
from codi_tf.diffusion.samplers import SAMPLERS
from codi_tf.diffusion.samplers.ddim import few_step_grid
from codi_tf.tasks import TASKS, Task, make_task, task_config


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """What a test registers is gone after it."""
    for registry in (TASKS, SAMPLERS):
        [registry[name] for name in registry]  # those of ours stay
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@dataclass(frozen=True, kw_only=True)
class Brightness(Task):
    """Colorization: condition = the brightness of the image, in `levels` steps."""

    is_local: ClassVar[bool] = True

    levels: int = 8

    def degrade(self, image, seed):
        return self.condition_from_image(image)

    def condition_from_image(self, image):
        brightness = tf.reduce_max(image, axis=-1, keepdims=True)
        return tf.repeat(tf.round(brightness * self.levels) / self.levels, 3, axis=-1)

    def finish(self, images, condition):
        return tf.maximum(images, condition)

    uses_condition_at_end: ClassVar[bool] = True


def squared_grid(schedule, num_steps: int) -> Grid:
    """DDIM at times that lie denser where it is clean."""
    times = trailing_times(num_steps, schedule.num_steps)
    times = sorted({round(t * t / (schedule.num_steps - 1)) for t in times}, reverse=True)
    return Grid(first_order_steps(schedule, times, levels_after(schedule, times)))


def trained(task) -> codi_tf.CoDi:
    """A tiny model of a task after one update, the whole way from images."""
    model = make_model(tiny_base(), task=task, train="adapter")
    model.compile("adam")
    images = {"a": np.random.default_rng(0).integers(0, 256, (24, 24, 3), "uint8")}
    batch = next(iter(data.batches(data.Photos(images), model.task, image_size=16, batch_size=2, seed=0)))
    logs = model.train_step(batch)
    assert np.isfinite(float(logs["loss"]))
    return model


def test_a_task_from_outside_is_trained_saved_loaded_and_sampled(eager, tmp_path, monkeypatch):
    TASKS.register("brightness")(Brightness)
    model = trained(make_task("brightness", levels=4))
    model.save(tmp_path / "bundle")
    assert json.loads((tmp_path / "bundle" / "codi.json").read_text())["task"] == {"name": "brightness", "levels": 4}
    loaded = codi_tf.load(tmp_path / "bundle")
    assert loaded.task == Brightness(levels=4)

    condition = np.random.default_rng(1).integers(0, 256, (16, 16, 3), "uint8")
    made = loaded.generate(condition, steps=2)
    np.testing.assert_array_equal(made, model.generate(condition, steps=2))
    brightness = loaded.task.condition_from_image(condition / np.float32(127.5) - 1).numpy()
    assert (made >= np.rint(127.5 * (brightness + 1)) - 1).all()  # `finish` was applied

    monkeypatch.chdir(tmp_path)
    Image.fromarray(condition).save("in.png")
    main(["bundle", "--condition", "in.png", "--out", "out.png", "--steps", "2", "--tile", "8"])  # it is local
    assert Image.open("out.png").size == (16, 16)
    with pytest.raises(UserError, match="--color: bundle was trained for brightness, which changes colors"):
        main(["bundle", "--condition", "in.png", "--out", "out.png", "--color", "wavelet"])


def test_a_task_that_is_not_registered_is_refused_before_training():
    with pytest.raises(UserError, match="task Brightness is not registered: decorate it with TASKS.register"):
        make_model(tiny_base(), task=Brightness())
    with pytest.raises(UserError, match="unknown task 'brightness': known are bicubic, .*; others must be imported"):
        make_task("brightness")


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_is_made_again_from_its_config(name):
    task = make_task(name)
    assert task.name == name and task_config(task).pop("name") == name
    assert make_task(**json.loads(json.dumps(task_config(task)))) == task
    assert task.condition_channels == 3 + task.has_mask


@dataclass(frozen=True, kw_only=True)
class Masked(Task):
    """An image with a mask; that it has one is all that it states."""

    has_mask: ClassVar[bool] = True

    def degrade(self, image, seed):
        return tf.pad(image, [[0, 0], [0, 0], [0, 1]])


def test_the_channels_of_a_condition_follow_from_what_a_task_states():
    """Catches an encoding that goes by the number of channels."""
    TASKS.register("masked")(Masked)
    assert Masked.condition_channels == 4 and Masked().condition_file == "masked_image"
    model = trained(Masked())
    assert model.student.has_mask and model.average.has_mask
    assert model.encode_condition(tf.zeros((1, 16, 16, 4))).shape[-1] == 5
    plain = make_model(tiny_base(), task="super_resolution")
    with pytest.raises(ValueError, match=r"channel|shape"):
        plain.encode_condition(tf.zeros((1, 16, 16, 4)))
    with pytest.raises(UserError, match="task Wrong: condition_channels is 4 and has_mask is False; state has_mask"):
        type("Wrong", (Task,), {"condition_channels": 4})


def test_a_sampler_from_outside_generates():
    SAMPLERS.register("squared")(squared_grid)
    assert "squared" in SAMPLERS
    model = make_model(tiny_base())
    condition = np.random.default_rng(1).integers(0, 256, (16, 16, 3), "uint8")
    made = model.generate(condition, steps=3, sampler="squared")
    assert (made != model.generate(condition, steps=3)).any()
    SAMPLERS.register("ddim_again")(few_step_grid)
    np.testing.assert_array_equal(
        model.generate(condition, steps=3, sampler="ddim_again"), model.generate(condition, steps=3)
    )


def test_names_need_no_tensorflow():
    """Commands list names, read a bundle's task and check the user's arguments before TensorFlow is loaded."""
    program = (
        "import sys; from codi_tf.tasks import TASKS, make_task; "
        "from codi_tf.diffusion.samplers import CHECKPOINT_SAMPLERS, SAMPLERS; "
        "print(*[make_task(name).condition_file for name in TASKS], *SAMPLERS, *CHECKPOINT_SAMPLERS); "
        "assert not {'tensorflow', 'keras'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == [
        *("image", "disparity", "image", "masked_image", "image", "image", "image"),
        *("consistency", "ddim", "ddpm", "dpm", "dpm++", "lcm", "stochastic"),
        *("ddim", "ddpm", "dpm", "dpm++", "lcm", "stochastic"),
    ]
