"""The forms of GELU that the networks use."""

from __future__ import annotations

from keras import ops


def gelu(x):
    """x Phi(x), exact, written with erf: Keras' own becomes Erfc, which ONNX Runtime does not load."""
    return 0.5 * x * (1.0 + ops.erf(x * 2.0**-0.5))


def quick_gelu(x):
    """x sigmoid(1.702 x), the approximation of GELU that OpenAI's CLIP was trained with."""
    return x * ops.sigmoid(1.702 * x)


def tanh_gelu(x):
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    return ops.gelu(x, approximate=True)


# By transformers' `hidden_act`.
ACTIVATIONS = {
    "quick_gelu": quick_gelu,
    "gelu": gelu,
    "gelu_pytorch_tanh": tanh_gelu,
}
