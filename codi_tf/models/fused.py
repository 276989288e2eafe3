"""Normalization, attention and activations as single functions with gradients in closed form.

The same values as the plain operations, up to rounding, and gradients of first order. Automatic differentiation stores
every intermediate map and goes over memory once for each operation; these store their inputs alone, and compute in
float32 with any dtype. Where a map is large enough, its element-wise operations are compiled into one loop.
"""

from __future__ import annotations

import math

import tensorflow as tf

from codi_tf.models.convolution import on_processor

COMPILED = 2**16  # elements of a map whose element-wise operations are compiled


def _loop(function):
    """An element-wise function of maps, compiled for large ones; the first argument gives the size."""
    compiled = tf.function(function, autograph=False, jit_compile=True)

    def run(*args):
        size = args[0].shape.num_elements()
        large = size is not None and size >= COMPILED and on_processor() and not tf.distribute.has_strategy()
        return (compiled if large else function)(*args)

    return run


def _wide(x):
    return tf.cast(x, tf.float32)


# Group normalization and SiLU


@_loop
def _squares(x, mean):
    return tf.square(_wide(x) - mean)


@_loop
def _products(x, dy, mean, rate):
    d = _wide(dy)
    return d, d * ((_wide(x) - mean) * rate)


@_loop
def _silu_products(x, dy, mean, rate, gamma, beta):
    h = (_wide(x) - mean) * rate
    u = h * gamma + beta
    s = tf.sigmoid(u)
    d = _wide(dy) * (s * (1.0 + u * (1.0 - s)))
    return d, d * h


@_loop
def _combined(x, du, mean, a, b, c):
    return tf.cast(du * a + (_wide(x) - mean) * b + c, x.dtype)


