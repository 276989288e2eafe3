"""Training state on disk: whole or not at all; a damaged one is named, and the one before it used."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conftest import make_model
from safetensors.numpy import load_file
from tiny import randomize, tiny_base

from codi_tf.core.errors import UserError
from codi_tf.training.states import StateWriter, restore_newest, write_state

pytestmark = pytest.mark.usefixtures("eager")


def compiled(seed=0):
    model = make_model(tiny_base(seed), train="adapter")
    model.compile(keras.optimizers.AdamW(1e-3))
    return model


@pytest.fixture(scope="module")
def trainer():
    """A trainer with a state that is nowhere trivial."""
    trainer = compiled()
    randomize([v for v in trainer.variables if v.dtype == "float32"], 1)
    randomize([v for v in trainer.optimizer.variables if v.dtype == "float32"], 2)
    trainer.optimizer.iterations.assign(7)
    return trainer


def save_state(trainer, folder, step, **options):
    """Write a state and wait until it is there."""
    writer = StateWriter(trainer, folder, **{"keep": 1, **options})
    path = writer.save(step)
    writer.wait()
    return path


def state(trainer):
    return [v.numpy() for v in (*trainer.variables, *trainer.optimizer.variables)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# State


def test_a_state_comes_back_whole(trainer, tmp_path):
    path = save_state(trainer, tmp_path / "states", 12, keep=1)
    assert [p.name for p in (tmp_path / "states").iterdir()] == [path.name] == ["step-00000012.safetensors"]
    other = compiled(seed=3)
    assert not same(state(other), state(trainer))
    assert restore_newest(other, tmp_path / "states") == 12
    assert same(state(other), state(trainer))
    assert int(other.optimizer.iterations) == 7


def test_where_there_is_no_state_nothing_is_set(tmp_path):
    trainer = compiled(seed=4)
    before = state(trainer)
    assert restore_newest(trainer, tmp_path / "none") == 0
    (tmp_path / ".step-00000003.safetensors.123").write_bytes(b"torn")
    (tmp_path / "notes.safetensors").write_bytes(b"")
    assert restore_newest(trainer, tmp_path) == 0
    assert same(state(trainer), before)


def test_the_newest_are_kept(trainer, tmp_path):
    for step in (3, 20, 100):
        save_state(trainer, tmp_path, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000020.safetensors", "step-00000100.safetensors"]
    trainer.optimizer.iterations.assign(8)
    save_state(trainer, tmp_path, 101, keep=2)
    trainer.optimizer.iterations.assign(7)
    other = compiled(seed=3)
    assert restore_newest(other, tmp_path) == 101
    assert int(other.optimizer.iterations) == 8


def test_every_nth_state_stays(trainer, tmp_path):
    for step in (3, 20, 100, 101, 102):
        save_state(trainer, tmp_path, step, keep=2, keep_every=50)
    assert sorted(p.name[9:13] for p in tmp_path.iterdir()) == ["0100", "0101", "0102"]


def test_a_state_is_that_of_the_moment_although_training_goes_on(trainer, tmp_path):
    """It is written while the variables change."""
    writer, variable = StateWriter(trainer, tmp_path, keep=1), trainer.optimizer.iterations
    path = writer.save(5)
    for _ in range(50):
        variable.assign_add(1)
    writer.wait()
    variable.assign(7)
    assert load_file(path)["optimizer/00000"] == 7


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path):
    """One bit of the last tensor."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(("damage", "said"), [(cut, "truncated"), (flip, "checksum"), (empty, "truncated")])
def test_a_damaged_state_is_named_and_the_one_before_it_used(trainer, tmp_path, damage, said):
    save_state(trainer, tmp_path, 4, keep=2)
    trainer.optimizer.iterations.assign(8)
    damage(save_state(trainer, tmp_path, 5, keep=2))
    trainer.optimizer.iterations.assign(7)
    other = compiled(seed=3)
    with pytest.warns(UserWarning, match=f"step-00000005.safetensors: .*{said}.*; the state before it is used"):
        assert restore_newest(other, tmp_path) == 4
    assert same(state(other), state(trainer))


def test_when_all_states_are_damaged_nothing_is_set(trainer, tmp_path):
    cut(save_state(trainer, tmp_path, 5))
    other = compiled(seed=3)
    before = state(other)
    with (
        pytest.warns(UserWarning, match="truncated"),
        pytest.raises(UserError, match="none of its states can be read; delete it to start again") as caught,
    ):
        restore_newest(other, tmp_path)
    assert "\n" not in str(caught.value) and same(state(other), before)


def test_what_a_crash_left_is_removed(trainer, tmp_path):
    save_state(trainer, tmp_path, 5)
    (tmp_path / ".step-00000006.safetensors.123").write_bytes(b"torn")
    assert restore_newest(compiled(seed=3), tmp_path) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005.safetensors"]


@pytest.mark.parametrize(
    "spoil",
    [lambda v: v.popitem(), lambda v: v.update({"weights/00000": np.zeros(3, "float32")})],
    ids=["key", "shape"],
)
def test_the_state_of_another_experiment_is_refused(trainer, tmp_path, spoil):
    path = save_state(trainer, tmp_path, 5, keep=1)
    values = load_file(path)
    spoil(values)
    write_state(path, values)
    other = compiled(seed=3)
    before = state(other)
    with pytest.raises(UserError, match="the state of another experiment; choose another --out"):
        restore_newest(other, tmp_path)
    assert same(state(other), before)


def test_a_failing_write_leaves_the_older_state(trainer, tmp_path):
    path = save_state(trainer, tmp_path, 5, keep=1)
    before = path.read_bytes()
    (tmp_path / "step-00000006.safetensors").mkdir()  # in the way of the new one
    (tmp_path / "step-00000006.safetensors/x").write_text("")
    with pytest.raises(UserError, match="step-00000006.safetensors: that is a folder") as caught:
        save_state(trainer, tmp_path, 6, keep=1)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before and not list(tmp_path.glob(".*"))
