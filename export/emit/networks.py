"""The forward passes of `codi_tf.models` as operations of a `graph.Graph`: batch 1, fixed sizes."""

from __future__ import annotations

import numpy as np
from keras import ops

from codi_tf.models.attention import Attention, SpatialAttention, SpatialTransformer
from codi_tf.models.autoencoder import AutoencoderKL, Coder, Level
from codi_tf.models.embeddings import TimeEmbedding
from codi_tf.models.layers import ResnetBlock
from codi_tf.models.pixels import PixelFolding
from codi_tf.models.text_encoder import TextEncoder
from codi_tf.models.tiny_decoder import BOUND, TinyBlock, TinyDecoder
from codi_tf.models.unet import UNet, UNetEncoder
from codi_tf.models.unet_blocks import Block
from export.emit.graph import Graph, Value

# Layers


def resnet_block(g: Graph, layer: ResnetBlock, x: Value, temb: Value | None = None) -> Value:
    """`layers.ResnetBlock`."""
    h = g.conv(g.silu(g.group_norm(x, layer.norm1)), layer.conv1)
    if layer.time_emb_proj is not None:
        assert temb is not None
        h = g.add(h, g.dense(g.silu(temb), layer.time_emb_proj))
    h = g.conv(g.silu(g.group_norm(h, layer.norm2)), layer.conv2)
    return g.add(h, x if layer.conv_shortcut is None else g.conv(x, layer.conv_shortcut))


def attention(g: Graph, layer: Attention, x: Value, context: Value | None = None) -> Value:
    """`attention.Attention`."""
    context = x if context is None else context
    heads = g.attention(g.dense(x, layer.to_q), g.dense(context, layer.to_k), g.dense(context, layer.to_v), layer.heads)
    return g.dense(heads, layer.to_out)


def spatial_attention(g: Graph, layer: SpatialAttention, x: Value) -> Value:
    """`attention.SpatialAttention`."""
    h = g.group_norm(x, layer.group_norm)
    q, k, v = (g.project_in(h, part) for part in (layer.to_q, layer.to_k, layer.to_v))
    return g.add(x, g.project_out(g.attention(q, k, v, layer.heads), layer.to_out, (x.shape[0], x.shape[1])))


def spatial_transformer(g: Graph, layer: SpatialTransformer, x: Value, context: Value) -> Value:
    """`attention.SpatialTransformer`."""
    h, block = g.project_in(g.group_norm(x, layer.norm), layer.proj_in), layer.block
    h = g.add(h, attention(g, block.attn1, g.layer_norm(h, block.norm1)))
    h = g.add(h, attention(g, block.attn2, g.layer_norm(h, block.norm2), context))
    wide = g.dense(g.layer_norm(h, block.norm3), block.ff.proj)
    half = wide.shape[-1] // 2
    gate = g.gelu(g.channels(wide, half, 2 * half), "gelu_pytorch_tanh" if block.ff.tanh_gelu else "gelu")
    h = g.add(h, g.dense(g.multiply(g.channels(wide, 0, half), gate), block.ff.out))
    return g.add(x, g.project_out(h, layer.proj_out, (x.shape[0], x.shape[1])))


def of_time(t: int, layer: TimeEmbedding) -> np.ndarray:
    """The features of a time that an embedding takes, float32 [channels]."""
    return ops.convert_to_numpy(layer.features([t]))[0]


def time_embedding(g: Graph, layer: TimeEmbedding, features: Value, condition: Value | None = None) -> Value:
    """`embeddings.TimeEmbedding` of the features of a time."""
    if condition is not None:
        features = g.add(features, g.dense(condition, layer.cond_proj))
    return g.dense(g.silu(g.dense(features, layer.linear_1)), layer.linear_2)


# UNet


def stage(g: Graph, block: Block, i: int, h: Value, temb: Value, context: Value) -> Value:
    """`unet.Block.stage`."""
    h = resnet_block(g, block.resnets[i], h, temb)
    if i >= block.transformers:
        return h
    layer = block.attentions[i]
    if isinstance(layer, SpatialAttention):
        return spatial_attention(g, layer, h)
    return spatial_transformer(g, layer, h, context)


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
    if net.mid_block is None:
        return h
    for i in range(len(net.mid_block.resnets)):
        h = stage(g, net.mid_block, i, h, temb, context)
    return h


def decode(g: Graph, net: UNet, h: Value, skips: list[Value], temb: Value, context: Value) -> Value:
    """`UNet.decode`."""
    skips = list(skips)
    for block in net.up_blocks:
        for i in range(len(block.resnets)):
            h = stage(g, block, i, g.concatenate(h, skips.pop()), temb, context)
        if block.upsampler is not None:
            h = g.conv(g.upsample_nearest(h), block.upsampler.conv)
    return g.conv(g.silu(g.group_norm(h, net.conv_norm_out)), net.conv_out)


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


def autoencoder_encode(g: Graph, net: AutoencoderKL | PixelFolding, images: Value) -> Value:
    """The mean of the posterior of `AutoencoderKL.encode`, `PixelFolding.encode`: (f h, f w, 3) -> (h, w, C)."""
    patches = images if net.patch_size == 1 else g.space_to_depth(images, net.patch_size)
    if isinstance(net, PixelFolding):
        return patches
    mean = g.channels(g.conv(coder(g, net.encoder, patches), net.quant_conv), 0, net.latent_channels)
    if net.shortcut_in is None:
        return mean
    return g.add(mean, g.conv(g.space_to_depth(images, net.factor), net.shortcut_in))


def autoencoder_decode(g: Graph, net: AutoencoderKL | PixelFolding, latents: Value) -> Value:
    """`AutoencoderKL.decode`, `PixelFolding.decode`: (h, w, C) -> (f h, f w, 3)."""
    pixels = isinstance(net, PixelFolding)
    patches = latents if pixels else coder(g, net.decoder, g.conv(latents, net.post_quant_conv))
    images = patches if net.patch_size == 1 else g.depth_to_space(patches, net.patch_size)
    if pixels or net.shortcut_out is None:
        return images
    return g.add(images, g.depth_to_space(g.conv(latents, net.shortcut_out), net.factor))


def tiny_decoder(g: Graph, net: TinyDecoder, z: Value) -> Value:
    """`TinyDecoder`: scaled latents (h, w, C) -> an image (f h, f w, 3), about [-1, 1]."""
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
        attn, x = layer.self_attn, g.layer_norm(h, layer.layer_norm1)
        q, k, v = (g.dense(x, part) for part in (attn.q_proj, attn.k_proj, attn.v_proj))
        h = g.add(h, g.dense(g.attention(q, k, v, attn.heads, causal=attn.causal), attn.out_proj))
        wide = g.gelu(g.dense(g.layer_norm(h, layer.layer_norm2), layer.fc1), layer.activation)
        h = g.add(h, g.dense(wide, layer.fc2))
    return g.layer_norm(h, net.final_layer_norm)
