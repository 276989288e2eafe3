"""Several models of one base: each trains what it says and nothing else, in any order."""

from __future__ import annotations

import gc

import keras
import numpy as np
import pytest
from conftest import make_model
from tiny import tiny_base
from training_steps import latents, values

import codi_tf
from codi_tf.core.errors import UserError
from codi_tf.methods.sharing import is_trained, is_used


def make(base, train, **options):
    return make_model(base, train=train, ema_decay=0.5, **options)


def step(model):
    if not model.compiled:
        model.compile(keras.optimizers.AdamW(1e-2))
    model.train_step(latents())


def moved(before, network) -> bool:
    return not all(np.array_equal(a, b) for a, b in zip(before, values(network.variables), strict=True))


@pytest.mark.parametrize(
    ("order", "compiled_first"),
    [
        (("all", "adapter"), False),
        (("adapter", "all"), True),
        pytest.param(("all", "adapter"), True, marks=pytest.mark.slow),
        pytest.param(("all", "adapter", "all"), False, marks=pytest.mark.slow),
    ],
)
def test_models_of_one_base_train_what_they_say(order, compiled_first):
    """Catches flags and weights that models of one base share: the first model trained what the last one said."""
    base = tiny_base()
    start, models = values(base.unet.variables), []
    for train in order:
        models.append(make(base, train))
        if compiled_first:
            models[-1].compile(keras.optimizers.AdamW(1e-2))
    for model in models:
        adapter = values(model.student.adapter.variables)
        step(model)
        assert moved(adapter, model.student.adapter)
    for train, model in zip(order, models, strict=True):
        assert moved(start, model.student.unet) == (train == "all")
        assert (model.student.unet is base.unet) == (train == "adapter")  # no memory for what stays as it is
    assert not moved(start, base.unet)
    assert not moved(start, make(base, "adapter").student.unet)


@pytest.mark.parametrize("train", ["all", "adapter"])
def test_a_tuned_model_stays_as_it_is_when_another_is_distilled_from_it_and_the_other_way_round(train):
    """Catches an adapter, or a UNet, that two models train, and a frozen one that changes later."""
    tuned = make(tiny_base(), "all", method=codi_tf.Finetune())
    step(tuned)
    method = codi_tf.Consistency(delta=30)
    distilled = codi_tf.CoDi(tuned.base, tuned.student.adapter, train, method=method, image_size=16)
    before = values(tuned.variables)
    unet, start = values(distilled.student.unet.variables), values(distilled.student.adapter.variables)
    assert not moved(start, tuned.student.adapter)
    step(distilled)
    assert not moved(before, tuned)
    assert moved(start, distilled.student.adapter) and moved(unet, distilled.student.unet) == (train == "all")

    after = values(distilled.variables)
    step(tuned)
    assert not moved(after, distilled)


def test_frozen_models_of_a_frozen_model_share_one_unet():
    """Catches a copy of a UNet that nobody trains."""
    first = make(tiny_base(), "adapter", method=codi_tf.Finetune())
    second = codi_tf.CoDi(first.base, first.student.adapter, "adapter", method=codi_tf.Consistency(), image_size=16)
    assert second.student.unet is first.student.unet and second.student.adapter is not first.student.adapter


def test_what_is_taken_without_a_copy_is_no_other_models():
    """Catches a saved copy that lets two models train, or one train and one hold still, the same weights."""
    base = tiny_base()
    owner = make(base, "all", copy=False)
    assert owner.student.unet is base.unet
    with pytest.raises(UserError, match="another model uses these networks: leave copy=False out"):
        make(base, "all", copy=False)
    assert make(base, "adapter").student.unet is not base.unet
    shared = tiny_base()
    light = make(shared, "adapter")
    with pytest.raises(UserError, match="another model uses these networks"):
        make(shared, "all", copy=False)
    with pytest.raises(UserError, match="another model uses these networks"):
        codi_tf.CoDi(tiny_base(), light.student.adapter, "adapter", copy=False)
    del light
    gc.collect()
    assert make(shared, "all", copy=False).student.unet is shared.unet  # the other one is gone
    assert is_trained(base.unet) and is_used(base.unet) and not is_used(tiny_base().unet)


def test_an_optimizer_has_the_state_of_one_model():
    """Catches Adam's moments of two models in one optimizer."""
    base, optimizer = tiny_base(), keras.optimizers.AdamW(1e-3)
    first, second = make(base, "adapter"), make(base, "adapter")
    first.compile(optimizer)
    step(first)
    with pytest.raises(UserError, match="this AdamW has trained another model, or other parts of this one"):
        second.compile(optimizer)
    first.compile(optimizer, run_eagerly=True)  # goes on
    assert int(first.optimizer.iterations) == 1


def test_flags_are_neither_read_from_shared_layers_nor_set_on_them():
    """Catches Keras' flag `trainable` on a layer that another model has, too."""
    base = tiny_base()
    light = make(base, "adapter")
    light.compile("adamw")
    assert base.unet.trainable and all(variable.trainable for variable in base.unet.variables)
    light.trainable = False
    full = make(base, "all")
    assert len(full.trainable_variables) == len(full.student.variables)
    with pytest.raises(UserError, match="nothing to train"):
        light.compile("adamw")


def test_a_part_that_the_user_freezes_stays():
    """Catches an own list of variables that Keras' flag on the model's own layers does not reach."""
    model = make(tiny_base(), "adapter")
    model.student.adapter.encoder.trainable = False
    encoder, mu = values(model.student.adapter.encoder.variables), values([model.student.adapter.mu])
    step(model)
    assert not moved(encoder, model.student.adapter.encoder) and not np.array_equal(mu[0], model.student.adapter.mu)
    counts = []
    model.summary(print_fn=lambda line: counts.append(line))
    assert any("Trainable params: 3 " in line for line in counts)
