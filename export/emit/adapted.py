"""The adapted network as operations of a `graph.Graph`. Each adapter emits its part itself: `Adapter.emit_*`."""

from __future__ import annotations

from codi_tf.adapters.adapted import AdaptedUNet
from export.emit import networks
from export.emit.graph import Graph, Value


def condition_features(
    g: Graph, net: AdaptedUNet, c: Value, context: Value | None, condition_scale: float = 1.0
) -> list[Value]:
    """`AdaptedUNet.condition`, computed once per image; [] without an adapter.

    The condition counts `condition_scale` times in them, where that needs nothing in the steps (`neutral_features`).
    """
    if net.adapter is None:
        return []
    features = net.adapter.emit_condition(g, networks, c, context)
    neutral = net.adapter.neutral_features(len(features))
    if condition_scale == 1.0 or neutral is None:
        return features
    return [g.affine(h, condition_scale, (1.0 - condition_scale) * n) for h, n in zip(features, neutral, strict=True)]


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
    condition_scale: float = 1.0,
) -> tuple[list[Value], Value]:
    """The first half of an evaluation: (the adapted skips and, last, the middle; the time embedding).

    `time` and `guidance` are the features of a time and of a guidance weight, `label` is the embedding of a class.
    `condition_scale` is that of `AdaptedUNet`, for adapters whose condition features cannot be scaled themselves.
    """
    unet, adapter = net.unet, net.adapter
    temb = networks.time_embedding(g, unet.time_embedding, time, guidance)
    temb = temb if label is None else g.add(temb, label)
    first = None if adapter is None else adapter.emit_first_residual(condition_features)
    residuals = None if adapter is None else adapter.emit_residuals(condition_features)
    if adapter is not None and adapter.neutral_features(len(condition_features)) is not None:
        condition_scale = 1.0  # the features are scaled
    if condition_scale != 1.0:
        first = None if first is None else g.affine(first, condition_scale, 0.0)
        residuals = None if residuals is None else [g.affine(h, condition_scale, 0.0) for h in residuals]
    skips = networks.encode(g, unet, z, temb, context, hint=first, residuals=residuals)
    features = [*skips, networks.middle(g, unet, skips[-1], temb, context)]
    if adapter is not None:
        own = adapter.emit_adapt(g, networks, features, condition_features, z, time, context)
        if condition_scale != 1.0:
            own = [_moved(g, h, h_own, condition_scale) for h, h_own in zip(features, own, strict=True)]
        features = own
    return features, temb


def _moved(g: Graph, h: Value, own: Value, scale: float) -> Value:
    """h + K (h' - h)."""
    return h if own is h else g.add(g.affine(h, 1.0 - scale, 0.0), g.affine(own, scale, 0.0))
