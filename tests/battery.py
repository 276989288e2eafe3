"""What every network has to pass: its config, its compiled form and its gradients."""

from __future__ import annotations

import json

import keras
import numpy as np
import tensorflow as tf


class NetworkBattery:
    """The tests; a class `Test...` of a network's file inherits them and has a fixture `network`, all layers awake.

    Attributes:
        inputs: arrays that the network is called with.
        exact: how far the compiled network's output may be from the eager one's, as a share of the largest value.
        unreached: ends of the paths of variables that have no gradient.
        smallest: every other variable has a gradient above this.
    """

    inputs: tuple[np.ndarray, ...]
    exact = 1e-4
    unreached: tuple[str, ...] = ()
    smallest = 1e-7

    def outputs(self, network) -> list[tf.Tensor]:
        """All of the network's outputs for `inputs`: gradients of the sum of them reach what can be reached."""
        return tf.nest.flatten(network(*self.inputs))

    def test_its_config_makes_it_again(self, network):
        """Catches: an option that the config lacks, or that `__init__` ignores."""
        config = network.get_config()
        again = type(network).from_config(json.loads(json.dumps(config)))
        again.build()
        assert again.get_config() == config
        assert [(v.path, v.shape) for v in again.variables] == [(v.path, v.shape) for v in network.variables]
        for source, target in zip(network.variables, again.variables, strict=True):
            target.assign(source)
        for expected, found in zip(self.outputs(network), self.outputs(again), strict=True):
            np.testing.assert_array_equal(found, expected)

    def test_eager_and_compiled_agree_and_gradients_reach_every_weight(self, network):
        """Catches: Python in a graph, a weight that acts on nothing, an operation without a gradient."""

        @tf.function
        def compiled():
            with tf.GradientTape() as tape:
                outputs = self.outputs(network)
                loss = tf.add_n([tf.reduce_sum(out * tf.cos(out)) for out in outputs])
            return outputs, tape.gradient(loss, network.trainable_variables)

        outputs, gradients = compiled()
        for expected, found in zip(self.outputs(network), outputs, strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=self.exact * np.abs(expected).max())
        for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
            if not variable.path.endswith(self.unreached):
                assert np.abs(tf.convert_to_tensor(gradient)).max() > self.smallest, variable.path

    def test_half_precision_stays_near(self, network):
        """Catches: a part that computes in another format than the network's, or loses more than the format does."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            again = type(network).from_config({k: v for k, v in network.get_config().items() if k != "dtype"})
            again.build()
        finally:
            keras.config.set_dtype_policy(before)
        for source, target in zip(network.variables, again.variables, strict=True):
            assert target.dtype == "float32"
            target.assign(source)
        for expected, found in zip(self.outputs(network), self.outputs(again), strict=True):
            error = np.asarray(tf.cast(found, "float32")) - expected
            assert 0 < np.sqrt(np.mean(error**2)) < 0.05 * np.sqrt(np.mean(np.square(expected)))
