"""Weights on disk as int8 with a scale for each row."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import UNET, randomize

from codi_tf.checkpoints.base import make_unet
from codi_tf.core.errors import UserError
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
