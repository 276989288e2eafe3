"""Examples of triplets, and comparisons with what was written."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from triplets import S

from codi_tf import data
from codi_tf.core.errors import UserError, user_errors
from codi_tf.data.triplets import open_triplets


def examples(source, count, seed=0):
    """The first examples as (level before, level after, instruction)."""
    dataset = data.crops(source, image_size=S, seed=seed, augment=False).take(count)
    with user_errors():
        drawn = list(dataset.as_numpy_iterator())
    levels = [[np.rint(127.5 * (one[key].mean() + 1)) for key in ("source", "image")] for one in drawn]
    return [(*map(int, pair), one["prompt"].decode()) for pair, one in zip(levels, drawn, strict=True)]


def near(found, wanted):
    """Whether the examples are these, to the levels that JPEG takes or adds."""
    assert [text for *_, text in found] == [text for *_, text in wanted]
    np.testing.assert_allclose([one[:2] for one in found], [one[:2] for one in wanted], atol=2)


def error_of(name, *arguments, **options):
    with warnings.catch_warnings(), pytest.raises(UserError) as caught:
        warnings.simplefilter("ignore")
        open_triplets(name, *arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
