"""The optimizers against Keras' and transformers', step by step on the same gradients; their state, and its bytes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from tiny import tiny_base

import codi_tf
from codi_tf.core.errors import UserError
from codi_tf.trainers.lean import Adafactor, Lion
from codi_tf.trainers.optimizers import FusedAdamW
from codi_tf.trainers.summed import rounded_at_random
from codi_tf.training.experiment import OPTIMIZERS
from codi_tf.training.states import restore_newest, state_values, write_state

SHAPES = [(3, 3, 4, 5), (7,), ()]


def stepper(optimizer, variables, graph):
    def step(gradients):
        optimizer.apply(gradients, variables)

    return tf.function(step, autograph=False) if graph else step


def gradients(steps: int = 5) -> tuple[list, list]:
    """Where variables start, and their gradients in some steps."""
    random = np.random.default_rng(0)
    start = [random.normal(size=shape).astype("float32") for shape in SHAPES]
    return start, [[random.normal(size=shape).astype("float32") for shape in SHAPES] for _ in range(steps)]


def ended(optimizer, start, steps, graph=False) -> list:
    """The variables after steps; the second one has no weight decay."""
    variables = [keras.Variable(value) for value in start]
    optimizer.exclude_from_weight_decay(var_list=variables[1:2])
    optimizer.build(variables)
    run = stepper(optimizer, variables, graph)
    for step in steps:
        run([tf.constant(g) for g in step])
    assert int(optimizer.iterations) == len(steps)
    return [v.numpy() for v in variables]


PEERS = {"adamw": keras.optimizers.AdamW, "lion": keras.optimizers.Lion}


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", PEERS)
def test_it_does_what_keras_does(name, weight_decay, graph):
    start, steps = gradients()
    rate = keras.optimizers.schedules.CosineDecay(0.1, 6)
    theirs = ended(PEERS[name](rate, weight_decay=weight_decay, global_clipnorm=1.0), start, steps, graph)
    ours = ended(OPTIMIZERS[name](rate, weight_decay=weight_decay or None, global_clipnorm=1.0), start, steps, graph)
    for keras_end, end, value in zip(theirs, ours, start, strict=True):
        np.testing.assert_allclose(end, keras_end, rtol=2e-6, atol=2e-6)
        assert np.abs(end - value).mean() > 1e-3


def test_adafactor_is_transformers_with_a_rate_from_outside():
    """Catches a factor over the wrong axes, and a rate that is multiplied by the weights' own size."""
    torch, optimization = pytest.importorskip("torch"), pytest.importorskip("transformers.optimization")
    start, steps = gradients()
    peers = [torch.nn.Parameter(torch.tensor(value)) for value in start]
    peer = optimization.Adafactor(peers, lr=0.1, scale_parameter=False, relative_step=False, weight_decay=0.0)
    for step in steps:
        for parameter, gradient in zip(peers, step, strict=True):
            parameter.grad = torch.tensor(gradient)
        peer.step()
    for end, expected in zip(ended(Adafactor(0.1), start, steps), peers, strict=True):
        np.testing.assert_allclose(end, expected.detach().numpy(), rtol=2e-5, atol=2e-5)


def test_bfloat16_is_rounded_at_random_and_right_on_average():
    """Catches rounding to the nearest, with which Adam's second moment stops at a quarter of a constant gradient's."""
    x = np.repeat(np.float32([1.001, -0.0300001, 0.25, 1e-12, 0.0]), 4096)
    seeds = [tf.constant([3, 1]), tf.constant([3, 1]), tf.constant([4, 1])]
    same, again, other = (rounded_at_random(tf.constant(x), seed).numpy().astype("float32") for seed in seeds)
    np.testing.assert_array_equal(same, again)
    assert (same != other).any()
    assert (np.abs(same - x) <= np.abs(x) / 128).all()
    np.testing.assert_array_equal(same[2 * 4096 : 3 * 4096], 0.25)  # exact in bfloat16
    means, wanted = same.reshape(5, -1).mean(axis=1), x.reshape(5, -1)[:, 0]
    np.testing.assert_allclose(means, wanted, rtol=4 / 128 / 2 / 64)  # four standard deviations, at the most


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_in_bfloat16_lead_to_nearly_the_same_weights(name):
    """Catches a moment that is not decayed, or not used, in one of the formats."""
    start, steps = gradients(8)
    full, half = (ended(OPTIMIZERS[name](0.01, moments=kind), start, steps) for kind in ("float32", "bfloat16"))
    full, half, start = (np.concatenate([value.ravel() for value in values]) for values in (full, half, start))
    assert np.abs(full - half).mean() < 0.1 * np.abs(full - start).mean()


