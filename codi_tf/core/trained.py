"""Keras models that name their trained parts, whatever the `trainable` flags of shared layers say."""

from __future__ import annotations

import keras


class TrainsPart(keras.Model):
    """A Keras model whose `trainable_variables` are those of the parts that `trained_parts` names.

    So one model can train a network that another model shares and freezes: Keras' flag `trainable`, which belongs to
    the layer, is never set.
    """

    def trained_parts(self) -> list[keras.Model]:
        """The parts that are trained."""
        raise NotImplementedError

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What is trained, in the order of the parts."""
        if not self.trainable:
            return []
        return [variable for part in self.trained_parts() for variable in part.trainable_variables]

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """The same as `trainable_variables`."""
        return self.trainable_variables

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        """All others."""
        trained = {id(variable) for variable in self.trainable_variables}
        return [variable for variable in self.variables if id(variable) not in trained]

    @property
    def non_trainable_weights(self) -> list[keras.Variable]:
        """The weights that are not trained."""
        trained = {id(variable) for variable in self.trainable_variables}
        return [variable for variable in self.weights if id(variable) not in trained]
