"""What tests of bundles share."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_model
from tiny import randomize, tiny_base

import codi_tf
from codi_tf.core.errors import UserError
from codi_tf.io.weights import WEIGHTS

ADAPTER = f"adapter/{WEIGHTS}"
CONDITION = np.random.default_rng(0).integers(0, 256, (16, 16, 3), "uint8")


@pytest.fixture(scope="module")
def model():
    """A model whose average is another network than its student."""
    model = make_model(tiny_base())
    randomize(model.student.adapter.encoder.variables, 1)
    model.average = model.method.start_average()
    randomize(model.average.variables, 2)
    return model


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """Its bundle; tests copy it before they break it."""
    folder = tmp_path_factory.mktemp("saved") / "bundle"
    model.save(folder, provenance={"made": "here"})
    return folder


def refusal(path) -> str:
    """The line with which a bundle is refused."""
    with pytest.raises(UserError) as caught:
        codi_tf.load(path)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 500
    return line