BYTES = {  # of the state of a kernel of 3 x 3 x 64 x 32 weights, and of 32 biases
    ("adamw", "float32"): 8 * 18432 + 8 * 32,
    ("adamw", "bfloat16"): 4 * 18432 + 4 * 32,
    ("lion", "float32"): 4 * 18432 + 4 * 32,
    ("lion", "bfloat16"): 2 * 18432 + 2 * 32,
    ("adafactor", "float32"): 4 * 9 * (64 + 32) + 4 * 32,
    ("adafactor", "bfloat16"): 2 * 9 * (64 + 32) + 2 * 32,
}


@pytest.mark.parametrize(("name", "moments"), BYTES)
def test_the_state_takes_no_more_than_it_is_said_to(name, moments):
    """Catches Keras' Adafactor, which keeps a whole second moment beside its factors."""
    optimizer = OPTIMIZERS[name](0.01, moments=moments)
    optimizer.build([keras.Variable(np.zeros(shape, "float32")) for shape in ((3, 3, 64, 32), (32,))])
    counters = (optimizer.iterations, optimizer._learning_rate)
    moments = [v for v in optimizer.variables if not any(v is counter for counter in counters)]
    assert sum(v.numpy().nbytes for v in moments) == BYTES[name, optimizer.moments]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("name", "moments"),
    [
        ("lion", "bfloat16"),
        pytest.param("adamw", "bfloat16", marks=pytest.mark.slow),
        pytest.param("adafactor", "float32", marks=pytest.mark.slow),
    ],
)
def test_a_skipped_update_changes_no_moment_and_a_restored_state_goes_on_to_the_bit(name, moments, tmp_path):
    """Catches moments that are written outside of the condition, and bfloat16 that a state changes."""

    def compiled():
        model = make_model(tiny_base(), ema_decay=0.9)
        model.compile(OPTIMIZERS[name](1e-3, global_clipnorm=1.0, moments=moments))
        return model

    random = np.random.default_rng(0)
    batch = {key: random.normal(size=(2, 4, 4, 4)).astype("float32") for key in ("latent", "condition_latent")}
    broken = {**batch, "latent": np.full_like(batch["latent"], np.nan)}
    batch, broken = ({key: tf.constant(value) for key, value in one.items()} for one in (batch, broken))
    model = compiled()
    model.train_step(batch)
    state = state_values(model)
    assert float(model.train_step(broken)["skipped"]) == 1
    changed = [key for key, value in state_values(model).items() if not np.array_equal(value, state[key])]
    assert len(changed) == 1 and state[changed[0]].shape == ()  # skipped_in_row
    write_state(tmp_path / "step-00000001.safetensors", state)
    other = compiled()
    assert restore_newest(other, tmp_path) == 1
    model.skipped_in_row.assign(0)
    ends = []
    for trained in (model, other):
        trained.train_step(batch)
        ends.append(state_values(trained))
    assert all(np.array_equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert any(not np.array_equal(ends[0][key], state[key]) for key in ends[0] if key.startswith("optimizer"))


def test_a_state_of_another_format_is_refused(tmp_path):
    """Catches bits of bfloat16 that are read as numbers."""
    model = make_model(tiny_base())
    model.compile(Lion(1e-3, moments="bfloat16"))
    write_state(tmp_path / "step-00000001.safetensors", state_values(model))
    other = make_model(tiny_base())
    other.compile(Lion(1e-3))
    with pytest.raises(UserError, match="the state of another experiment"):
        restore_newest(other, tmp_path)


@pytest.mark.parametrize("train", ["all", "adapter"])
def test_averages_hold_what_is_trained_and_nothing_frozen(train):
    """Catches an average that copies the UNet of PE-CoDi, or the autoencoder."""
    model = codi_tf.CoDi(tiny_base(), train=train, image_size=16)
    trained = sum(v.value.numpy().nbytes for v in model.trainable_variables)
    before = {id(v) for v in (*model.variables, *model.base.unet.variables)}
    model.compile(Lion(1e-3))
    added = [v for v in model.variables if id(v) not in before]
    numbers = {id(v): v for v in added if v.shape and v.dtype == "float32"}
    assert sum(v.numpy().nbytes for v in numbers.values()) == 2 * trained


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match="amsgrad"):
        FusedAdamW(amsgrad=True)
