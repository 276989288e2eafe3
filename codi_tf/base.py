"""A pre-trained latent diffusion model: its networks, its schedule and the units of its latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from codi_tf.diffusion import PREDICTION_TYPES, Schedule, make_schedule
from codi_tf.errors import UserError
from codi_tf.models.autoencoder import AutoencoderKL
from codi_tf.models.unet import UNet
from codi_tf.weights import CONFIG, load_network, read_json, save_network, write_json

PROMPT_LENGTH = 77  # CLIP's
SCHEDULER = ("scheduler", "scheduler_config.json")


@dataclass
class Base:
    """The parts of a latent diffusion model.

    Attributes:
        unet: z_t [B, h, w, C], t int [B], context [B, M, D] -> [B, h, w, 4], in the checkpoint's own parametrisation;
            None where an autoencoder stands alone.
        vae: images [B, f h, f w, 3] in [-1, 1] <-> latents [B, h, w, 4], unscaled.
        scheduler: the contents of the checkpoint's scheduler_config.json.
        path: the folder that it was read from.
    """

    unet: UNet | None
    vae: AutoencoderKL
    scheduler: dict
    path: Path | None = None

    def __post_init__(self):
        try:
            self.schedule: Schedule = make_schedule(
                self.scheduler.get("beta_schedule"),
                self.scheduler.get("num_train_timesteps", 1000),
                self.scheduler.get("beta_start", 0.00085),
                self.scheduler.get("beta_end", 0.012),
            )
        except TypeError as error:
            raise UserError(f"scheduler: num_train_timesteps, beta_start, beta_end must be numbers ({error})") from None
        self.prediction_type: str = self.scheduler.get("prediction_type", "epsilon")
        if self.prediction_type not in PREDICTION_TYPES:
            choices = ", ".join(PREDICTION_TYPES)
            raise UserError(f"unknown prediction_type {self.prediction_type!r}; use one of {choices}")

    def encode(self, images):
        """Images [B, f h, f w, 3] in [-1, 1] -> scaled latents [B, h, w, 4], the mean of the posterior."""
        return self.vae.encode(images).mean * self.vae.scaling_factor

    def decode(self, latents):
        """Scaled latents [B, h, w, 4] -> images [B, f h, f w, 3], about [-1, 1], not clipped."""
        return self.vae.decode(latents / self.vae.scaling_factor)

    @property
    def context(self) -> np.ndarray:
        """The prompt's embedding where no prompt is given, [1, 77, D]: zeros, for a base without a text encoder."""
        return np.zeros((1, PROMPT_LENGTH, self.unet.cross_attention_dim), "float32")

    @property
    def multiple(self) -> int:
        """Height and width of an image must be multiples of this."""
        return self.vae.factor * 2 ** (len(self.unet.block_out_channels) - 1)


def load_stable_diffusion(path: str | Path) -> Base:
    """Read a model folder in the diffusers layout (`unet/`, `vae/`, `scheduler/`; a bundle of ours is one).

    Raises:
        UserError: for a missing, truncated or foreign part.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such model folder; train one or name another")
    unet = _load(UNet, path / "unet") if (path / "unet").is_dir() else None
    scheduler = path.joinpath(*SCHEDULER)
    # An autoencoder alone has no schedule; the one that is filled in is never used.
    config = read_json(scheduler) if unet is not None else {"beta_schedule": "squaredcos_cap_v2"}
    vae = _load(AutoencoderKL, path / "vae")
    try:
        return Base(unet, vae, config, path)
    except UserError as error:
        raise UserError(f"{scheduler}: {error}") from None


def save_base(base: Base, path: Path, *, dtype: str = "float32") -> None:
    """Write a base into a folder, in the diffusers layout."""
    save_network(base.vae, path / "vae", dtype=dtype, extra_config={"_class_name": "AutoencoderKL"})
    if base.unet is not None:
        save_network(base.unet, path / "unet", dtype=dtype, extra_config={"_class_name": "UNet2DConditionModel"})
        path.joinpath(SCHEDULER[0]).mkdir(exist_ok=True)
        write_json(path.joinpath(*SCHEDULER), {"_class_name": "DDIMScheduler", **base.scheduler})


def make_unet(config: dict, name: str = "unet") -> UNet:
    """A UNet with fresh weights, from the keys of a diffusers unet/config.json. Raises UserError for a bad one."""
    return _make(UNet, config, name)


def make_autoencoder(config: dict, name: str = "vae") -> AutoencoderKL:
    """An autoencoder with fresh weights, from the keys of a diffusers vae/config.json. Raises UserError."""
    return _make(AutoencoderKL, config, name)


def measure_scale(vae: AutoencoderKL, images) -> float:
    """1 / (standard deviation of the latents of images [N, H, W, 3]): the scaling_factor that makes it 1."""
    return float(1.0 / ops.convert_to_numpy(ops.std(vae.encode(images).mean)))


def _load(kind: type[keras.Model], folder: Path):
    config = {key: value for key, value in read_json(folder / CONFIG).items() if not key.startswith("_")}
    network = _make(kind, config, folder.name)
    load_network(network, folder)
    return network


def _make(kind: type[keras.Model], config: dict, name: str):
    try:
        network = kind(name=name, **config)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: not a configuration of {kind.__name__} ({error})") from None
    network.build()
    return network
