"""The kinds of networks in a diffusers folder, and how their config.json maps to our classes. Tables, no code.

A missing key has the default of the class in diffusers or transformers. A key in no table is an error unless it is
null, because it may change the results.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import keras

from codi_tf.checkpoints.rules import OLD_ATTENTION, TEXT_MODEL, Renaming
from codi_tf.models.autoencoder import AutoencoderKL
from codi_tf.models.pixels import PixelFolding
from codi_tf.models.text_encoder import TextEncoder
from codi_tf.models.unet import UNet


@dataclass(frozen=True)
class Kind:
    """A kind of network and its configuration.

    Attributes:
        peer: the name of its class in diffusers or transformers.
        network: our class.
        file: the name of its weight file, without `.safetensors`; "" for a network without weights.
        ours: the arguments of our class, with the defaults of missing keys.
        implied: further arguments of our class, which the peer's class implies and its config.json does not state.
        fixed: key -> the values that our class supports. The first value is written, and is the default of the peer.
        inert: keys without effect on the results.
        written: further entries of the config.json that is written.
        per_level: fixed keys that are written as a list with one entry for each level.
        prefix: the beginning of every key in the weight file that is written.
        spellings: other names of the weights in files.
        positive: argument -> the type of a number above 0; null is allowed where it is the default.
        lists: those of them that may be lists, with one entry for each level.
        unread: beginnings of the keys of tensors that are skipped.
    """

    peer: str
    network: type[keras.Model]
    file: str
    ours: dict[str, object]
    fixed: dict[str, tuple]
    inert: frozenset[str]
    implied: dict[str, object] = field(default_factory=dict)
    written: dict[str, object] = field(default_factory=dict)
    per_level: frozenset[str] = frozenset()
    prefix: str = ""
    spellings: tuple[Renaming, ...] = ()
    positive: dict[str, type] = field(default_factory=dict)
    lists: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()


# `numerics` -> activation of a text encoder -> its replacement: KerasCV approximates the GELU of 2.x.
HIDDEN_ACTS = {"diffusers": {"gelu_pytorch_tanh": "gelu"}, "keras_cv": {"gelu": "gelu_pytorch_tanh"}}

# Of the networks that hold a UNet's encoder; see `adapters.controlnet` for another of them.
ENCODER = {
    "in_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "cross_attention_dim": 1280,
    "attention_head_dim": 8,
    "use_linear_projection": False,
    "upcast_attention": False,
    "numerics": "diffusers",
}
ENCODER_FIXED = {
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "only_cross_attention": (False,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"),
    "norm_eps": (1e-5,),
    "transformer_layers_per_block": (1,),
    "resnet_time_scale_shift": ("default",),
}
ENCODER_LISTS = frozenset(("layers_per_block",))
ENCODER_POSITIVE = dict.fromkeys(("in_channels", "layers_per_block", "norm_num_groups", "cross_attention_dim"), int)

UNET = Kind(
    peer="UNet2DConditionModel",
    network=UNet,
    file="diffusion_pytorch_model",
    ours={
        **ENCODER,
        "sample_size": None,
        "out_channels": 4,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "time_cond_proj_dim": None,
        "num_class_embeds": None,
    },
    fixed={
        **ENCODER_FIXED,
        "center_input_sample": (False,),
        "dual_cross_attention": (False,),
        "resnet_skip_time_act": (False,),
        "resnet_out_scale_factor": (1.0,),
        "time_embedding_type": ("positional",),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
        "attention_type": ("default",),
        "mid_block_only_cross_attention": (None, False),
    },
    inert=frozenset(("dropout", "class_embeddings_concat", "addition_embed_type_num_heads")),
    lists=ENCODER_LISTS,
    positive={
        **ENCODER_POSITIVE,
        "sample_size": int,
        "out_channels": int,
        "time_cond_proj_dim": int,
        "num_class_embeds": int,
    },
)

UNET_2D = Kind(
    peer="UNet2DModel",
    network=UNet,
    file="diffusion_pytorch_model",
    ours={
        "sample_size": None,
        "in_channels": 3,
        "out_channels": 3,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "mid_block_type": "UNetMidBlock2D",
        "block_out_channels": (224, 448, 672, 896),
        "layers_per_block": 2,
        "downsample_padding": 1,
        "attention_head_dim": 8,
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "add_attention": True,
        "num_class_embeds": None,
        "time_cond_proj_dim": None,  # our own: diffusers' class takes no guidance
        "numerics": "diffusers",
    },
    implied={"cross_attention_dim": None},
    fixed={
        "center_input_sample": (False,),
        "time_embedding_type": ("positional",),
        "mid_block_scale_factor": (1,),
        "downsample_type": ("conv",),
        "upsample_type": ("conv",),
        "act_fn": ("silu", "swish"),
        "resnet_time_scale_shift": ("default",),
    },
    inert=frozenset(("dropout", "num_train_timesteps")),
    spellings=(OLD_ATTENTION,),
    lists=ENCODER_LISTS,
    positive={
        **dict.fromkeys(("in_channels", "out_channels", "layers_per_block", "norm_num_groups", "sample_size"), int),
        "norm_eps": float,
        "num_class_embeds": int,
        "time_cond_proj_dim": int,
    },
)

AUTOENCODER = Kind(
    peer="AutoencoderKL",
    network=AutoencoderKL,
    file="diffusion_pytorch_model",
    ours={
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": (64,),
        "layers_per_block": 1,
        "norm_num_groups": 32,
        "mid_block_add_attention": True,
        "scaling_factor": 0.18215,
        "numerics": "diffusers",
        "patch_size": 1,
        "linear_shortcut": False,
    },
    fixed={
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
        "act_fn": ("silu", "swish"),
        "use_quant_conv": (True,),
        "use_post_quant_conv": (True,),
    },
    per_level=frozenset(("down_block_types", "up_block_types")),
    inert=frozenset(("sample_size", "force_upcast")),
    spellings=(OLD_ATTENTION,),
    positive={
        **dict.fromkeys(("in_channels", "out_channels", "latent_channels", "layers_per_block", "norm_num_groups"), int),
        "patch_size": int,
        "scaling_factor": float,
    },
)

PIXELS = Kind(
    peer="PixelFolding",  # our own: diffusers has none
    network=PixelFolding,
    file="",
    ours={"patch_size": 1, "scaling_factor": 1.0},
    fixed={},
    inert=frozenset(("sample_size",)),
    positive={"patch_size": int, "scaling_factor": float},
)

TEXT_ENCODER = Kind(
    peer="CLIPTextModel",
    network=TextEncoder,
    file="model",
    ours={
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
    fixed={"model_type": ("clip_text_model",)},
    inert=frozenset(
        (
            "architectures",
            "attention_dropout",
            "bos_token_id",
            "chunk_size_feed_forward",
            "dropout",
            "dtype",
            "eos_token_id",
            "id2label",
            "initializer_factor",
            "initializer_range",
            "is_encoder_decoder",
            "label2id",
            "output_attentions",
            "output_hidden_states",
            "pad_token_id",
            "projection_dim",
            "return_dict",
            "tie_word_embeddings",
            "torch_dtype",
            "torchscript",
            "transformers_version",
        )
    ),
    # The ids only matter for the pooled output, which is not used; they are those of the public checkpoints.
    written={"architectures": ["CLIPTextModel"], "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
    prefix="text_model.",
    spellings=(TEXT_MODEL,),
    positive={
        "vocab_size": int,
        "hidden_size": int,
        "intermediate_size": int,
        "num_hidden_layers": int,
        "num_attention_heads": int,
        "max_position_embeddings": int,
        "layer_norm_eps": float,
    },
)
