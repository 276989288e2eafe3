"""The adapted network as operations of a `graph.Graph`. Each adapter emits its part itself: `Adapter.emit_*`."""

from __future__ import annotations

from codi_tf.adapters.adapted import AdaptedUNet
from export.emit import networks
from export.emit.graph import Graph, Value


def condition_features(g: Graph, net: AdaptedUNet, c: Value, context: Value | None) -> list[Value]:
    """`AdaptedUNet.condition`, computed once per image; [] without an adapter."""
    return [] if net.adapter is None else net.adapter.emit_condition(g, networks, c, context)


def evaluation(
    g: Graph, net: AdaptedUNet, z: Value, time: Value, condition_features: list[Value], context: Value, **options
) -> Value:
    """`AdaptedUNet`: one whole evaluation, z (h, w, C) -> (h, w, out_channels). Arguments as in `first_half`."""
    features, temb = first_half(g, net, z, time, condition_features, context, **options)
    return networks.decode(g, net.unet, features[-1], features[:-1], temb, context)


def first_half(
    g: Graph,
    net: AdaptedUNet,
    z: Value,
    time: Value,
    condition_features: list[Value],
    context: Value,
    guidance: Value | None = None,
    label: Value | None = None,
) -> tuple[list[Value], Value]:
    """The first half of an evaluation: (the adapted skips and, last, the middle; the time embedding).

    `time` and `guidance` are the features of a time and of a guidance weight, `label` is the embedding of a class.
    """
    unet, adapter = net.unet, net.adapter
    temb = networks.time_embedding(g, unet.time_embedding, time, guidance)
    temb = temb if label is None else g.add(temb, label)
    first = None if adapter is None else adapter.emit_first_residual(condition_features)
    residuals = None if adapter is None else adapter.emit_residuals(condition_features)
    skips = networks.encode(g, unet, z, temb, context, hint=first, residuals=residuals)
    features = [*skips, networks.middle(g, unet, skips[-1], temb, context)]
    if adapter is not None:
        features = adapter.emit_adapt(g, networks, features, condition_features, z, time, context)
    return features, temb
