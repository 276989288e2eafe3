"""The autoencoder of a diffusers folder: an AutoencoderKL, or pixels, which have a config.json and no weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from codi_tf.checkpoints.base import Autoencoder, make_network
from codi_tf.checkpoints.kinds import AUTOENCODER, PIXELS, Kind
from codi_tf.checkpoints.networks import peer_config, read_config, read_network, write_network
from codi_tf.io.json_files import read_json, write_json
from codi_tf.io.weights import CONFIG
from codi_tf.models.pixels import PixelFolding


def autoencoder_kind(folder: Path) -> Kind:
    """The kind that a config.json names. Raises UserError for a file that is missing or broken."""
    return PIXELS if read_json(folder / CONFIG).get("_class_name") == PIXELS.peer else AUTOENCODER


def read_autoencoder(folder: Path, *, numerics: str | None = None) -> Autoencoder:
    """The autoencoder of a folder. Arguments and errors: see `networks.read_network`."""
    kind = autoencoder_kind(folder)
    if kind is PIXELS:
        return make_network(PixelFolding, read_config(PIXELS, folder / CONFIG), "vae")
    return read_network(kind, folder, name="vae", numerics=numerics)


def write_autoencoder(
    vae: Autoencoder,
    folder: Path,
    *,
    dtype: str = "float32",
    extra_config: Mapping[str, object] | None = None,
    report: Callable[[int], None] | None = None,
) -> None:
    """Write an autoencoder into a folder. Arguments and errors: see `networks.write_network`."""
    if not isinstance(vae, PixelFolding):
        write_network(AUTOENCODER, vae, folder, dtype=dtype, extra_config=extra_config, report=report)
        return
    folder.mkdir(parents=True, exist_ok=True)
    own = {key: value for key, value in vae.get_config().items() if key != "name"}
    write_json(folder / CONFIG, {**peer_config(PIXELS, 1), **own, **(extra_config or {})})
