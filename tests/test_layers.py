"""The layers against explicit float64 NumPy, and what Keras asks of every layer."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tensorflow as tf
from tiny import randomize

from codi_tf.models import attention, embeddings, layers
from codi_tf.models.autoencoder import Coder, Level, Middle
from codi_tf.models.unet_blocks import DownBlock, MiddleBlock, UpBlock


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def awake(layer, input_shape=None):
    """The layer, built, with no weight that is 0 or 1 by chance of its initialization."""
    layer.build(input_shape)
    randomize(layer.variables)
    return layer


def weight(layer, name):
    return getattr(layer, name).numpy().astype("float64")


# The formulas


def convolve(x, kernel, bias, *, stride=1, pads=(1, 1)):
    """Cross-correlation, written as its definition."""
    x = np.pad(x.astype("float64"), [(0, 0), pads, pads, (0, 0)])
    size = kernel.shape[0]
    rows, columns = ((x.shape[axis] - size) // stride + 1 for axis in (1, 2))
    out = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, i, j] = np.tensordot(patch, kernel, axes=3)
    return out + bias


def group_norm(x, layer):
    x = x.astype("float64")
    grouped = x.reshape(*x.shape[:3], layer.groups, -1)
    mean, variance = (f(grouped, axis=(1, 2, 4), keepdims=True) for f in (np.mean, np.var))
    normal = ((grouped - mean) / np.sqrt(variance + layer.epsilon)).reshape(x.shape)
    return normal * weight(layer, "gamma") + weight(layer, "beta")


def layer_norm(x, layer):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * weight(layer, "gamma") + weight(layer, "beta")


def dense(x, layer):
    return x @ weight(layer, "kernel") + (weight(layer, "bias") if layer.use_bias else 0.0)


def silu(x):
    return x / (1 + np.exp(-x))


def attended(x, context, layer):
    q, k, v = dense(x, layer.to_q), dense(context, layer.to_k), dense(context, layer.to_v)
    width = layer.channels // layer.heads
    out = np.zeros_like(q)
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        logits = q[..., part] @ np.swapaxes(k[..., part], -1, -2) / math.sqrt(width)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        out[..., part] = weights / weights.sum(-1, keepdims=True) @ v[..., part]
    return dense(out, layer.to_out)


def geglu(x, layer):
    value, gate = np.split(dense(x, layer.proj), 2, axis=-1)
    gelu = 0.5 * gate * (1 + np.vectorize(math.erf)(gate / math.sqrt(2)))
    return dense(value * gelu, layer.out)


@pytest.mark.parametrize("groups", [1, 3, 12])
def test_group_norm(groups):
    layer = awake(layers.GroupNorm(12, groups, 1e-5))
    x = 3 * random(0, 2, 5, 7, 12) + np.arange(12, dtype="float32")
    np.testing.assert_allclose(layer(x), group_norm(x, layer), rtol=0, atol=2e-5)


def test_group_norm_of_a_constant_is_its_offset():
    layer = awake(layers.GroupNorm(4, 2, 1e-5))
    out = layer(np.full((1, 3, 3, 4), 1000.0, "float32"))
    np.testing.assert_allclose(out, np.broadcast_to(layer.beta, out.shape), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("size", "height"), [(1, 5), (3, 5), (3, 6)])
def test_convolution_with_stride_1(size, height):
    layer = awake(layers.Conv2D(6, size), (None, None, None, 4))
    x = random(0, 2, height, 7, 4)
    expected = convolve(x, weight(layer, "kernel"), weight(layer, "bias"), pads=(size // 2, size // 2))
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("symmetric", "pads"), [(True, (1, 1)), (False, (0, 1))])
@pytest.mark.parametrize("height", [6, 8])
def test_downsampling_pads_as_its_checkpoint_was_trained(symmetric, pads, height):
    layer = awake(layers.Downsample(4, symmetric_padding=symmetric))
    x = random(0, 2, height, 4, 4)
    expected = convolve(x, weight(layer.conv, "kernel"), weight(layer.conv, "bias"), stride=2, pads=pads)
    assert expected.shape == (2, height // 2, 2, 4)
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-5)


def test_upsampling_repeats_and_convolves():
    layer = awake(layers.Upsample(4))
    x = random(0, 2, 3, 5, 4)
    repeated = x.repeat(2, axis=1).repeat(2, axis=2)
    expected = convolve(repeated, weight(layer.conv, "kernel"), weight(layer.conv, "bias"))
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-5)


def test_time_embedding_is_cosines_then_sines():
    layer = awake(embeddings.TimeEmbedding(8))
    t = np.array([0, 1, 500, 999], "int32")
    angles = t[:, None] * 10000.0 ** (-np.arange(4) / 4)
    features = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    expected = dense(silu(dense(features, layer.linear_1)), layer.linear_2)
    np.testing.assert_allclose(layer(t), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("channels_out", [4, 8])
@pytest.mark.parametrize("time_channels", [None, 6])
def test_resnet_block(channels_out, time_channels):
    layer = awake(layers.ResnetBlock(4, channels_out, groups=2, epsilon=1e-5, time_channels=time_channels))
    x, temb = random(0, 2, 4, 4, 4), random(1, 2, 6)

    def convolution(h, conv):
        pads = (conv.kernel_size[0] // 2,) * 2
        return convolve(h, weight(conv, "kernel"), weight(conv, "bias"), pads=pads)

    h = convolution(silu(group_norm(x, layer.norm1)), layer.conv1)
    if time_channels:
        h = h + dense(silu(temb.astype("float64")), layer.time_emb_proj)[:, None, None]
    h = convolution(silu(group_norm(h, layer.norm2)), layer.conv2)
    h = h + (x if channels_out == 4 else convolution(x, layer.conv_shortcut))
    np.testing.assert_allclose(layer(x, temb), h, rtol=0, atol=1e-4)


@pytest.mark.parametrize("heads", [1, 2, 8])
@pytest.mark.parametrize("cross", [False, True])
def test_attention(heads, cross):
    layer = awake(attention.Attention(8, heads, context_channels=6 if cross else None, qkv_bias=not cross))
    x, context = random(0, 2, 5, 8), random(1, 2, 3, 6)
    out = layer(x, context) if cross else layer(x)
    np.testing.assert_allclose(out, attended(x, context if cross else x, layer), rtol=0, atol=1e-5)


def test_one_context_serves_the_whole_batch():
    layer = awake(attention.Attention(8, 2, context_channels=6))
    x, context = random(0, 3, 5, 8), random(1, 1, 4, 6)
    np.testing.assert_allclose(layer(x, context), layer(x, context.repeat(3, axis=0)), rtol=0, atol=1e-6)


def test_feed_forward_has_the_exact_gelu():
    layer = awake(attention.FeedForward(4))
    layer.proj.kernel.assign(4 * layer.proj.kernel)  # gates of a few units, where GELU and its tanh form differ by 4e-4
    x = random(0, 2, 50, 4)
    np.testing.assert_allclose(layer(x), geglu(x, layer), rtol=0, atol=5e-5)


@pytest.mark.parametrize("linear", [False, True])
def test_spatial_transformer(linear):
    layer = awake(attention.SpatialTransformer(8, 2, 6, groups=2, linear_projection=linear))
    x, context = random(0, 2, 3, 4, 8), random(1, 2, 5, 6)

    def project(h, projection):
        return h @ weight(projection, "kernel").reshape(8, 8) + weight(projection, "bias")

    block = layer.block
    assert layer.norm.epsilon == 1e-6
    h = project(group_norm(x, layer.norm), layer.proj_in).reshape(2, 12, 8)
    normal = layer_norm(h, block.norm1)
    h = h + attended(normal, normal, block.attn1)
    h = h + attended(layer_norm(h, block.norm2), context.astype("float64"), block.attn2)
    h = h + geglu(layer_norm(h, block.norm3), block.ff)
    expected = x + project(h.reshape(2, 3, 4, 8), layer.proj_out)
    np.testing.assert_allclose(layer(x, context), expected, rtol=0, atol=2e-4)


def test_spatial_attention():
    layer = awake(attention.SpatialAttention(8, groups=2))
    x = random(0, 2, 3, 4, 8)
    tokens = group_norm(x, layer.group_norm).reshape(2, 12, 8)
    expected = x + attended(tokens, tokens, layer).reshape(x.shape)
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.GroupNorm(10, 4), "10 channels cannot be split into 4 groups"),
        (lambda: attention.Attention(10, 4), "10 channels cannot be split into 4 heads"),
    ],
)
def test_what_cannot_be_split_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Every layer

IMAGE, WIDE, TOKENS, CONTEXT, TEMB = (
    random(i, *shape) for i, shape in enumerate([(2, 4, 4, 4), (2, 4, 4, 8), (2, 5, 8), (2, 3, 6), (2, 16)])
)
BLOCK = {"time_channels": 16, "groups": 2, "transformer": {"heads": 2, "context_channels": 6}}
CASES = {
    "Conv2D": (lambda: layers.Conv2D(6, name="a"), (IMAGE,)),
    "Conv2D, stride 2": (lambda: layers.Conv2D(6, strides=2, symmetric_padding=False, name="a"), (IMAGE,)),
    "PointwiseConv2D": (lambda: layers.PointwiseConv2D(6, use_bias=False, name="a"), (IMAGE,)),
    "GroupNorm": (lambda: layers.GroupNorm(4, 2, 1e-3, name="a"), (IMAGE,)),
    "TimeEmbedding": (lambda: embeddings.TimeEmbedding(8, name="a"), (np.array([3, 700]),)),
    "ResnetBlock": (
        lambda: layers.ResnetBlock(4, 8, groups=2, epsilon=1e-5, time_channels=16, name="a"),
        (IMAGE, TEMB),
    ),
    "Downsample": (lambda: layers.Downsample(4, symmetric_padding=False, name="a"), (IMAGE,)),
    "Upsample": (lambda: layers.Upsample(4, name="a"), (IMAGE,)),
    "Attention": (lambda: attention.Attention(8, 2, context_channels=6, name="a"), (TOKENS, CONTEXT)),
    "SpatialAttention": (lambda: attention.SpatialAttention(4, groups=2, name="a"), (IMAGE,)),
    "FeedForward": (lambda: attention.FeedForward(8, name="a"), (TOKENS,)),
    "TransformerBlock": (lambda: attention.TransformerBlock(8, 2, 6, name="a"), (TOKENS, CONTEXT)),
    "SpatialTransformer": (lambda: attention.SpatialTransformer(4, 2, 6, groups=2, name="a"), (IMAGE, CONTEXT)),
    "SpatialTransformer, linear": (
        lambda: attention.SpatialTransformer(4, 2, 6, groups=2, linear_projection=True, name="a"),
        (IMAGE, CONTEXT),
    ),
    "DownBlock": (
        lambda: DownBlock([4, 8], 8, transformers=2, downsample=True, name="a", **BLOCK),
        (IMAGE, TEMB, CONTEXT),
    ),
    "MiddleBlock": (lambda: MiddleBlock([8, 8], 8, transformers=1, name="a", **BLOCK), (WIDE, TEMB, CONTEXT)),
    "UpBlock": (
        lambda: UpBlock([12, 16], 8, transformers=2, upsample=True, name="a", **BLOCK),
        (IMAGE, [WIDE, WIDE], TEMB, CONTEXT),
    ),
    "Level": (lambda: Level(4, 8, count=2, groups=2, epsilon=1e-6, resample="down", name="a"), (IMAGE,)),
    "Middle": (lambda: Middle(4, groups=2, epsilon=1e-6, attention=True, name="a"), (IMAGE,)),
    "Coder": (
        lambda: Coder(4, 6, (4, 8), layers_per_block=1, groups=2, epsilon=1e-6, attention=True, up=True, name="a"),
        (IMAGE,),
    ),
}


def made(name):
    make, inputs = CASES[name]
    return awake(make(), inputs[0].shape), inputs


def arrays(out):
    return [np.asarray(part) for part in (out if isinstance(out, list) else [out])]


@pytest.mark.parametrize("name", CASES)
def test_its_config_makes_the_same_layer(name):
    layer, inputs = made(name)
    again = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    again.build(inputs[0].shape)
    assert [v.path for v in again.variables] == [v.path for v in layer.variables]
    for source, target in zip(layer.variables, again.variables, strict=True):
        target.assign(source)
    for expected, out in zip(arrays(layer(*inputs)), arrays(again(*inputs)), strict=True):
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", CASES)
def test_eager_and_compiled_agree_and_gradients_reach_every_weight(name):
    layer, inputs = made(name)
    inputs = tf.nest.map_structure(tf.constant, inputs)

    @tf.function
    def compiled():
        with tf.GradientTape() as tape:
            out = layer(*inputs)
            parts = out if isinstance(out, list) else [out]
            loss = tf.add_n([tf.reduce_sum(part * tf.cos(part)) for part in parts])
        return parts, tape.gradient(loss, layer.trainable_variables)

    parts, gradients = compiled()
    for expected, out in zip(arrays(layer(*inputs)), parts, strict=True):
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-4)
    for variable, gradient in zip(layer.trainable_variables, gradients, strict=True):
        # The softmax does not see what is added to all keys.
        assert ("to_k/bias" in variable.path) or np.abs(gradient).max() > 1e-5, variable.path
