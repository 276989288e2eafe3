"""LPIPS (Zhang et al. 2018), version 0.1, with AlexNet's or VGG-16's features: how different two images look."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf
from keras import ops

from codi_tf.checkpoints.base import make_network
from codi_tf.checkpoints.networks import refuse_pickles
from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path
from codi_tf.core.precision import built_in, make_policy
from codi_tf.diffusion.losses import latent_distance
from codi_tf.io.tensor_files import read_header
from codi_tf.io.weights import make_from

LAST = "channels_last"  # whatever keras.json says
TINY = 1e-20  # the least squared length: keeps the gradient finite where all channels are 0


class Conv(NamedTuple):
    """A convolution followed by ReLU; `number` is its place in torchvision's `features`."""

    number: int
    channels: int
    kernel: int = 3
    strides: int = 1


class Trunk(NamedTuple):
    """The convolutions of a classifier in five stages, whose outputs are compared.

    Attributes:
        pool: side of the maximum pooling windows, of stride 2.
        pooled: the stages that begin with pooling.
        smallest: side of the smallest image that leaves something to compare.
        stages: the convolutions.
    """

    pool: int
    pooled: tuple[int, ...]
    smallest: int
    stages: tuple[tuple[Conv, ...], ...]


TRUNKS = {
    "alex": Trunk(  # Krizhevsky 2014
        pool=3,
        pooled=(1, 2),
        smallest=31,
        stages=((Conv(0, 64, 11, 4),), (Conv(3, 192, 5),), (Conv(6, 384),), (Conv(8, 256),), (Conv(10, 256),)),
    ),
    "vgg": Trunk(  # Simonyan and Zisserman 2015, configuration D
        pool=2,
        pooled=(1, 2, 3, 4),
        smallest=16,
        stages=(
            (Conv(0, 64), Conv(2, 64)),
            (Conv(5, 128), Conv(7, 128)),
            (Conv(10, 256), Conv(12, 256), Conv(14, 256)),
            (Conv(17, 512), Conv(19, 512), Conv(21, 512)),
            (Conv(24, 512), Conv(26, 512), Conv(28, 512)),
        ),
    ),
}


class Lpips(keras.Model):
    """sum_l mean_{h,w} sum_c w_lc (f_lc(a) - f_lc(b))^2, f_l of unit length along the channels (Zhang et al., Eq. 1).

    Args:
        net: "alex" or "vgg".

    Raises:
        UserError: another net.
    """

    def __init__(self, *, net: str = "alex", **kwargs):
        super().__init__(**kwargs)
        if net not in TRUNKS:
            raise UserError(f"LPIPS: unknown net {net!r}: use one of {', '.join(TRUNKS)}")
        self.net, self.trunk = net, TRUNKS[net]
        self.stages = [self._stage(number, convs) for number, convs in enumerate(self.trunk.stages)]
        self.linear = [
            keras.layers.Conv2D(1, 1, use_bias=False, data_format=LAST, name=f"lin{number}.model.1")
            for number in range(len(self.trunk.stages))
        ]
        self._distance = tf.function(
            self._distance_of, input_signature=[tf.TensorSpec([None, None, None, 3], "float32")] * 2
        )

    def _stage(self, number: int, convs: tuple[Conv, ...]) -> list:
        pool = keras.layers.MaxPooling2D(self.trunk.pool, strides=2, data_format=LAST)
        layers: list = [pool] if number in self.trunk.pooled else []
        for conv in convs:
            if conv.strides > 1:  # Keras pads symmetrically for stride 1 only
                layers.append(keras.layers.ZeroPadding2D(2, data_format=LAST))
            layers.append(
                keras.layers.Conv2D(
                    conv.channels,
                    conv.kernel,
                    strides=conv.strides,
                    padding="same" if conv.strides == 1 else "valid",
                    activation="relu",
                    data_format=LAST,
                    name=f"net.slice{number + 1}.{conv.number}",
                )
            )
        return layers

    def build(self, input_shape=None):
        self.shift = self.add_weight(name="scaling_layer.shift", shape=(1, 3, 1, 1))
        self.scale = self.add_weight(name="scaling_layer.scale", shape=(1, 3, 1, 1))
        channels = 3
        for stage, linear in zip(self.stages, self.linear, strict=True):
            for layer in stage:
                layer.build((None, None, None, channels))
                channels = getattr(layer, "filters", channels)
            linear.build((None, None, None, channels))
        self.built = True

    def call(self, images):
        return self.maps(images)

    def maps(self, images) -> list:
        """Images [B, H, W, 3] in [-1, 1] -> five maps [B, h, w, C] for `losses.perceptual_distance`.

        Along the channels they are of unit length, times the square root of (the channel's weight, times C): LPIPS is
        the sum of the mean squares of their differences. Gradients are finite everywhere.
        """
        h = (images - ops.reshape(self.shift, (1, 1, 1, 3))) / ops.reshape(self.scale, (1, 1, 1, 3))
        maps = []
        for stage, linear in zip(self.stages, self.linear, strict=True):
            for layer in stage:
                h = layer(h)
            weight = ops.sqrt(ops.reshape(linear.kernel, (-1,)) * h.shape[-1])  # [C]
            squared = ops.sum(ops.square(h), axis=-1, keepdims=True)
            maps.append(h * ops.rsqrt(ops.maximum(squared, TINY)) * weight)
        return maps

    def distance(self, images_a, images_b):
        """Two batches of images, [B, H, W, 3] in [-1, 1] -> LPIPS, float32 [B], 0 for equal ones.

        Raises:
            UserError: images that are too small.
        """
        height, width = images_a.shape[1:3]
        if min(height, width) < self.trunk.smallest:
            smallest = self.trunk.smallest
            raise UserError(f"images of {height}x{width}: LPIPS ({self.net}) needs sides of {smallest} pixels or more")
        return self._distance(images_a, images_b)

    def _distance_of(self, images_a, images_b):
        return sum(latent_distance(a, b) for a, b in zip(self.maps(images_a), self.maps(images_b), strict=True))

    def get_config(self):
        return {"name": self.name, "net": self.net}


def load_lpips(path: str | Path) -> Lpips:
    """Read LPIPS, of AlexNet or VGG-16, from a safetensors file with the keys of the `lpips` package's state dict.

    The package makes such a file (`net` is "alex" or "vgg"):

        import lpips, safetensors.torch
        safetensors.torch.save_model(lpips.LPIPS(net="alex"), "lpips_alex.safetensors")

    Raises:
        UserError: a missing, truncated or foreign file, a pickle, or the weights of an untrained network.
    """
    path = as_path(path)
    refuse_pickles(path)
    tensors, _ = read_header(path)
    stored = {re.sub(r"^lins\.", "lin", key): tensor for key, tensor in tensors.items()}  # the package has them twice
    net = "vgg" if "net.slice1.2.weight" in stored else "alex"
    with built_in(make_policy()):
        network = make_from(lambda: make_network(Lpips, {"net": net}, "lpips"), stored, path)
    for linear in network.linear:
        lowest = float(ops.min(linear.kernel))
        if not lowest >= 0:
            key = f"{linear.name}.weight"
            raise UserError(
                f"{path}: {key} has {lowest:.3g}, LPIPS has no weights below 0; name a trained network's file"
            )
    network.trainable = False
    return network
