"""CLIP's text encoder (Radford et al. 2021), as Stable Diffusion uses it: the hidden states of all 77 positions.

Layers carry the names that transformers gives the same modules, so that the path of a variable is its key there.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from codi_tf.core.errors import UserError
from codi_tf.models.activations import ACTIVATIONS
from codi_tf.models.layers import Dense, LayerNorm

MASKED = -1e9  # added to a score in float32: its weight becomes 0, and the sum of a row stays finite


class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention of x [B, N, D]; if causal, a position attends to itself and earlier ones.

    Scores and weights are float32 with any dtype policy.
    """

    def __init__(self, channels: int, heads: int, *, causal: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.heads, self.causal = channels, heads, causal
        self.q_proj = Dense(channels, name="q_proj")
        self.k_proj = Dense(channels, name="k_proj")
        self.v_proj = Dense(channels, name="v_proj")
        self.out_proj = Dense(channels, name="out_proj")

    def build(self, input_shape=None):
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            layer.build((None, None, self.channels))

    def _split(self, x):  # [B, N, D] -> [B, heads, N, D / heads]
        x = ops.reshape(x, (-1, x.shape[1], self.heads, self.channels // self.heads))
        return ops.transpose(x, (0, 2, 1, 3))

    def call(self, x):
        length = x.shape[1]
        q = self._split(self.q_proj(x)) * (self.channels // self.heads) ** -0.5
        k, v = self._split(self.k_proj(x)), self._split(self.v_proj(x))
        scores = ops.cast(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))), "float32")  # [B, heads, N, N]
        if self.causal:
            scores = scores + np.triu(np.full((length, length), MASKED, "float32"), 1)
        weights = ops.softmax(scores, axis=-1)
        out = ops.transpose(ops.matmul(ops.cast(weights, v.dtype), v), (0, 2, 1, 3))  # [B, N, heads, D / heads]
        return self.out_proj(ops.reshape(out, (-1, length, self.channels)))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "heads": self.heads, "causal": self.causal}


class EncoderLayer(keras.layers.Layer):
    """Self-attention, then a feed-forward network, each with normalization before it and a residual. x is [B, N, D]."""

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        hidden: int,
        activation: str,
        epsilon: float,
        causal: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels, self.heads, self.hidden = channels, heads, hidden
        self.activation, self.epsilon, self.causal = activation, epsilon, causal
        self.layer_norm1 = LayerNorm(epsilon=epsilon, name="layer_norm1")
        self.self_attn = SelfAttention(channels, heads, causal=causal, name="self_attn")
        self.layer_norm2 = LayerNorm(epsilon=epsilon, name="layer_norm2")
        self.fc1 = Dense(hidden, name="mlp.fc1")
        self.fc2 = Dense(channels, name="mlp.fc2")

    def build(self, input_shape=None):
        for layer in (self.layer_norm1, self.layer_norm2, self.fc1):
            layer.build((None, None, self.channels))
        self.self_attn.build()
        self.fc2.build((None, None, self.hidden))

    def call(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.fc2(ACTIVATIONS[self.activation](self.fc1(self.layer_norm2(x))))

    def get_config(self):
        keys = ("channels", "heads", "hidden", "activation", "epsilon", "causal")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


class TextEncoder(keras.Model):
    """Token ids int32 [B, N] -> the last hidden states after the final normalization, float32 [B, N, hidden_size].

    N is static and at most max_position_embeddings (77). Tokens after the end of the prompt are encoded like others,
    as in Stable Diffusion's training: the only mask is the causal one.

    The arguments are the keys of a transformers `text_encoder/config.json`, with the same meaning. The defaults are
    those of Stable Diffusion 1.x; `hidden_act` is "quick_gelu" (1.x), "gelu" (2.x) or "gelu_pytorch_tanh" (KerasCV's
    variant of 2.x).

    Raises:
        UserError: an unknown activation, or a hidden_size that is not a multiple of the heads.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 49408,
        hidden_size: int = 768,
        intermediate_size: int = 3072,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        max_position_embeddings: int = 77,
        hidden_act: str = "quick_gelu",
        layer_norm_eps: float = 1e-5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if hidden_act not in ACTIVATIONS:
            raise UserError(f"text_encoder: unknown hidden_act {hidden_act!r}: use one of {', '.join(ACTIVATIONS)}")
        if num_attention_heads < 1 or hidden_size % num_attention_heads:
            raise UserError(
                f"text_encoder: hidden_size {hidden_size} cannot be split into {num_attention_heads} heads "
                "(num_attention_heads)"
            )
        self.vocab_size, self.hidden_size, self.intermediate_size = vocab_size, hidden_size, intermediate_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.hidden_act, self.layer_norm_eps = hidden_act, layer_norm_eps
        self.token_embedding = keras.layers.Embedding(vocab_size, hidden_size, name="embeddings.token_embedding")
        self.position_embedding = keras.layers.Embedding(
            max_position_embeddings, hidden_size, name="embeddings.position_embedding"
        )
        self.encoder_layers = [
            EncoderLayer(
                hidden_size,
                heads=num_attention_heads,
                hidden=intermediate_size,
                activation=hidden_act,
                epsilon=layer_norm_eps,
                name=f"encoder.layers.{i}",
            )
            for i in range(num_hidden_layers)
        ]
        self.final_layer_norm = LayerNorm(epsilon=layer_norm_eps, name="final_layer_norm")

    def build(self, input_shape=None):
        self.token_embedding.build()
        self.position_embedding.build()
        for layer in self.encoder_layers:
            layer.build()
        self.final_layer_norm.build((None, None, self.hidden_size))

    def call(self, ids):
        x = self.token_embedding(ids) + self.position_embedding(ops.arange(ids.shape[1]))  # [B, N, D]
        for layer in self.encoder_layers:
            x = layer(x)
        return ops.cast(self.final_layer_norm(x), "float32")

    def get_config(self):
        keys = (
            "name",
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
            "hidden_act",
            "layer_norm_eps",
        )
        return {key: getattr(self, key) for key in keys}
