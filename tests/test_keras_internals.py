"""What is used of Keras' private interface: one failure here tells what a new version of Keras changed."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from codi_tf.core import keras_internals

VERSION = f"Keras {keras.__version__} changed what codi_tf/core/keras_internals.py uses: adapt it, then setup.cfg"


def test_an_initializer_may_be_replaced_before_the_variable_has_a_value():
    with keras.StatelessScope():
        variable = keras.Variable(initializer="zeros", shape=(2,), name="v")
        keras_internals.set_initializer(variable, lambda shape, dtype: keras.ops.full(shape, 7.0, dtype))
    np.testing.assert_array_equal(variable.numpy(), [7.0, 7.0], err_msg=VERSION)


def test_a_policy_takes_any_pair_of_formats():
    policy = keras.DTypePolicy("float32")
    keras_internals.set_formats(policy, compute="float32", weights="float16", name="pair")
    layer = keras.layers.Dense(2, dtype=policy)
    layer.build((None, 3))
    assert (layer.compute_dtype, layer.kernel.dtype, policy.name) == ("float32", "float16", "pair"), VERSION


def test_an_optimizer_shows_its_variables_moments_and_decay():
    variables = [keras.Variable([1.0, 2.0], name=name) for name in ("first", "second")]
    optimizer = keras.optimizers.Adam(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=variables[:1])
    optimizer.build(variables)
    gradients = [np.array([2.0, -2.0], "float32"), np.array([4.0, 4.0], "float32")]
    optimizer.apply([keras.ops.convert_to_tensor(gradient) for gradient in gradients])
    assert keras_internals.trainable_variables_of(optimizer) == variables, VERSION
    assert [keras_internals.has_weight_decay(optimizer, v) for v in variables] == [False, True], VERSION
    for variable, gradient in zip(variables, gradients, strict=True):
        momentum, velocity = keras_internals.moments_of(optimizer, variable)
        np.testing.assert_allclose(momentum, (1 - optimizer.beta_1) * gradient, rtol=1e-5, err_msg=VERSION)
        np.testing.assert_allclose(velocity, (1 - optimizer.beta_2) * gradient**2, rtol=1e-4, err_msg=VERSION)
    with pytest.warns(UserWarning, match="first"):
        kept = keras_internals.with_gradients(optimizer, [None, gradients[1]], variables)
    assert kept[0] is not None and list(kept[1]) == variables[1:], VERSION


def test_a_network_shows_its_layers_at_any_depth():
    inner = keras.Sequential([keras.layers.Dense(2, name="deep")])
    network = keras.Sequential([inner, keras.layers.Dense(3, name="flat")])
    network.build((None, 4))
    names = {layer.name for layer in keras_internals.layers_of(network)}
    assert {"deep", "flat", inner.name} <= names and network.name not in names, VERSION


def test_a_name_that_keras_no_longer_has_is_an_error_that_says_so():
    with pytest.raises(RuntimeError, match=f"Keras {keras.__version__} has no object._gone"):
        keras_internals._private(object(), "_gone")
