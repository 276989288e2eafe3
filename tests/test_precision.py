"""Half precision and gradient checkpointing: the same results within rounding."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import UNET
from tiny import tiny_run

import codi_tf
from codi_tf import config
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.adapters.controlnet import ControlNet
from codi_tf.adapters.mu import MuAdapter
from codi_tf.checkpoints.base import make_unet
from codi_tf.core.errors import UserError
from codi_tf.core.formats import FORMATS
from codi_tf.core.precision import built_in, make_policy
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.methods.networks import copy_of
from codi_tf.models.layers import Conv2D
from codi_tf.trainers.trainer import FIRST_SCALE
from codi_tf.training.experiment import build_dataset, build_trainer

RANDOM = np.random.default_rng(0)
Z_T = RANDOM.normal(size=(2, 8, 8, 4)).astype("float32")
T = np.array([3, 801], "int32")
CONDITIONING = Conditioning(RANDOM.normal(size=(2, 77, 8)).astype("float32"))
LATENT = RANDOM.normal(size=(2, 8, 8, 4)).astype("float32")
IMAGE = RANDOM.uniform(-1, 1, (2, 32, 32, 3)).astype("float32")


def make_network(kind=MuAdapter, compute="float32", weights="float32") -> AdaptedUNet:
    """An adapted network whose adapter acts; the same values in every format, exact in all of them."""
    with built_in(make_policy(compute, weights)):
        unet = make_unet(UNET)
    options = {"factor": 4} if kind is ControlNet else {}
    network = AdaptedUNet(unet, kind.duplicate(unet, **options), "adapter", name="student")
    random = np.random.default_rng(0)
    for variable in network.variables:
        around = 1.0 if variable.name == "gamma" else 0.0
        value = np.round(random.normal(around, 0.15, variable.shape) * 64) / 64
        variable.assign(value.astype("float32"))
    return network


def output(network):
    c = IMAGE if network.condition_space == "image" else LATENT
    return network(Z_T, T, network.condition(c, CONDITIONING), CONDITIONING)


def compiled(network):
    return np.asarray(tf.function(lambda: output(network), autograph=False)())


def gradients(network):
    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(output(network)))
        return loss, tape.gradient(loss, network.trainable_variables)

    loss, values = run()
    return float(loss), [np.asarray(value) for value in values]


@pytest.mark.parametrize("kind", [MuAdapter, ControlNet])
def test_recomputing_blocks_changes_neither_loss_nor_gradients(request, kind):
    if kind is MuAdapter:  # the quick one
        request.getfixturevalue("eager")
    network = make_network(kind)
    loss, expected = gradients(network)
    network.recompute_blocks()
    again, values = gradients(network)
    assert again == pytest.approx(loss, rel=1e-6)
    assert len(values) == len(expected) == len(network.adapter.trainable_variables)
    for value, reference in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-6 * max(1.0, np.abs(reference).max()))


def test_recomputing_runs_every_block_again_and_lets_nothing_merge_the_two():
    def calls(network):
        @tf.function(autograph=False)
        def step():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(output(network)))
            return tape.gradient(loss, network.trainable_variables)

        names = [
            op.get_attr("f").name for op in step.get_concrete_function().graph.get_operations() if "Call" in op.type
        ]
        library = {f.signature.name: f.attr for f in step.get_concrete_function().graph.as_graph_def().library.function}
        return sum(library[name.decode() if isinstance(name, bytes) else name]["_noinline"].b for name in names)

    network = make_network()
    blocks = [*network.unet.down_blocks, network.unet.mid_block, *network.unet.up_blocks]
    encoder = [*network.adapter.encoder.down_blocks, network.adapter.encoder.mid_block]
    stages = sum(len(block.resnets) for block in (*blocks, *encoder))
    assert calls(network) == 0
    network.recompute_blocks()
    assert calls(network) >= 2 * stages
    network.recompute_blocks(False)
    assert calls(network) == 0


@pytest.mark.parametrize("weights", ["float16", "bfloat16"])
def test_frozen_weights_in_half_precision_give_what_the_same_values_in_float32_give(weights):
    single, half = make_network(), make_network(weights=weights)
    assert {v.dtype for v in half.unet.variables} == {weights}
    assert {v.dtype for v in half.adapter.variables} == {"float32"}
    np.testing.assert_allclose(compiled(half), compiled(single), rtol=0, atol=1e-5)
    _, expected = gradients(single)
    for value, reference in zip(gradients(half)[1], expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-6 * max(1.0, np.abs(reference).max()))


@pytest.mark.parametrize(("compute", "tolerance"), [("bfloat16", 0.03), ("float16", 0.004)])
@pytest.mark.parametrize("kind", [MuAdapter, ControlNet])
def test_half_precision_arithmetic_stays_near(kind, compute, tolerance):
    expected, half = compiled(make_network(kind)), make_network(kind, compute=compute)
    assert {v.dtype for v in half.variables} == {"float32"}
    values = compiled(half)
    assert values.dtype == np.float32 and np.isfinite(values).all()
    difference = np.abs(values - expected).max() / np.abs(expected).max()
    assert 1e-6 < difference < tolerance


def test_the_moving_average_has_the_formats_of_what_it_follows():
    network = make_network(compute="bfloat16", weights="bfloat16")
    average = copy_of(network, "average")
    assert average.unet is network.unet
    assert {v.dtype for v in average.adapter.variables} == {"float32"}
    np.testing.assert_array_equal(compiled(average), compiled(network))


def test_pe_codi_on_a_half_precision_base_trains_the_adapter_alone(base_folder):
    base = codi_tf.load_stable_diffusion(base_folder, compute="bfloat16", weights="bfloat16")
    model = codi_tf.CoDi(base, train="adapter", image_size=16)
    model.student.recompute_blocks()
    model.compile(optimizer=keras.optimizers.AdamW(1e-2))
    before = [v.numpy().copy() for v in base.unet.variables]
    batch = {name: tf.constant(RANDOM.uniform(-1, 1, (2, 16, 16, 3)), tf.float32) for name in ("image", "condition")}
    step = tf.function(model.train_step)
    losses = [float(step(batch)["loss"]) for _ in range(3)]
    assert np.isfinite(losses).all()
    assert np.abs(model.student.adapter.mu.numpy()).max() > 0
    for variable, value in zip(base.unet.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_a_run_in_float16_learns_with_a_scaled_loss(tmp_path):
    """By its config; the scale starts too high for some networks, and is then halved until their gradients fit."""
    values = tiny_run(tmp_path, steps=3)
    experiment = config.from_dict({**values, "memory": {"compute": "float16"}})
    trainer = build_trainer(experiment)
    assert trainer.scaled and trainer.student.unet.compute_dtype == "float16"
    trained = trainer.student.trainable_variables
    before = [v.numpy() for v in trained]
    step = tf.function(trainer.train_step, autograph=False)
    logs = [step(batch) for batch in build_dataset(experiment, trainer, 0).take(3)]
    learned = [log for log in logs if not float(log["skipped"])]
    assert learned and all(np.isfinite(float(value)) for log in learned for value in log.values())
    assert float(trainer.scale.numpy()) == FIRST_SCALE / 2 ** (3 - len(learned))
    assert int(trainer.optimizer.iterations.numpy()) == int(trainer.good_steps.numpy()) == len(learned)
    assert all(np.isfinite(v.numpy()).all() for v in (*trained, *trainer.average.variables))
    moved = [not np.array_equal(v.numpy(), start) for v, start in zip(trained, before, strict=True)]
    assert np.mean(moved) > 0.85  # an empty prompt gives its attention no gradient


def test_what_is_trained_must_be_float32(base_folder):
    base = codi_tf.load_stable_diffusion(base_folder, weights="float16")
    with pytest.raises(UserError, match="float16.*weights='float32'"):
        codi_tf.CoDi(base, train="all")


def test_unknown_formats_are_refused():
    for bad in ("int8", "float64", ""):
        with pytest.raises(UserError, match=", ".join(FORMATS)):
            make_policy(compute=bad)
        with pytest.raises(UserError, match="weights"):
            make_policy(weights=bad)


def test_the_policy_of_a_block_ends_with_it():
    before = keras.config.dtype_policy()
    with pytest.raises(ZeroDivisionError), built_in(make_policy("bfloat16")):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
        raise ZeroDivisionError
    assert keras.config.dtype_policy() == before


@pytest.mark.parametrize("compute", FORMATS)
@pytest.mark.parametrize("weights", FORMATS)
def test_any_pair_of_formats_is_a_policy(compute, weights):
    with built_in(make_policy(compute, weights)):
        layer = Conv2D(4, name="a")
    assert (layer.compute_dtype, layer.variable_dtype) == (compute, weights)
    if weights in (compute, "float32"):  # Keras cannot save layers of other pairs
        again = Conv2D.from_config(layer.get_config())
        assert (again.compute_dtype, again.variable_dtype) == (compute, weights)


def test_frozen_shares_a_base_that_is_not_trained_and_copies_one_that_is(base_folder):
    for train, shared in (("adapter", True), ("all", False)):
        base = codi_tf.load_stable_diffusion(base_folder)
        model = codi_tf.CoDi(base, train=train, method=codi_tf.ConditionalDistillation(z_s="frozen"), image_size=16)
        assert model.method.frozen is None
        model.compile(optimizer=keras.optimizers.SGD(0.1))
        assert (model.method.frozen.unet is base.unet) == shared
