"""3x3 convolutions of large networks in the form that is fastest on CPUs; the same sums in another order.

On CPUs every call rearranges the kernel, which costs more than the sums if the kernel is large and the map small. And a
convolution of an upsampled map multiplies the same numbers several times.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator

import tensorflow as tf
from keras import ops

LARGE_KERNEL = 2**22  # weights
SMALL_MAP = 256  # positions
WIDE = 256  # channels

_plain = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_convolutions() -> Iterator[None]:
    """In graphs traced in this block every convolution is one operation on its own kernel, for exports."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def on_processor() -> bool:
    """Whether a graph that is traced now runs on a processor, and is not for an export."""
    return not _plain.get() and not tf.config.list_logical_devices("GPU") and not tf.config.list_logical_devices("TPU")


def prefers_product(x, kernel) -> bool:
    """Whether a stride-1 convolution of x [B, H, W, C] is fastest as a matrix product."""
    small = x.shape[1] is not None and x.shape[2] is not None and x.shape[1] * x.shape[2] <= SMALL_MAP
    large = kernel.shape[0] == 3 and math.prod(kernel.shape) >= LARGE_KERNEL
    return small and large and on_processor()


def product_convolution(x, kernel, bias):
    """A 3x3 convolution with zero padding as one matrix product of the map's patches: [B, H, W, C] -> [B, H, W, D].

    The kernel is [3, 3, C, D], the bias [D]; H and W must be static.
    """
    height, width, channels = x.shape[1:]
    x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    patches = ops.concatenate(
        [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1
    )  # [B, H, W, 9 C]
    product = ops.matmul(ops.reshape(patches, (-1, 9 * channels)), ops.reshape(kernel, (9 * channels, kernel.shape[3])))
    return ops.reshape(product + bias, (-1, height, width, kernel.shape[3]))


def prefers_phases(x, kernel) -> bool:
    """Whether a convolution of x [B, H, W, C] after upsampling by 2 is fastest in four phases."""
    return x.shape[1] * x.shape[2] >= SMALL_MAP and kernel.shape[3] >= WIDE and on_processor()


def doubled_convolution(x, kernel, bias):
    """A 3x3 convolution after nearest-neighbor upsampling by 2, without the upsampled map: -> [B, 2 H, 2 W, D].

    x is [B, H, W, C], the kernel [3, 3, C, D], the bias [D]; H and W must be static.

    Of three neighboring rows of the upsampled map two are equal, as are two of three columns. Each of the four results
    of a position is therefore a 2x2 convolution with sums of the kernel's rows and columns, with 4/9 of the products.
    """
    height, width = x.shape[1:3]
    x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    phases = []
    for a, rows in enumerate(_pairs(kernel, axis=0)):
        for b, pair in enumerate(_pairs(rows, axis=1)):
            window = x[:, a : a + height + 1, b : b + width + 1]
            phases.append(ops.conv(window, pair, padding="valid", data_format="channels_last") + bias)
    return ops.depth_to_space(ops.concatenate(phases, axis=-1), 2, data_format="channels_last")


def _pairs(kernel, axis: int):
    """The sums of a kernel's rows (or columns) that fall on equal ones of the upsampled map: (before, after)."""
    first, second, third = ops.split(kernel, 3, axis=axis)
    return ops.concatenate([first, second + third], axis=axis), ops.concatenate([first + second, third], axis=axis)