def group_norm(x, gamma, beta, shift=None, *, groups: int, epsilon: float, silu: bool):
    """silu(GroupNorm(x + shift)), or without silu: [B, H, W, C] -> [B, H, W, C] in the dtype of x.

    Args:
        x: the map.
        gamma, beta: [C].
        shift: [B or 1, 1, 1, C], added before; None for nothing.
        groups, epsilon: see `layers.GroupNorm`.
        silu: whether x sigmoid(x) follows.
    """
    gamma, beta = tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta)  # variables are no arguments of gradients
    channels = x.shape[3]

    def of_groups(v):  # [B, 1, 1, C]: the mean of each channel's group
        mean = tf.reduce_mean(tf.reshape(v, (-1, groups, channels // groups)), axis=-1, keepdims=True)
        return tf.reshape(mean + tf.zeros((1, 1, channels // groups)), (-1, 1, 1, channels))  # static shapes

    def over_space(v):  # [B, H, W, C] -> [B, 1, 1, C], the mean
        # Over columns, then rows: each reduction runs along contiguous memory and adds few numbers.
        return tf.reduce_mean(tf.reduce_mean(v, axis=2, keepdims=True), axis=1, keepdims=True)

    def run(x, gamma, beta, *shifts):
        z = _wide(x) + _wide(shifts[0]) if shifts else _wide(x)
        own = over_space(z)  # [B, 1, 1, C]
        mean = of_groups(own)
        apart = own - mean
        z = z - mean
        rate = tf.math.rsqrt(of_groups(over_space(tf.square(z))) + epsilon)
        scale = rate * _wide(gamma)
        y = tf.cast(z * scale + _wide(beta), x.dtype)
        y = y * tf.sigmoid(y) if silu else y  # one operation, where nothing else takes the sigmoid
        if shifts:  # from here on it is the mean of x
            mean = mean - _wide(shifts[0])

        def gradient(dy):
            if silu:
                du, dh = _silu_products(x, dy, mean, rate, _wide(gamma), _wide(beta))
            else:
                du, dh = _products(x, dy, mean, rate)
            dbeta, dgamma = over_space(du), over_space(dh)  # [B, 1, 1, C], means over space
            b = -tf.square(rate) * of_groups(dgamma * _wide(gamma))
            c = -rate * of_groups(dbeta * _wide(gamma))
            dx = _combined(x, du, mean, scale, b, c)
            count = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
            gradients = [dx, *(tf.cast(count * tf.reduce_sum(d, (0, 1, 2)), gamma.dtype) for d in (dgamma, dbeta))]
            for part in shifts:
                moved = count * (dbeta * scale + apart * b + c)
                if part.shape[0] == 1:
                    moved = tf.reduce_sum(moved, 0, keepdims=True)
                gradients.append(tf.cast(moved, part.dtype))
            return gradients

        return y, gradient

    return tf.custom_gradient(run)(x, gamma, beta, *(() if shift is None else (shift,)))


# Layer normalization


def layer_norm(x, gamma, beta, *, epsilon: float):
    """Layer normalization over the last axis: [..., C] -> [..., C] in the dtype of x; gamma and beta are [C]."""
    gamma, beta = tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta)

    def run(x, gamma, beta):
        z = _wide(x)
        mean = tf.reduce_mean(z, -1, keepdims=True)
        rate = tf.math.rsqrt(tf.reduce_mean(_squares(x, mean), -1, keepdims=True) + epsilon)
        y = _row_affine(x, mean, rate, _wide(gamma), _wide(beta))

        def gradient(dy):
            dh, dhh, dg = _row_products(x, dy, mean, rate, _wide(gamma))
            p, q = (tf.reduce_mean(v, -1, keepdims=True) for v in (dh, dhh))
            axes = tuple(range(len(x.shape) - 1))
            return (
                _row_combined(x, dh, mean, rate, p, q),
                tf.cast(tf.reduce_sum(dg, axes), gamma.dtype),
                tf.cast(tf.reduce_sum(dy, axes), beta.dtype),
            )

        return y, gradient

    return tf.custom_gradient(run)(x, gamma, beta)


@_loop
def _row_affine(x, mean, rate, gamma, beta):
    return tf.cast((_wide(x) - mean) * rate * gamma + beta, x.dtype)


@_loop
def _row_products(x, dy, mean, rate, gamma):
    h, d = (_wide(x) - mean) * rate, _wide(dy)
    return d * gamma, d * gamma * h, d * h


@_loop
def _row_combined(x, dh, mean, rate, p, q):
    return tf.cast((dh - p - (_wide(x) - mean) * rate * q) * rate, x.dtype)


# Attention


@_loop
def _softmax_gradient(weights, dw, inner):
    return tf.cast(_wide(weights) * (_wide(dw) - inner), weights.dtype)


def attend(q, k, v):
    """softmax(q k^T) v, q [B, heads, N, d], k and v [B or 1, heads, M, d] -> [B, heads, N, d] in the dtype of v.

    The weights are computed in the dtype of q and k. The gradient takes the sums over a row of weights and their
    gradients as products of the output with its gradient: sum_j w_j dw_j = o . do (Dao et al. 2022, appendix B.2).
    """

    def run(q, k, v):
        weights = tf.nn.softmax(tf.matmul(q, k, transpose_b=True))  # [B, heads, N, M]
        used = tf.cast(weights, v.dtype)
        out = tf.matmul(used, v)

        def gradient(do):
            dw = tf.matmul(do, v, transpose_b=True)
            inner = tf.reduce_sum(_wide(do) * _wide(out), -1, keepdims=True)
            ds = _softmax_gradient(weights, dw, inner)
            dk, dv = tf.matmul(ds, q, transpose_a=True), tf.matmul(used, do, transpose_a=True)
            if k.shape[0] == 1:  # one context for the whole batch
                dk, dv = tf.reduce_sum(dk, 0, keepdims=True), tf.reduce_sum(dv, 0, keepdims=True)
            return tf.matmul(ds, k), dk, dv

        return out, gradient

    return tf.custom_gradient(run)(q, k, v)


# GEGLU


@_loop
def _geglu(value, gate):
    g = _wide(gate)
    return tf.cast(_wide(value) * (0.5 * g * (1.0 + tf.math.erf(g * 2.0**-0.5))), value.dtype)


@_loop
def _geglu_gradient(value, gate, dy):
    v, g, d = _wide(value), _wide(gate), _wide(dy)
    phi = 0.5 + 0.5 * tf.math.erf(g * 2.0**-0.5)
    density = math.sqrt(0.5 / math.pi) * tf.exp(-0.5 * tf.square(g))
    return tf.cast(d * g * phi, value.dtype), tf.cast(d * v * (phi + g * density), gate.dtype)


@tf.custom_gradient
def geglu(value, gate):
    """value gelu(gate), exact GELU, in the dtype of value."""

    def gradient(dy):
        return _geglu_gradient(value, gate, dy)

    return _geglu(value, gate), gradient
