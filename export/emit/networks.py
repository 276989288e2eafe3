"""Our networks, as the operations of a `graph.Graph`: the forward passes of `codi_tf.models`, batch 1, fixed sizes."""

from __future__ import annotations

import numpy as np
from keras import ops

from codi_tf.core.errors import UserError
from codi_tf.models.adapter import AdaptedUNet, MuAdapter
from codi_tf.models.attention import Attention, SpatialAttention, SpatialTransformer
from codi_tf.models.autoencoder import Coder, Level
from codi_tf.models.controlnet import ControlNet
from codi_tf.models.embeddings import TimeEmbedding, time_features
from codi_tf.models.layers import ResnetBlock
from codi_tf.models.t2i_adapter import T2IAdapter
from codi_tf.models.text_encoder import TextEncoder
from codi_tf.models.tiny_decoder import BOUND, TinyBlock, TinyDecoder
from codi_tf.models.unet import Block, UNet, UNetEncoder
from export.emit.graph import Graph, Value

# Layers


def resnet_block(g: Graph, layer: ResnetBlock, x: Value, temb: Value | None = None) -> Value:
    """`layers.ResnetBlock`."""
    h = g.conv(g.silu(g.group_norm(x, layer.norm1)), layer.conv1)
    if layer.time_emb_proj is not None:
        h = g.add(h, g.dense(g.silu(temb), layer.time_emb_proj))
    h = g.conv(g.silu(g.group_norm(h, layer.norm2)), layer.conv2)
    return g.add(h, x if layer.conv_shortcut is None else g.conv(x, layer.conv_shortcut))


def attention(g: Graph, layer: Attention, x: Value, context: Value | None = None) -> Value:
    """`layers.Attention`."""
    context = x if context is None else context
    heads = g.attention(g.dense(x, layer.to_q), g.dense(context, layer.to_k), g.dense(context, layer.to_v), layer.heads)
    return g.dense(heads, layer.to_out)


def spatial_attention(g: Graph, layer: SpatialAttention, x: Value) -> Value:
    """`layers.SpatialAttention`."""
    h = g.group_norm(x, layer.group_norm)
    q, k, v = (g.project_in(h, part) for part in (layer.to_q, layer.to_k, layer.to_v))
    return g.add(x, g.project_out(g.attention(q, k, v, 1), layer.to_out, x.shape[:2]))


def spatial_transformer(g: Graph, layer: SpatialTransformer, x: Value, context: Value) -> Value:
    """`layers.SpatialTransformer`."""
    h, block = g.project_in(g.group_norm(x, layer.norm), layer.proj_in), layer.block
    h = g.add(h, attention(g, block.attn1, g.layer_norm(h, block.norm1)))
    h = g.add(h, attention(g, block.attn2, g.layer_norm(h, block.norm2), context))
    wide = g.dense(g.layer_norm(h, block.norm3), block.ff.proj)
    half = wide.shape[-1] // 2
    gate = g.gelu(g.channels(wide, half, 2 * half), "gelu_pytorch_tanh" if block.ff.tanh_gelu else "gelu")
    h = g.add(h, g.dense(g.multiply(g.channels(wide, 0, half), gate), block.ff.out))
    return g.add(x, g.project_out(h, layer.proj_out, x.shape[:2]))


def of_time(t: int, channels: int) -> np.ndarray:
    """What networks see of a time: `layers.time_features`, float32 [channels]."""
    return ops.convert_to_numpy(time_features([t], channels))[0]


def time_embedding(g: Graph, layer: TimeEmbedding, features: Value, condition: Value | None = None) -> Value:
    """`layers.TimeEmbedding` of the features of a time."""
    if condition is not None:
        features = g.add(features, g.dense(condition, layer.cond_proj))
    return g.dense(g.silu(g.dense(features, layer.linear_1)), layer.linear_2)


# UNet


def stage(g: Graph, block: Block, i: int, h: Value, temb: Value, context: Value) -> Value:
    """`unet.Block.stage`."""
    h = resnet_block(g, block.resnets[i], h, temb)
    return spatial_transformer(g, block.attentions[i], h, context) if i < block.transformers else h


