"""Low-rank changes of a network's layers (LoRA, Hu et al. 2022): h = W x + scale B A x beside a W that stays as it is.

The changes are a network of their own, and an argument of an evaluation: `applied`. So many of them share one frozen
network, and nothing but its layers knows of them. A B is never computed, nor the gradient of W.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import keras
from keras import ops

from codi_tf.core.keras_internals import layers_of
from codi_tf.io.layouts import key_of

END = ".weight"  # of a kernel's key, after its layer's name


class LowRank(keras.layers.Layer):
    """A change of one layer: down (A) [in, r] or [h, w, in, r], and up (B) [r, out], which starts at zero.

    A starts as in PEFT, uniform within 1 / sqrt(inputs of an output).

    Args:
        shape: of the layer's kernel.
        rank: r.
        scale: alpha / r.
        dropout: the share of the input channels that an update leaves out, see `dropping`.
    """

    def __init__(self, shape: Sequence[int], rank: int, *, scale: float, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.shape, self.rank, self.scale, self.dropout = tuple(shape), rank, scale, dropout

    def build(self, input_shape=None):
        *inputs, outputs = self.shape
        uniform = keras.initializers.VarianceScaling(1.0 / 3.0, "fan_in", "uniform")
        self.down = self.add_weight(name="down", shape=(*inputs, self.rank), initializer=uniform)
        self.up = self.add_weight(name="up", shape=(self.rank, outputs), initializer="zeros")

    def of(self, x, layer: Any):
        """The change of the output of `layer`, a dense layer or a convolution, for its input x, padded already."""
        down, up = ops.cast(self.down, x.dtype), ops.cast(self.up, x.dtype)
        uniform = _uniform.get()
        if self.dropout and uniform is not None:
            kept = ops.cast(uniform(self.shape[-2], f"dropout of {self.name}") >= self.dropout, x.dtype)
            down = down * ops.expand_dims(kept / (1.0 - self.dropout), -1)
        if len(self.shape) == 2:
            h = ops.matmul(ops.reshape(x, (-1, self.shape[0])), down)
            places = x.shape[1:-1]
        else:
            h = ops.conv(x, down, strides=layer.strides, padding=layer.padding, data_format="channels_last")
            places = h.shape[1:-1]
            h = ops.reshape(h, (-1, self.rank))
        return ops.reshape(ops.matmul(h * self.scale, up), (-1, *places, self.shape[-1]))

    def get_config(self):
        keys = ("shape", "rank", "scale", "dropout")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


class WholeKernel(keras.layers.Layer):
    """A change of one dense layer that is no product: a kernel [in, out] of its own, which starts at zero.

    For a new input of a network, of which the base has learned nothing.

    Args:
        shape: of the layer's kernel.
    """

    def __init__(self, shape: Sequence[int], **kwargs):
        super().__init__(**kwargs)
        self.shape = tuple(shape)

    def build(self, input_shape=None):
        self.kernel = self.add_weight(name="kernel", shape=self.shape, initializer="zeros")

    def of(self, x, layer: Any):
        """The change of the output of `layer`, a dense layer, for its input x."""
        return ops.matmul(x, ops.cast(self.kernel, x.dtype))

    def get_config(self):
        return {**super().get_config(), "shape": self.shape}


Change: TypeAlias = LowRank | WholeKernel


class LoraWeights(keras.Model):
    """The changes of a network's layers, which are trained in place of the network.

    Args:
        shapes: layer's name, as diffusers has it -> the shape of its kernel.
        inputs: the same, of dense layers that a new input goes through: their kernels change as a whole.
        rank: r of all layers.
        alpha: the changes are multiplied by alpha / r.
        targets: the ends of the names that were chosen.
        dropout: see `LowRank`.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        *,
        rank: int,
        alpha: float,
        targets: Sequence[str],
        dropout: float = 0.0,
        inputs: Mapping[str, Sequence[int]] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.inputs_of = {name: list(shape) for name, shape in (inputs or {}).items()}
        self.rank, self.alpha, self.targets, self.dropout = rank, alpha, list(targets), dropout
        options = {"scale": alpha / rank, "dropout": dropout}
        self.changes = [LowRank(shape, rank, name=name, **options) for name, shape in self.shapes.items()]
        self.whole = [WholeKernel(shape, name=name) for name, shape in self.inputs_of.items()]

    def build(self, input_shape=None):
        for change in (*self.changes, *self.whole):
            change.build()

    def settings(self) -> dict:
        """The options of a config, `adaptation.lora`."""
        return {key: getattr(self, key) for key in ("rank", "alpha", "dropout")} | {"targets": list(self.targets)}

    def of_layers(self, network: keras.Model) -> dict[int, Change]:
        """id of a layer of the network -> its change, for `applied`."""
        layers = {name: id(layer) for name, layer in kernel_layers(network).items()}
        return {layers[change.name]: change for change in (*self.changes, *self.whole)}

    def get_config(self):
        shapes, inputs = ({k: list(v) for k, v in of.items()} for of in (self.shapes, self.inputs_of))
        return {"name": self.name, "shapes": shapes, "inputs": inputs, **self.settings()}


def kernel_layers(network: keras.Model) -> dict[str, keras.layers.Layer]:
    """Layer's name, as diffusers has it -> layer: the dense layers and convolutions of a network."""
    found = [layer for layer in layers_of(network) if hasattr(layer, "kernel")]
    return {key_of(layer.kernel, network).removesuffix(END): layer for layer in found}


NONE: Mapping[int, Change] = MappingProxyType({})
_changes: contextvars.ContextVar[Mapping[int, Change]] = contextvars.ContextVar("changes", default=NONE)
_uniform: contextvars.ContextVar[Callable[[int, str], Any] | None] = contextvars.ContextVar("uniform", default=None)


@contextlib.contextmanager
def applied(changes: Mapping[int, Change]) -> Iterator[None]:
    """Evaluations in this block have these changes, see `LoraWeights.of_layers`."""
    token = _changes.set(changes)
    try:
        yield
    finally:
        _changes.reset(token)


@contextlib.contextmanager
def dropping(uniform: Callable[[int, str], Any]) -> Iterator[None]:
    """Evaluations in this block are training: changes with dropout leave out some rows of A.

    PEFT drops numbers of the input. Here a channel of the input is left out of a whole update, in all examples and
    places: so it does not matter how the batch is divided, and nothing as large as the input is stored.

    Args:
        uniform: (count, purpose) -> float32 [count] in [0, 1), the random numbers of an update.
    """
    token = _uniform.set(uniform)
    try:
        yield
    finally:
        _uniform.reset(token)


def changed(layer: keras.layers.Layer, inputs, outputs):
    """The outputs of a layer, plus its change where one is applied. The inputs of a convolution are padded already."""
    change = _changes.get().get(id(layer))
    return outputs if change is None else outputs + change.of(inputs, layer)


def has_change(layer: keras.layers.Layer) -> bool:
    """Whether a change of a layer is applied."""
    return id(layer) in _changes.get()
