"""Reading and writing a diffusers folder: `unet/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/` and an index."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from codi_tf.checkpoints.autoencoders import read_autoencoder, write_autoencoder
from codi_tf.checkpoints.base import SCHEDULER, Base
from codi_tf.checkpoints.kinds import AUTOENCODER, TEXT_ENCODER, UNET, UNET_2D
from codi_tf.checkpoints.made_for import read_made_for, write_made_for
from codi_tf.checkpoints.networks import read_network, refuse_pickles, write_network
from codi_tf.checkpoints.pixel_pipelines import PIPELINE, find_parts
from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.checkpoints.unets import read_unet, write_unet
from codi_tf.core.errors import UserError
from codi_tf.core.formats import numpy_dtype
from codi_tf.diffusion.scheduler_config import REVERSE
from codi_tf.io.json_files import read_json, write_json
from codi_tf.io.weights import CONFIG
from codi_tf.models.pixels import PixelFolding
from codi_tf.models.text_encoder import TextEncoder

INDEX = "model_index.json"
# Input channels of the UNet beyond the latents -> diffusers' pipeline.
PIPELINES = {
    0: "StableDiffusionPipeline",
    4: "StableDiffusionInstructPix2PixPipeline",  # the latents of the image to edit
    5: "StableDiffusionInpaintPipeline",  # a mask and the latents of the known area
}
_PARTS = {  # part of a pipeline -> library and class, for diffusers
    "unet": ("diffusers", UNET.peer),
    "vae": ("diffusers", AUTOENCODER.peer),
    "text_encoder": ("transformers", TEXT_ENCODER.peer),
    "tokenizer": ("transformers", "CLIPTokenizer"),
}
DDIM = "DDIMScheduler"
CLIPPING = (
    DDIM,
    REVERSE,
    "DDPMScheduler",
    "HeunDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
)  # the schedulers with a clip_sample


def read_folder(path: Path, *, tokenizer: Path | None = None, numerics: str | None = None) -> Base:
    """A base from a diffusers folder, with the current dtype policy.

    The text encoder may be missing, for a base without prompts, and so may everything but the autoencoder. A folder of
    DDPMPipeline, a UNet2DModel of pixels, has no autoencoder: it gets a `PixelFolding` that changes nothing.

    Args:
        path: the folder.
        tokenizer: the folder of the tokenizer's files; None: `tokenizer/`.
        numerics: "diffusers" or "keras_cv"; None: as the folder says.

    Raises:
        UserError: a part is missing, truncated or of another network, or the parts do not belong together.
    """
    index = read_json(path / INDEX) if (path / INDEX).exists() else {}
    pixels = find_parts(path)
    for part in _PARTS:
        named = isinstance(index.get(part), list) and any(index[part]) and pixels is None
        given = part == "tokenizer" and tokenizer is not None
        if named and not given and not (path / part).is_dir():
            raise UserError(f"{path}: its {INDEX} names {part}, and the folder {part} is missing; copy it again")
    if pixels is None and not (path / "vae").is_dir():
        _refuse_network(path)
        refuse_pickles(path)
    # The small parts come first, so that their errors appear before the large part is read.
    text_encoder = words = None
    if (path / "text_encoder").is_dir():
        words, text_encoder = read_text(path, tokenizer=tokenizer, numerics=numerics)
    elif tokenizer is not None:
        raise UserError(f"tokenizer is {tokenizer}: {path} has no text encoder; leave it out")
    vae = PixelFolding(name="vae") if pixels else read_autoencoder(path / "vae", numerics=numerics)
    place, scheduler = pixels or (path / "unet", path.joinpath(*SCHEDULER))
    unet = read_unet(place, numerics=numerics) if place.is_dir() else None
    made_for = read_made_for(path)
    # An autoencoder alone has no schedule; this one is never used.
    config = read_json(scheduler) if unet is not None else {"beta_schedule": "squaredcos_cap_v2"}
    try:
        return Base(unet, vae, config, path, text_encoder, words, made_for=made_for)
    except UserError as error:
        raise UserError(f"{scheduler}: {error}") from None


def read_text(
    path: Path, *, tokenizer: Path | None = None, numerics: str | None = None
) -> tuple[Tokenizer, TextEncoder]:
    """The tokenizer and the text encoder of a folder. Arguments and errors: see `read_folder`."""
    words = Tokenizer.load(tokenizer or path / "tokenizer")
    return words, read_network(TEXT_ENCODER, path / "text_encoder", name="text_encoder", numerics=numerics)


def save_base(
    base: Base, path: Path, *, dtype: str = "float32", report: Callable[[str, int], None] | None = None
) -> None:
    """Write the parts of a base into a folder, in the diffusers layout.

    `report` is called with the name of a part and its bytes written so far.

    Raises:
        UserError: a text encoder without a tokenizer, an unknown dtype, or a value beyond its range.
    """
    if base.text_encoder is not None and base.tokenizer is None:
        raise UserError("this model has no tokenizer and cannot be saved without one: load it with tokenizer=FOLDER")

    def write(kind, network, name: str, *, extra_config: Mapping[str, object] | None = None) -> None:
        said = None if report is None else functools.partial(report, name)
        write_network(kind, network, path / name, dtype=dtype, extra_config=extra_config, report=said)

    side = getattr(base.unet, "sample_size", None)
    sized = side and {"sample_size": side * base.vae.factor}
    said = None if report is None else functools.partial(report, "vae")
    write_autoencoder(base.vae, path / "vae", dtype=dtype, extra_config=sized, report=said)
    if base.unet is not None:
        said = None if report is None else functools.partial(report, "unet")
        write_unet(base.unet, path / "unet", dtype=dtype, report=said)
        path.joinpath(SCHEDULER[0]).mkdir(exist_ok=True)
        write_json(path.joinpath(*SCHEDULER), {"_class_name": "DDIMScheduler", **base.scheduler})
    if base.text_encoder is not None and base.tokenizer is not None:
        write(TEXT_ENCODER, base.text_encoder, "text_encoder", extra_config={"dtype": dtype})
        base.tokenizer.save(path / "tokenizer")
    write_made_for(base.made_for, path)


def bytes_of(base: Base, dtype: str) -> int:
    """The bytes of a base's weights on disk, in a number format."""
    parts = [part for part in (base.unet, base.vae, base.text_encoder) if part is not None]
    return sum(part.count_params() for part in parts) * numpy_dtype(dtype).itemsize