def encode(
    g: Graph,
    net: UNetEncoder,
    z: Value,
    temb: Value,
    context: Value,
    hint: Value | None = None,
    residuals: list[Value] | None = None,
) -> list[Value]:
    """`UNetEncoder.encode`: the skips."""
    h = g.conv(z, net.conv_in)
    skips = [h if hint is None else g.add(h, hint)]
    for level, block in enumerate(net.down_blocks):
        h = skips[-1]
        for i in range(len(block.resnets)):
            h = stage(g, block, i, h, temb, context)
            if residuals is not None and i + 1 == len(block.resnets):
                h = g.add(h, residuals[level])
            skips.append(h)
        if block.downsampler is not None:
            skips.append(g.conv(h, block.downsampler.conv))
    return skips


def middle(g: Graph, net: UNetEncoder, h: Value, temb: Value, context: Value) -> Value:
    """`UNetEncoder.middle`."""
    return stage(g, net.mid_block, 1, stage(g, net.mid_block, 0, h, temb, context), temb, context)


def decode(g: Graph, net: UNet, h: Value, skips: list[Value], temb: Value, context: Value) -> Value:
    """`UNet.decode`."""
    skips = list(skips)
    for block in net.up_blocks:
        for i in range(len(block.resnets)):
            h = stage(g, block, i, g.concatenate(h, skips.pop()), temb, context)
        if block.upsampler is not None:
            h = g.conv(g.upsample_nearest(h), block.upsampler.conv)
    return g.conv(g.silu(g.group_norm(h, net.conv_norm_out)), net.conv_out)


# Adapters


def condition(g: Graph, adapter, c: Value, context: Value | None) -> list[Value]:
    """What does not depend on z_t and t: the adapter's `condition`.

    Of a MuAdapter mu h_eta(c), feature by feature, and, last, all of (1 - mu): `adapted` needs no weight of it.
    """
    if isinstance(adapter, MuAdapter):
        net = adapter.encoder
        temb = time_embedding(g, net.time_embedding, g.constant(of_time(0, net.time_embedding.channels)))
        skips = encode(g, net, c, temb, context)
        mu = g.weight(adapter.mu)
        features = [*skips, middle(g, net, skips[-1], temb, context)]
        return [*(g.multiply(h, g.channels(mu, i, i + 1)) for i, h in enumerate(features)), g.affine(mu, -1.0, 1.0)]
    if isinstance(adapter, ControlNet):
        h, hint = g.affine(c, 0.5, 0.5), adapter.hint
        for conv in (hint.conv_in, *hint.blocks):
            h = g.silu(g.conv(h, conv))
        return [g.conv(h, hint.conv_out)]
    if isinstance(adapter, T2IAdapter):
        return _t2i_features(g, adapter, g.affine(c, 0.5, 0.5))
    raise UserError(f"{type(adapter).__name__} cannot be exported")


def _t2i_features(g: Graph, adapter: T2IAdapter, image: Value) -> list[Value]:
    h = g.pixel_unshuffle(image, adapter.downscale_factor)
    h = h if adapter.conv_in is None else g.conv(h, adapter.conv_in)
    features = []
    for block in adapter.body:
        h = g.downsample_mean(h) if block.down else h
        h = h if block.in_conv is None else g.conv(h, block.in_conv)
        for resnet in block.resnets:
            h = g.add(h, g.conv(g.relu(g.conv(h, resnet.block1)), resnet.block2))
        h = h if block.out_conv is None else g.conv(h, block.out_conv)
        features.append(h)
    return features


def adapted(
    g: Graph, adapter, features: list[Value], condition_features: list[Value], z: Value, time: Value, context: Value
) -> list[Value]:
    """The adapter's `adapt`: the UNet's features, with what `condition` told."""
    if isinstance(adapter, MuAdapter):
        *condition_features, weight_formats = condition_features
        return [
            g.add(g.multiply(h, g.channels(weight_formats, i, i + 1)), h_c)
            for i, (h, h_c) in enumerate(zip(features, condition_features, strict=True))
        ]
    if isinstance(adapter, ControlNet):
        temb = time_embedding(g, adapter.time_embedding, time)
        skips = encode(g, adapter, z, temb, context, hint=condition_features[0])
        own = [*skips, middle(g, adapter, skips[-1], temb, context)]
        return [
            g.add(h, g.conv(h_c, conv))
            for h, h_c, conv in zip(features, own, (*adapter.zero_convs, adapter.zero_middle), strict=True)
        ]
    return features


