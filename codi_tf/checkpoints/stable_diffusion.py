"""Loading and saving Stable Diffusion checkpoints in any of their forms."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from codi_tf.checkpoints.base import Base
from codi_tf.checkpoints.compvis import read_single_file
from codi_tf.checkpoints.folder import (
    bytes_of,
    complete_scheduler,
    read_folder,
    read_text,
    save_base,
    write_index,
    write_pixel_index,
)
from codi_tf.checkpoints.networks import PICKLES, refuse_pickles
from codi_tf.checkpoints.pixel_pipelines import is_pixel_pipeline
from codi_tf.core.errors import UserError
from codi_tf.core.formats import FloatFormat, check_format
from codi_tf.core.paths import as_path
from codi_tf.core.precision import built_in, make_policy
from codi_tf.diffusion.process import PREDICTION_TYPES
from codi_tf.io.bundle_files import BUNDLE, CHECKPOINTS, another_model, is_bundle, model_at
from codi_tf.io.folders import check_folder, whole_folder
from codi_tf.models.numerics import Numerics, check_numerics
from codi_tf.models.pixels import PixelFolding


def load_stable_diffusion(
    source,
    *,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    compute: FloatFormat = "float32",
    weights: FloatFormat = "float32",
    numerics: Numerics | None = None,
    architecture: Mapping[str, Mapping[str, object]] | None = None,
) -> Base:
    """Read a latent diffusion model.

    Args:
        source: a folder in the diffusers layout (as a bundle is), a single `.safetensors` file in the original
            layout (Stable Diffusion 1.x or 2.x), a KerasCV model, or a folder of its `.h5` files or one of them; also
            the folder of the run that made it, or the name of a model that comes with codi_tf.
        tokenizer: the folder of `vocab.json` and `merges.txt`; None: that of a diffusers folder.
        prediction_type: "epsilon", "v_prediction" or "sample"; None: what the checkpoint says.
        compute: the format of activations: "float32", "bfloat16" or "float16".
        weights: the format of the weights in memory. Half precision is for weights that are not trained.
        numerics: "diffusers" or "keras_cv", two variants of normalization and GELU; None: the variant of the source.
        architecture: for a single file: part ("unet", "vae", "text_encoder") -> keys of its config.json that neither
            the shapes nor the model family determine. An example is the text encoder's num_hidden_layers in a 2.x file
            of unusual width, because these files may hold a last layer that is not used.

    Raises:
        UserError: a part is missing, truncated or of another network (names the weights that are missing or left over);
            the parts do not belong together; the file is a pickle; an option is unknown.
    """
    if prediction_type is not None and prediction_type not in PREDICTION_TYPES:
        raise UserError(f"prediction_type is {prediction_type!r}: use one of {', '.join(PREDICTION_TYPES)}")
    if numerics is not None:
        check_numerics("numerics", numerics)
    tokenizer = None if tokenizer is None else as_path(tokenizer)
    with built_in(make_policy(compute, weights)):
        base = _read(source, tokenizer, prediction_type, numerics, architecture)
    check_parts(base)
    changed = any(value is not None for value in (tokenizer, prediction_type, numerics))
    is_folder = base.path is not None and (base.path / "vae").is_dir()
    return base if is_folder and not changed else dataclasses.replace(base, path=None)


def with_text(
    base: Base, folder: str | Path, *, compute: FloatFormat = "float32", weights: FloatFormat = "float32"
) -> Base:
    """A base without text encoder, completed with `text_encoder/` and `tokenizer/` of a diffusers folder.

    Args:
        base: from `load_stable_diffusion`.
        folder: the diffusers folder, whose text encoder has as many channels as the UNet's context.
        compute, weights: see `load_stable_diffusion`.

    Raises:
        UserError: the base already has a text encoder; a part is missing or does not fit.
    """
    folder = as_path(folder)
    if base.text_encoder is not None:
        raise UserError(f"text is {folder}: the base {base.path} already has a text encoder; remove it")
    with built_in(make_policy(compute, weights)):
        tokenizer, text_encoder = read_text(folder)
    completed = dataclasses.replace(base, text_encoder=text_encoder, tokenizer=tokenizer, path=folder)
    check_parts(completed)
    return dataclasses.replace(completed, path=None)


def save_stable_diffusion(
    base: Base, folder: str | Path, *, dtype: FloatFormat = "float32", report: Callable[[str, int], None] | None = None
) -> None:
    """Write a base into a folder that diffusers' pipelines load. The folder appears whole or not at all.

    Args:
        base: the model, to which the adapter of a CoDi model does not belong.
        folder: a new or empty one.
        dtype: the format of the weights on disk: "float32", "float16" or "bfloat16".
        report: called with the name of the current part and its bytes written so far.

    Raises:
        UserError: the folder is not empty, the tokenizer is missing, or the format is unknown or too narrow.
    """
    folder = as_path(folder)
    check_format("dtype", dtype)
    check_folder(folder, CHECKPOINTS, replace=False, size=bytes_of(base, dtype))
    if getattr(base.unet, "numerics", "diffusers") != "diffusers":
        warnings.warn(
            f"{folder}: diffusers computes with its own epsilon and GELU, not with KerasCV's, so images differ "
            "a little; load the checkpoint with numerics='diffusers' to compare",
            stacklevel=2,
        )
    completed, of_pixels = complete_scheduler(base.scheduler), is_pixel_pipeline(base)
    if of_pixels and "clip_sample" in base.scheduler:  # the pipeline of pixels does what its file says
        completed["clip_sample"] = base.scheduler["clip_sample"]
    base = dataclasses.replace(base, scheduler=completed)
    with whole_folder(folder, CHECKPOINTS, replace=False) as partial:
        save_base(base, partial, dtype=dtype, report=report)
        # diffusers has no autoencoder of pixels, and so no pipeline of prompts for them.
        if of_pixels:
            write_pixel_index(partial, completed["_class_name"])
        elif base.unet is not None and base.text_encoder is not None and not isinstance(base.vae, PixelFolding):
            extra = base.unet.in_channels - base.vae.latent_channels
            write_index(partial, extra_channels=extra, scheduler=completed["_class_name"])


def check_parts(base: Base) -> None:
    """Raises UserError for parts of different model families."""
    unet, vae, text = base.unet, base.vae, base.text_encoder
    if unet is None:
        return
    if text is not None and unet.cross_attention_dim is None:
        raise UserError(
            f"{base.path}: the UNet takes no prompts, and there is a text encoder; they do not belong together"
        )
    if text is not None and unet.cross_attention_dim != text.hidden_size:
        raise UserError(
            f"{base.path}: the UNet takes prompts of {unet.cross_attention_dim} channels (768 in 1.x, 1024 in 2.x), "
            f"the text encoder gives {text.hidden_size}; they do not belong together"
        )
    if text is not None and base.tokenizer is not None:
        longest, ids = text.max_position_embeddings, base.tokenizer.vocabulary
        largest, strange = max(ids.values()), [one.content for one in base.tokenizer.added if one.id >= text.vocab_size]
        if strange and max(number for token, number in ids.items() if token not in strange) < text.vocab_size:
            names = ", ".join(strange[:3]) + (", ..." if len(strange) > 3 else "")
            raise UserError(
                f"{base.path}: {names} added to the tokenizer, but the text encoder has embeddings of its "
                f"{text.vocab_size} tokens alone; save it after resize_token_embeddings, or remove the added tokens"
            )
        if base.tokenizer.length > longest or largest >= text.vocab_size:
            raise UserError(
                f"{base.path}: the tokenizer gives {base.tokenizer.length} ids up to {largest}, the text encoder takes "
                f"{longest} below {text.vocab_size}; they do not belong together"
            )
    if isinstance(vae, PixelFolding) and vae.latent_channels != unet.out_channels:
        raise UserError(
            f"{base.path}: the UNet makes {unet.out_channels} channels, images of RGB in pieces of {vae.patch_size} x "
            f"{vae.patch_size} pixels have {vae.latent_channels}; that is not built here"
        )
    if vae.latent_channels != unet.out_channels:
        raise UserError(
            f"{base.path}: the UNet makes latents of {unet.out_channels} channels, the autoencoder takes "
            f"{vae.latent_channels}; they do not belong together"
        )


def describe(base: Base) -> str:
    """One line about a base: family, parts and sizes."""
    unet, family = base.unet, "latent diffusion"
    if base.text_encoder is not None and unet is not None:
        family = f"Stable Diffusion {'2.x' if unet.use_linear_projection else '1.x'}"
    pixels = isinstance(base.vae, PixelFolding)
    family = "pixel diffusion" if pixels and base.text_encoder is None else family
    parts = {"UNet": unet, "VAE": None if pixels else base.vae, "text encoder": base.text_encoder}
    counts = ", ".join(f"{name} {part.count_params() / 1e6:.1f}M" for name, part in parts.items() if part is not None)
    channels = "" if unet is None else f", {unet.in_channels} input channels, {base.prediction_type} prediction"
    return f"{family}{channels}: {counts} parameters"


def _read(source, tokenizer, prediction_type, numerics, architecture) -> Base:
    path = model_at(source) if isinstance(source, (str, Path)) else None
    if path is None or _is_keras_cv(path):
        from codi_tf.checkpoints import keras_cv

        _refuse_option("architecture", architecture)
        options = {} if numerics is None else {"numerics": numerics}
        base = keras_cv.read(source if path is None else path, tokenizer=tokenizer, **options)
        return _with_prediction_type(base, prediction_type)
    if not path.exists():
        raise UserError(f"{path}: no such model folder; {another_model(path)}")
    if path.is_dir():
        _refuse_option("architecture", architecture)
        if is_bundle(path) and not any((path / part).is_dir() for part in ("unet", "vae")):
            raise UserError(f"{path}: a bundle with an adapter alone; give the base that its {BUNDLE} names")
        base = read_folder(path, tokenizer=tokenizer, numerics=numerics)
        return _with_prediction_type(base, prediction_type)
    if path.suffix in PICKLES:
        refuse_pickles(path)
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path}: not a known kind of checkpoint: name a diffusers folder, a .safetensors or a .h5 file"
        )
    return read_single_file(
        path, tokenizer=tokenizer, prediction_type=prediction_type, numerics=numerics, architecture=architecture or {}
    )


def _is_keras_cv(path: Path) -> bool:
    """Whether a path is an `.h5` file, or a folder of such files that is not in diffusers' layout."""
    return path.suffix == ".h5" or (path.is_dir() and not (path / "vae").is_dir() and any(path.glob("*.h5")))


def _with_prediction_type(base: Base, prediction_type: str | None) -> Base:
    """The base with the prediction type that the user gave, if any."""
    if prediction_type is None:
        return base
    return dataclasses.replace(base, scheduler={**base.scheduler, "prediction_type": prediction_type})


def _refuse_option(name: str, value) -> None:
    if value is not None:
        raise UserError(f"{name} is {value!r}: it is for single files in the original layout; leave it out")
