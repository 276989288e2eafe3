"""Inception's 2048 features, whose Frechet distance is FID (Heusel et al. 2017), and the classifier behind them.

Two networks, whose distances must not be mixed: the original one of FID, in the layout of pytorch-fid, and the one of
Keras Applications, which was trained later and pools otherwise.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from codi_tf.checkpoints.base import make_network
from codi_tf.checkpoints.networks import refuse_pickles
from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path
from codi_tf.core.precision import built_in, make_policy
from codi_tf.io.layouts import Layout, Origin
from codi_tf.io.tensor_files import read_header
from codi_tf.io.weights import make_from

SIDE = 299
FEATURES = 2048
KERAS = "keras"
CLASSIFIER = "fc.weight"
UNUSED = r"(^fc\.|\.num_batches_tracked$)"  # the classifier, and a counter of training steps


class Conv(NamedTuple):
    """A convolution, normalized with fixed moments, then ReLU."""

    name: str
    channels: int
    kernel: int | tuple[int, int] = 1
    strides: int = 1
    padding: str = "same"


LAST = "channels_last"  # whatever keras.json says


class Pool(NamedTuple):
    """Pooling of windows of 3x3; at the edge, the mean is over the pixels inside the image."""

    kind: Callable
    strides: int = 1
    padding: str = "same"


class Fork(NamedTuple):
    """Parallel branches whose channels are concatenated; `name` is the prefix of their convolutions' names."""

    name: str
    branches: tuple[tuple[Conv | Pool | Fork, ...], ...]


HALVE = Pool(ops.max_pool, 2, "valid")
MEAN = Pool(ops.average_pool)
MAXIMUM = Pool(ops.max_pool)


def _a(name: str, pooled: int) -> Fork:
    return Fork(
        name,
        (
            (Conv("branch1x1", 64),),
            (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, 5)),
            (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3)),
            (MEAN, Conv("branch_pool", pooled)),
        ),
    )


def _c(name: str, inner: int) -> Fork:
    row, column = (1, 7), (7, 1)
    return Fork(
        name,
        (
            (Conv("branch1x1", 192),),
            (Conv("branch7x7_1", inner), Conv("branch7x7_2", inner, row), Conv("branch7x7_3", 192, column)),
            (
                Conv("branch7x7dbl_1", inner),
                Conv("branch7x7dbl_2", inner, column),
                Conv("branch7x7dbl_3", inner, row),
                Conv("branch7x7dbl_4", inner, column),
                Conv("branch7x7dbl_5", 192, row),
            ),
            (MEAN, Conv("branch_pool", 192)),
        ),
    )


def _e(name: str, pool: Pool) -> Fork:
    row, column = (1, 3), (3, 1)
    return Fork(
        name,
        (
            (Conv("branch1x1", 320),),
            (
                Conv("branch3x3_1", 384),
                Fork("", ((Conv("branch3x3_2a", 384, row),), (Conv("branch3x3_2b", 384, column),))),
            ),
            (
                Conv("branch3x3dbl_1", 448),
                Conv("branch3x3dbl_2", 384, 3),
                Fork("", ((Conv("branch3x3dbl_3a", 384, row),), (Conv("branch3x3dbl_3b", 384, column),))),
            ),
            (pool, Conv("branch_pool", 192)),
        ),
    )


# Szegedy et al. 2016, as in the graph of 2015-12-05 that FID was defined by, whose last block pools the maximum.
NETWORK = (
    Conv("Conv2d_1a_3x3", 32, 3, 2, "valid"),
    Conv("Conv2d_2a_3x3", 32, 3, 1, "valid"),
    Conv("Conv2d_2b_3x3", 64, 3),
    HALVE,
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, 3, 1, "valid"),
    HALVE,
    _a("Mixed_5b", 32),
    _a("Mixed_5c", 64),
    _a("Mixed_5d", 64),
    Fork(
        "Mixed_6a",
        (
            (Conv("branch3x3", 384, 3, 2, "valid"),),
            (
                Conv("branch3x3dbl_1", 64),
                Conv("branch3x3dbl_2", 96, 3),
                Conv("branch3x3dbl_3", 96, 3, 2, "valid"),
            ),
            (HALVE,),
        ),
    ),
    _c("Mixed_6b", 128),
    _c("Mixed_6c", 160),
    _c("Mixed_6d", 160),
    _c("Mixed_6e", 192),
    Fork(
        "Mixed_7a",
        (
            (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, 3, 2, "valid")),
            (
                Conv("branch7x7x3_1", 192),
                Conv("branch7x7x3_2", 192, (1, 7)),
                Conv("branch7x7x3_3", 192, (7, 1)),
                Conv("branch7x7x3_4", 192, 3, 2, "valid"),
            ),
            (HALVE,),
        ),
    ),
    _e("Mixed_7b", MEAN),
    _e("Mixed_7c", MAXIMUM),
)


