"""Weights on disk as integers with a scale for each row."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import UNET, randomize

from codi_tf.checkpoints.base import make_unet
from codi_tf.core.errors import UserError
from codi_tf.io.tensor_files import read_header
from codi_tf.io.weights import WEIGHTS, load_network, save_network, state_dict


def test_integers_on_disk_are_half_a_step_from_the_weights(tmp_path):
    """Catches scales along another axis than the rows, and weights of one axis that are rounded."""
    unet = make_unet(UNET)
    randomize(unet.variables)
    save_network(unet, tmp_path, dtype="int8")
    made, stored = make_unet(UNET, "another"), load_file(tmp_path / WEIGHTS)
    load_network(made, tmp_path)
    read, exact = state_dict(made), state_dict(unet)
    for key, value in exact.items():
        rows = np.abs(value.reshape(len(value), -1))
        step = rows.max(axis=1, keepdims=True) / 127 if value.ndim > 1 else np.zeros((1, 1))
        assert (np.abs((read[key] - value).reshape(rows.shape)) <= 0.5001 * step).all(), key
        assert stored[key].dtype == ("int8" if value.ndim > 1 else "float32")
    stored["conv_in.weight.scale"] = stored["conv_in.weight.scale"][:-1]  # not of these rows
    save_file(stored, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match="left over: conv_in.weight.scale"):
        load_network(made, tmp_path)


def test_changes_of_four_bits_are_near_the_weights(tmp_path):
    """Catches nibbles in the wrong order, a lost start, and rows of an odd length that run into the next one."""
    unet, start = make_unet(UNET), make_unet(UNET, "start")
    randomize(unet.variables)
    save_network(start, tmp_path / "start", dtype="float16")
    starts, _ = read_header(tmp_path / "start" / WEIGHTS)
    starts = {key: tensor for key, tensor in starts.items() if not key.startswith("conv_in")}  # that one is int8
    save_network(unet, tmp_path, dtype="int4", starts=starts)
    stored, made = load_file(tmp_path / WEIGHTS), make_unet(UNET, "another")
    load_network(made, tmp_path, starts=starts)
    read, exact = state_dict(made), state_dict(unet)
    for key, value in exact.items():
        rows = (value - (starts[key].read() if key in starts else 0)).astype("float32").reshape(len(value), -1)
        bits = 127 if key not in starts else 7
        # The scale with the smallest squared error is never worse than the one that reaches the largest number.
        error = np.square((read[key] - value).reshape(rows.shape)).sum(axis=1)
        simple = np.abs(rows).max(axis=1, keepdims=True) / bits
        limit = np.square(np.rint(rows / simple) * simple - rows).sum(axis=1)
        assert (error <= (limit * 1.001 + 1e-9 if value.ndim > 1 else 0)).all(), key
        assert (key + ".change" in stored) == (value.ndim > 1 and key in starts), key
    with pytest.raises(UserError, match="weights missing"):
        load_network(made, tmp_path)  # without the starts