def write_index(path: Path, *, extra_channels: int, scheduler: str) -> None:
    """Write `model_index.json` with the pipeline in diffusers, if there is one for this UNet.

    Args:
        path: the folder.
        extra_channels: the UNet's input channels beyond the latents.
        scheduler: the class of the scheduler.
    """
    if extra_channels not in PIPELINES:
        return
    write_json(
        path / INDEX,
        {
            "_class_name": PIPELINES[extra_channels],
            "_diffusers_version": "0.30.0",
            **{part: list(place) for part, place in _PARTS.items()},
            "scheduler": ["diffusers", scheduler],
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "safety_checker": [None, None],
            "requires_safety_checker": False,
        },
    )


def write_pixel_index(path: Path, scheduler: str) -> None:
    """Write `model_index.json` with the pipeline of pixels in diffusers; `scheduler` is a class of its."""
    parts = {"scheduler": ["diffusers", scheduler], "unet": ["diffusers", UNET_2D.peer]}
    write_json(path / INDEX, {"_class_name": PIPELINE, "_diffusers_version": "0.30.0", **parts})


def complete_scheduler(config: Mapping[str, object]) -> dict:
    """A scheduler_config.json that means the same in diffusers as here.

    Some schedulers of diffusers clip their estimates unless the file forbids it, which pipelines then correct with
    warnings. This forbids it; all other keys are unchanged.
    """
    name = config.get("_class_name", DDIM)
    silent = {"_class_name": DDIM, "steps_offset": 1} if name == DDIM else {}
    return {**silent, **config, **({"clip_sample": False} if name in CLIPPING or "clip_sample" in config else {})}


def _refuse_network(path: Path) -> None:
    """Raises UserError for the folder of a single network."""
    kind = read_json(path / CONFIG).get("_class_name") if (path / CONFIG).exists() else None
    if kind is not None:
        raise UserError(f"{path}: this is one network ({kind}); name the folder of the whole model")
