"""A base without weights, which shows the errors of its configuration before gigabytes are read."""

from __future__ import annotations

from pathlib import Path

import keras

from codi_tf.checkpoints.autoencoders import autoencoder_kind
from codi_tf.checkpoints.base import SCHEDULER, Base
from codi_tf.checkpoints.kinds import TEXT_ENCODER, Kind
from codi_tf.checkpoints.made_for import read_made_for
from codi_tf.checkpoints.networks import read_config
from codi_tf.checkpoints.stable_diffusion import check_parts
from codi_tf.checkpoints.unets import unet_kind
from codi_tf.core.errors import UserError
from codi_tf.io.json_files import read_json
from codi_tf.io.weights import CONFIG


def read_skeleton(folder: Path) -> Base:
    """A base with networks that are not built and no tokenizer, from the JSON files of a diffusers folder.

    Raises:
        UserError: a file is missing or broken, or a configuration is not supported.
    """
    scheduler = folder.joinpath(*SCHEDULER)
    unet, text_encoder = (
        _network(kind_of(folder / part), folder / part) if (folder / part).is_dir() else None
        for kind_of, part in ((unet_kind, "unet"), (lambda _: TEXT_ENCODER, "text_encoder"))
    )
    config, made_for = {} if unet is None else read_json(scheduler), read_made_for(folder)
    try:
        vae = _network(autoencoder_kind(folder / "vae"), folder / "vae")
        base = Base(unet, vae, config, folder, text_encoder, made_for=made_for)
    except UserError as error:
        raise UserError(f"{scheduler}: {error}") from None
    check_parts(base)
    return base


def _network(kind: Kind, folder: Path) -> keras.Model:
    try:
        return kind.network(name=folder.name, **read_config(kind, folder / CONFIG))
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG}: not a configuration of {kind.network.__name__} ({error})") from None
