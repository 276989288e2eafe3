"""A method from outside: one class of options and one of the loss, in this file alone, go through all of `CoDi`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from tiny import tiny_base, tiny_run

import codi_tf
from codi_tf import config
from codi_tf.core.errors import UserError
from codi_tf.diffusion import losses
from codi_tf.methods import METHODS
from codi_tf.methods.latent import LatentMethod
from codi_tf.methods.method import MethodSettings, Space
from codi_tf.methods.networks import denoiser, encoded
from codi_tf.tasks import TASKS, Task
from codi_tf.training.experiment import build_trainer


@METHODS.register("weighted")
@dataclass(frozen=True)
class Weighted(MethodSettings):
    """The diffusion loss times a number."""

    weight: float = 1.0
    space: Space = "noise"

    def build(self, base, student, perceptual=None):
        return WeightedMethod(self, base, student)


class WeightedMethod(LatentMethod):
    terms = ("weighted",)

    def loss_terms(self, batch, draws):
        x, c, conditioning = encoded(self.base, self.student, batch)
        t = draws.times(x, low=0, high=self.base.schedule.num_steps, shared=False)
        denoise, eps = denoiser(self.base, self.student, c, conditioning), draws.noise(x)
        loss = losses.denoising(denoise, self.base.schedule, x, eps, t, space=self.settings.space)
        return {"weighted": self.settings.weight * loss}


@dataclass(frozen=True)
class Unregistered(Weighted):
    """A method that nobody registered."""


def examples() -> tf.data.Dataset:
    latents = np.random.default_rng(0).normal(size=(2, 2, 4, 4, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices({"latent": latents[0], "condition_latent": latents[1]}).batch(2)


def test_it_is_trained_saved_loaded_and_generates(eager, tmp_path):
    """Catches a list of methods, or of their classes, that the registry does not know of."""
    model = make_model(tiny_base(), method=Weighted(weight=2.0))
    model.compile("adamw")
    model.fit(examples(), epochs=1, verbose=0)
    assert np.abs(model.student.adapter.mu.numpy()).max() > 0.0
    model.save(tmp_path / "bundle")
    again = codi_tf.load(tmp_path / "bundle")
    assert again.settings == Weighted(weight=2.0)
    condition = np.random.default_rng(1).integers(0, 256, (16, 16, 3), "uint8")
    np.testing.assert_array_equal(again.generate(condition), model.generate(condition))


def test_a_config_names_it(tmp_path):
    """Catches a reader of configs that takes the package's own methods alone."""
    values = {**tiny_run(tmp_path, steps=1), "method": {"name": "weighted", "weight": 3, "space": "signal"}}
    experiment = config.from_dict(values)
    assert experiment.method == Weighted(weight=3.0, space="signal") and experiment.method_name == "weighted"
    assert config.from_dict(experiment.as_dict()) == experiment
    assert build_trainer(experiment).log_names == ("loss", "weighted", "gradient_norm", "skipped")
    with pytest.raises(UserError, match="^method.space is 'x': use one of noise, signal, velocity$"):
        config.from_dict({**values, "method": {"name": "weighted", "space": "x"}})


def test_choices_are_checked_in_python_too():
    """Catches options of type Literal that only the reader of YAML looks at."""
    with pytest.raises(UserError, match="^method.space is 'x': use one of noise, signal, velocity$"):
        Weighted(space="x")


def test_what_could_not_be_saved_is_refused_before_training():
    """Catches a model that trains for hours and then cannot be written."""
    with pytest.raises(UserError, match="^method Unregistered is not registered: decorate it with METHODS.register"):
        make_model(tiny_base(), method=Unregistered())


@TASKS.register("scaled")
@dataclass(frozen=True, kw_only=True)
class Scaled(Task):
    """A task with an option that may be anything."""

    weights: object = 1.0


def test_options_that_could_not_be_saved_are_refused_before_training():
    """Catches options, and numbers of NumPy, that JSON does not take, or from which no task is made again."""
    array = np.ones(2)
    for options in ({"task": Scaled(weights=array)}, {"method": Weighted(weight=array)}):
        with pytest.raises(UserError, match=r"(task scaled|method weighted): weights? is array.*cannot be saved"):
            codi_tf.CoDi(tiny_base(), **options)
    numbers = {"ema_decay": np.float32(0.5), "mu_rate": np.float64(2), "seed": np.int64(3), "image_size": np.int32(16)}
    model = codi_tf.CoDi(tiny_base(), **numbers)
    assert (model.ema_decay, model.mu_rate, model.seed, model.image_size) == (0.5, 2.0, 3, 16)
    assert all(type(getattr(model, name)) in (int, float) for name in numbers)
    for name, value in {"ema_decay": 1.0, "mu_rate": 0.0, "seed": -1, "image_size": 0, "accumulate": 0}.items():
        with pytest.raises(UserError, match=f"{name} is {value}"):
            codi_tf.CoDi(tiny_base(), **{name: value})


class Gray:
    """A task that nobody registered."""

    condition_channels, condition_key, prompted = 3, "image", False


def test_a_task_that_could_not_be_saved_is_refused_before_training():
    """Catches a task that is no `Task`, with which the training ran and its result could not be written."""
    with pytest.raises(UserError, match="^task Gray is not registered"):
        codi_tf.CoDi(tiny_base(), task=Gray(), image_size=16)
