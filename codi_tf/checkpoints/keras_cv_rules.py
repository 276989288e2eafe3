"""The mapping of KerasCV's weights to our networks. Tables, no code."""

from __future__ import annotations

from codi_tf.checkpoints.tokenizer import END

# Kind of layer -> our module -> KerasCV's module (a path of attributes), in the order of KerasCV's weights.
TRANSFORMER = "transformer_blocks.0"
LAYERS = {
    "dense": {"": ""},
    "padded_conv2d": {"": ""},
    "group_normalization": {"": ""},
    "layer_normalization": {"": ""},
    "upsample": {"conv": "conv"},
    "res_block": {
        "norm1": "entry_flow/group_normalization",
        "conv1": "entry_flow/padded_conv2d",
        "time_emb_proj": "embedding_flow/dense",
        "norm2": "exit_flow/group_normalization",
        "conv2": "exit_flow/padded_conv2d",
        "conv_shortcut": "residual_projection",
    },
    "spatial_transformer": {
        "norm": "norm",
        "proj_in": "proj1",
        f"{TRANSFORMER}.norm1": "transformer_block/norm1",
        f"{TRANSFORMER}.attn1.to_q": "transformer_block/attn1/to_q",
        f"{TRANSFORMER}.attn1.to_k": "transformer_block/attn1/to_k",
        f"{TRANSFORMER}.attn1.to_v": "transformer_block/attn1/to_v",
        f"{TRANSFORMER}.attn1.to_out.0": "transformer_block/attn1/out_proj",
        f"{TRANSFORMER}.norm2": "transformer_block/norm2",
        f"{TRANSFORMER}.attn2.to_q": "transformer_block/attn2/to_q",
        f"{TRANSFORMER}.attn2.to_k": "transformer_block/attn2/to_k",
        f"{TRANSFORMER}.attn2.to_v": "transformer_block/attn2/to_v",
        f"{TRANSFORMER}.attn2.to_out.0": "transformer_block/attn2/out_proj",
        f"{TRANSFORMER}.norm3": "transformer_block/norm3",
        f"{TRANSFORMER}.ff.net.0.proj": "transformer_block/geglu/dense",
        f"{TRANSFORMER}.ff.net.2": "transformer_block/dense",
        "proj_out": "proj2",
    },
    "resnet_block": {
        "norm1": "norm1",
        "conv1": "conv1",
        "norm2": "norm2",
        "conv2": "conv2",
        "conv_shortcut": "residual_projection",
    },
    "attention_block": {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"},
    "clip_embedding": {"token_embedding": "token_embedding", "position_embedding": "position_embedding"},
    "clip_encoder_layer": {
        "layer_norm1": "layer_norm1",
        "self_attn.q_proj": "clip_attn/q_proj",
        "self_attn.k_proj": "clip_attn/k_proj",
        "self_attn.v_proj": "clip_attn/v_proj",
        "self_attn.out_proj": "clip_attn/out_proj",
        "layer_norm2": "layer_norm2",
        "mlp.fc1": "fc1",
        "mlp.fc2": "fc2",
    },
}
ONE_WEIGHT = {f"{TRANSFORMER}.attn{i}.to_{x}" for i in (1, 2) for x in "qkv"} | set(LAYERS["clip_embedding"])
SOMETIMES = "conv_shortcut"  # only in blocks that change the number of channels
DENSE_HERE = ("attention_block",)  # kinds whose 1x1 convolutions are dense layers here

# Part -> kind of layer -> our modules, in the order of KerasCV's layers of that kind. A str is for any number of them.
PARTS = {
    "diffusion_model": {
        "dense": ("time_embedding.linear_1", "time_embedding.linear_2"),
        "padded_conv2d": ("conv_in", *(f"down_blocks.{i}.downsamplers.0.conv" for i in range(3)), "conv_out"),
        "res_block": (
            *(f"down_blocks.{i}.resnets.{j}" for i in range(4) for j in range(2)),
            *(f"mid_block.resnets.{j}" for j in range(2)),
            *(f"up_blocks.{i}.resnets.{j}" for i in range(4) for j in range(3)),
        ),
        "spatial_transformer": (
            *(f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)),
            "mid_block.attentions.0",
            *(f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in range(3)),
        ),
        "upsample": tuple(f"up_blocks.{i}.upsamplers.0" for i in range(3)),
        "group_normalization": ("conv_norm_out",),
    },
    "text_encoder": {
        "clip_embedding": ("embeddings",),
        "clip_encoder_layer": "encoder.layers.{}",
        "layer_normalization": ("final_layer_norm",),
    },
    "decoder": {
        "padded_conv2d": (
            "post_quant_conv",
            "decoder.conv_in",
            *(f"decoder.up_blocks.{i}.upsamplers.0.conv" for i in range(3)),
            "decoder.conv_out",
        ),
        "resnet_block": (
            *(f"decoder.mid_block.resnets.{j}" for j in range(2)),
            *(f"decoder.up_blocks.{i}.resnets.{j}" for i in range(4) for j in range(3)),
        ),
        "attention_block": ("decoder.mid_block.attentions.0",),
        "group_normalization": ("decoder.conv_norm_out",),
    },
    "image_encoder": {
        "padded_conv2d": (
            "encoder.conv_in",
            *(f"encoder.down_blocks.{i}.downsamplers.0.conv" for i in range(3)),
            "encoder.conv_out",
            "quant_conv",
        ),
        "resnet_block": (
            *(f"encoder.down_blocks.{i}.resnets.{j}" for i in range(4) for j in range(2)),
            *(f"encoder.mid_block.resnets.{j}" for j in range(2)),
        ),
        "attention_block": ("encoder.mid_block.attentions.0",),
        "group_normalization": ("encoder.conv_norm_out",),
    },
}

# What the shapes do not determine, by family and numerics.
ACTIVATIONS = {
    ("1.x", "diffusers"): "quick_gelu",
    ("1.x", "keras_cv"): "quick_gelu",
    ("2.x", "diffusers"): "gelu",
    ("2.x", "keras_cv"): "gelu_pytorch_tanh",  # the form that keras.ops.gelu has by default
}
PADDING = {
    ("1.x", "diffusers"): END,
    ("1.x", "keras_cv"): END,
    ("2.x", "diffusers"): "!",
    ("2.x", "keras_cv"): END,
}
HEAD_WIDTH = 64  # channels of an attention head in the text encoder, and in the UNet of 2.x
UNET_HEADS = 8  # attention heads in the UNet of 1.x

BPE = "bpe_simple_vocab_16e6.txt.gz"  # the tokenizer's file as KerasCV downloads it
BPE_MERGES = 49152 - 256 - 2  # number of merges: the lines after the first

WIDTHS = {  # part -> (weight, axis) with the width of the prompt's embedding
    "diffusion_model": (f"down_blocks.0.attentions.0.{TRANSFORMER}.attn2.to_k.weight", 0),
    "text_encoder": ("embeddings.token_embedding.weight", 1),
}