class Inception(keras.Model):
    """The network of the original FID. Images [B, 299, 299, 3] in [-1, 1] -> features float32 [B, 2048]."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolutions: dict[str, keras.layers.Layer] = {}
        self.norms: dict[str, keras.layers.Layer] = {}

    def build(self, input_shape=None):
        self._build(NETWORK, "", 3)
        self.built = True

    def _build(self, steps, prefix: str, channels: int) -> int:
        """Build the layers of a branch with `channels` at its start; return the channels at its end."""
        for step in steps:
            if isinstance(step, Fork):
                inner = f"{prefix}{step.name}." if step.name else prefix
                channels = sum(self._build(branch, inner, channels) for branch in step.branches)
            elif isinstance(step, Conv):
                name, shape = prefix + step.name, (None, None, None, channels)
                self.convolutions[name] = keras.layers.Conv2D(
                    step.channels,
                    step.kernel,
                    strides=step.strides,
                    padding=step.padding,
                    use_bias=False,
                    data_format=LAST,
                    name=f"{name}.conv",
                )
                self.convolutions[name].build(shape)
                channels = step.channels
                self.norms[name] = keras.layers.BatchNormalization(epsilon=1e-3, name=f"{name}.bn")
                self.norms[name].build((None, None, None, channels))
        return channels

    def call(self, images):
        return ops.mean(self._run(NETWORK, "", images), axis=(1, 2))

    def _run(self, steps, prefix: str, x):
        for step in steps:
            if isinstance(step, Fork):
                inner = f"{prefix}{step.name}." if step.name else prefix
                x = ops.concatenate([self._run(branch, inner, x) for branch in step.branches], axis=-1)
            elif isinstance(step, Pool):
                x = step.kind(x, 3, step.strides, step.padding, data_format="channels_last")
            else:
                name = prefix + step.name
                x = ops.relu(self.norms[name](self.convolutions[name](x), training=False))
        return x

    def get_config(self):
        return {"name": self.name}


def load_inception(source: str | Path) -> Callable[[np.ndarray], tf.Tensor]:
    """A function from images [B, H, W, 3] in [-1, 1] to Inception's features, float32 [B, 2048].

    Images are resized to 299 by linear interpolation without antialiasing, as pytorch-fid does: half-pixel centers.
    (The original program and torch-fidelity align the pixels' corners instead: for images of other sizes, their numbers
    differ a little.)

    Args:
        source: the original FID network, for numbers that can be compared with published ones: a safetensors file with
            the keys of pytorch-fid's network, which the package makes:

                import pytorch_fid.inception as fid, safetensors.torch
                safetensors.torch.save_file(fid.fid_inception_v3().state_dict(), "fid_inception.safetensors")

            Or Keras Applications' InceptionV3, whose numbers can only be compared with one another: "keras:FILE" with
            its weights without the classifier (.h5), or "keras", which lets Keras download them.

    Raises:
        UserError: a missing, truncated or foreign file, or a download that fails.
    """
    if str(source) == KERAS or str(source).startswith(f"{KERAS}:"):
        network = _keras_network(str(source)[len(KERAS) + 1 :])
    else:
        network = _fid_network(as_path(source))
    network.trainable = False

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], "float32")])
    def features(images):
        return network(tf.image.resize(images, (SIDE, SIDE), "bilinear", antialias=False), training=False)

    return features


def load_classifier(source: str | Path) -> np.ndarray | None:
    """The weights W [classes, 2048] of the classifier behind the features, float32; None if the file has none.

    The Inception Score's logits are W f for the features f: the original program leaves the bias out.

    Args:
        source: FID's network, see `load_inception`.

    Raises:
        UserError: see `load_inception`; weights of another shape.
    """
    path = as_path(source)
    refuse_pickles(path)
    tensors, _ = read_header(path)
    if CLASSIFIER not in tensors:
        return None
    stored = tensors[CLASSIFIER]
    if len(stored.shape) != 2 or stored.shape[1] != FEATURES:
        raise UserError(f"{path}: {CLASSIFIER} is {tuple(stored.shape)}, wanted (classes, {FEATURES}); write it again")
    return np.asarray(stored.read(), np.float32)


def _fid_network(path: Path) -> Inception:
    refuse_pickles(path)
    if path.suffix in (".h5", ".hdf5", ".keras"):
        raise UserError(f"{path}: a file of Keras; for Keras' InceptionV3, which is not FID's, name {KERAS}:{path}")
    tensors, _ = read_header(path)
    stored = {key: tensor for key, tensor in tensors.items() if not re.search(UNUSED, key)}
    with built_in(make_policy()):
        return make_from(lambda: make_network(Inception, {}, "inception"), stored, path, _origin)


def _origin(key: str, layout: Layout) -> Origin:
    return Origin(key.replace("moving_mean", "running_mean").replace("moving_variance", "running_var"), layout)


def _keras_network(file: str) -> keras.Model:
    application = keras.applications.InceptionV3
    shape = {"include_top": False, "pooling": "avg", "input_shape": (SIDE, SIDE, 3)}
    if not file:
        try:
            return application(weights="imagenet", **shape)
        except Exception as error:  # Keras raises no narrower exception
            raise UserError(
                f"{KERAS}: Keras could not download InceptionV3's weights ({_line(error)}); name its file, {KERAS}:FILE"
            ) from None
    if not as_path(file).is_file():
        raise UserError(f"{file}: no such weight file; name the .h5 file of Keras' InceptionV3 without its classifier")
    network = application(weights=None, **shape)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of groups that hold no weights; missing weights are errors
            network.load_weights(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: not the weights of Keras' InceptionV3 without its classifier ({_line(error)})"
        ) from None
    return network


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
