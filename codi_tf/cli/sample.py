"""python -m codi_tf.sample MODEL ...: `codi restore` for a trained model, `codi text2image` for a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from codi_tf.cli import restore, text2image
from codi_tf.cli.sampling_options import (
    add_sampling,
    add_shared_options,
    add_start,
    check_shared_options,
)
from codi_tf.core.arguments import flag
from codi_tf.core.command_line import ArgumentParser
from codi_tf.core.errors import UserError
from codi_tf.diffusion.samplers import SAMPLERS
from codi_tf.io.bundle_files import BUNDLE, is_bundle


def _parser(prog: str) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, description="Make an image from a condition or a prompt.")
    add_shared_options(
        parser,
        model="folder of a trained model, or a Stable Diffusion checkpoint",
        prompt="what to show; a trained model takes one if its base has a text encoder",
    )
    add_sampling(
        parser,
        SAMPLERS,
        steps="as the trained model is made for, for a checkpoint 20",
        sampler="the trained model's, for a checkpoint dpm++",
        guidance="7.5 for a checkpoint, else as the model was trained",
    )
    add_start(parser, size="resized to --height and --width, or for a trained model to the result's")
    restore.add_own_options(parser.add_argument_group("trained models"))
    text2image.add_own_options(parser.add_argument_group("Stable Diffusion checkpoints"))
    return parser


def _refuse(options: argparse.Namespace, names: Iterable[str], reason: str) -> None:
    """Raise UserError if an option for the other kind of model was given."""
    for name in names:
        if getattr(options, name) is not None:
            raise UserError(f"{flag(name)}: {options.model} {reason}; leave it out or name another model")


def main(arguments: list[str], prog: str = "python -m codi_tf.sample") -> None:
    """Run `codi restore` or `codi text2image`, by the kind of model. Raises UserError, see their `run`."""
    options = _parser(prog).parse_args(arguments)
    check_shared_options(options)
    of_bundles = [name for name in restore.DEFAULTS if name not in text2image.DEFAULTS]
    of_checkpoints = [name for name in text2image.DEFAULTS if name not in restore.DEFAULTS]
    if is_bundle(options.model):
        _refuse(options, of_checkpoints, "is a trained model, which does not take it")
        restore.run(options)
    else:
        _refuse(options, of_bundles, f"is no trained model (it has no {BUNDLE}), and only these take it")
        text2image.run(options)
