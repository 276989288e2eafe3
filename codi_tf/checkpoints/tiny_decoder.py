"""Reading and writing a small decoder as the folder of diffusers' AutoencoderTiny, as published for TAESD."""

from __future__ import annotations

from pathlib import Path

from codi_tf.checkpoints.kinds import Kind
from codi_tf.checkpoints.networks import read_network, write_network
from codi_tf.core.precision import built_in, make_policy
from codi_tf.io.bundle_files import model_at
from codi_tf.models.tiny_decoder import TinyDecoder

TINY_DECODER = Kind(
    peer="AutoencoderTiny",
    network=TinyDecoder,
    file="diffusion_pytorch_model",
    ours={
        "latent_channels": 4,
        "out_channels": 3,
        "decoder_block_out_channels": (64, 64, 64, 64),
        "num_decoder_blocks": (3, 3, 3, 1),
    },
    fixed={
        "act_fn": ("relu",),
        "upsample_fn": ("nearest",),
        "upsampling_scaling_factor": (2,),
        "scaling_factor": (1.0,),
        "shift_factor": (0.0,),
    },
    # Keys of the encoder, and of a conversion from latents to bytes that no pipeline uses.
    inert=frozenset(
        (
            "block_out_channels",
            "encoder_block_out_channels",
            "force_upcast",
            "in_channels",
            "latent_magnitude",
            "latent_shift",
            "num_encoder_blocks",
        )
    ),
    # diffusers' class also has an encoder; the written file holds one with one channel, which is 0 for every image.
    written={"encoder_block_out_channels": [1], "num_encoder_blocks": [0]},
    positive={"latent_channels": int, "out_channels": int},
    unread=("encoder.",),
)


def load_decoder(folder: str | Path, *, compute: str = "float32") -> TinyDecoder:
    """Read the decoder of a diffusers AutoencoderTiny, for a model: `codi_tf.load(bundle, decoder=...)`.

    Args:
        folder: with config.json and safetensors weights, such as the result of training with method decoder, or that
            run; or the name of one that comes with codi_tf, as "photos-decoder".
        compute: the format of activations.

    Raises:
        UserError: a file is missing, truncated or of another network.
    """
    with built_in(make_policy(compute)):
        return read_network(TINY_DECODER, model_at(folder), name="tiny_decoder")


def save_decoder(decoder: TinyDecoder, folder: Path, *, dtype: str = "float32") -> None:
    """Write a folder that `AutoencoderTiny.from_pretrained` reads; its encoder is all zeros.

    Raises:
        UserError: an unknown dtype.
    """
    channels = decoder.latent_channels
    encoder = {"0.weight": (1, 3, 3, 3), "0.bias": (1,), "1.weight": (channels, 1, 3, 3), "1.bias": (channels,)}
    zeros = {f"encoder.layers.{key}": shape for key, shape in encoder.items()}
    write_network(TINY_DECODER, decoder, folder, dtype=dtype, zeros=zeros)