def adapted_unet(
    g: Graph, net: AdaptedUNet, z: Value, time: Value, condition_features: list[Value], context: Value, **options
) -> Value:
    """`AdaptedUNet`: one evaluation, both of its halves."""
    features, temb = adapted_features(g, net, z, time, condition_features, context, **options)
    return decode(g, net.unet, features[-1], features[:-1], temb, context)


def adapted_features(
    g: Graph,
    net: AdaptedUNet,
    z: Value,
    time: Value,
    condition_features: list[Value],
    context: Value,
    guidance: Value | None = None,
) -> tuple[list[Value], Value]:
    """The first half of an evaluation: the adapted skips, last the middle, and the time's embedding.

    `time` and `guidance` are the features of a time and of a guidance weight.
    """
    unet, adapter = net.unet, net.adapter
    temb = time_embedding(g, unet.time_embedding, time, guidance)
    skips = encode(g, unet, z, temb, context, residuals=condition_features if isinstance(adapter, T2IAdapter) else None)
    features = [*skips, middle(g, unet, skips[-1], temb, context)]
    return adapted(g, adapter, features, condition_features, z, time, context), temb


# Autoencoder, small decoder and text encoder


def coder(g: Graph, net: Coder, h: Value) -> Value:
    """`autoencoder.Coder`: encoder or decoder."""
    h = g.conv(h, net.conv_in)
    for part in (net.mid_block, *net.levels) if net.up else (*net.levels, net.mid_block):
        h = _level(g, part, h) if isinstance(part, Level) else _vae_middle(g, part, h)
    return g.conv(g.silu(g.group_norm(h, net.conv_norm_out)), net.conv_out)


def _level(g: Graph, level: Level, h: Value) -> Value:
    for block in level.resnets:
        h = resnet_block(g, block, h)
    if level.resampler is None:
        return h
    return g.conv(g.upsample_nearest(h) if level.resample == "up" else h, level.resampler.conv)


def _vae_middle(g: Graph, part, h: Value) -> Value:
    h = resnet_block(g, part.resnets[0], h)
    for layer in part.attentions:
        h = spatial_attention(g, layer, h)
    return resnet_block(g, part.resnets[1], h)


def tiny_decoder(g: Graph, net: TinyDecoder, z: Value) -> Value:
    """`TinyDecoder`: scaled latents (h, w, C) -> a picture (f h, f w, 3), about [-1, 1]."""
    z = g.affine(g.tanh(g.affine(z, 1.0 / BOUND, 0.0)), BOUND, 0.0)
    h = g.relu(g.conv(z, net.conv_in))
    for layer in net.body:
        h = _tiny_block(g, layer, h) if isinstance(layer, TinyBlock) else g.conv(g.upsample_nearest(h), layer)
    return g.affine(g.conv(h, net.conv_out), 2.0, -1.0)


def _tiny_block(g: Graph, block: TinyBlock, x: Value) -> Value:
    first, second, third = block.convs
    return g.relu(g.add(x, g.conv(g.relu(g.conv(g.relu(g.conv(x, first)), second)), third)))


def text_encoder(g: Graph, net: TextEncoder, ids: Value) -> Value:
    """`TextEncoder`: int32 (N,) -> (N, D)."""
    h = g.add(g.embedding(ids, net.token_embedding), g.weight(net.position_embedding.embeddings, rows=ids.shape[0]))
    for layer in net.encoder_layers:
        own, x = layer.self_attn, g.layer_norm(h, layer.layer_norm1)
        q, k, v = (g.dense(x, part) for part in (own.q_proj, own.k_proj, own.v_proj))
        h = g.add(h, g.dense(g.attention(q, k, v, own.heads, causal=own.causal), own.out_proj))
        wide = g.gelu(g.dense(g.layer_norm(h, layer.layer_norm2), layer.fc1), layer.activation)
        h = g.add(h, g.dense(wide, layer.fc2))
    return g.layer_norm(h, net.final_layer_norm)
