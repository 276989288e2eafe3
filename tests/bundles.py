"""What tests of bundles share."""

from __future__ import annotations

import pytest

import codi_tf
from codi_tf.core.errors import UserError
from codi_tf.io.weights import WEIGHTS

ADAPTER = f"adapter/{WEIGHTS}"


def refusal(path) -> str:
    """The line with which a bundle is refused."""
    with pytest.raises(UserError) as caught:
        codi_tf.load(path)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 500
    return line
