"""What `codi evaluate` measures on: the examples of its options --data, --split, --prompt and --prompts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from codi_tf.cli.evaluate_options import flags_that_need_prompts, metric_arguments, needs_prompts
from codi_tf.core.errors import UserError
from codi_tf.core.markdown import plain
from codi_tf.evaluation.loading import truth_keys
from codi_tf.io.places import folder_pair

CAPTIONS = frozenset({"caption", "source_caption"})  # keys of examples, read along with their prompts


class Inputs(NamedTuple):
    """What bundles are measured on.

    Attributes:
        examples: "image", "condition", and what else is known, see `data.evaluation_set`.
        images: the names of the images that the examples are cut from, if they are known.
        about: the first words of the report: which examples these are.
        names: of each example, without extension; () if they have none.
    """

    examples: dict[str, np.ndarray]
    images: Sequence[str]
    about: str
    names: Sequence[str] = ()


def inputs_of(options: argparse.Namespace, model) -> Inputs:
    """The examples of the options for a model's task.

    Raises:
        UserError: the data cannot be read, or do not fit the task or the networks.
    """
    from codi_tf import data
    from codi_tf.data.scenes import ENDLESS

    pair = folder_pair(options.data)
    if pair is not None or data.is_pairs(options.data):
        if pair is None:
            examples, names = _written_pairs(options, model.task)
        else:
            examples, names = data.read_folder_pair(*pair, model.task, options.count)
        height, width = examples["image"].shape[1:3]
        size = _size(height, width)
        if height % model.base.multiple or width % model.base.multiple:
            multiple = model.base.multiple
            raise UserError(f"{options.data}: pairs of {size} pixels; these networks take multiples of {multiple}")
        images = [f"{name}.png" for name in names] if pair is None else names
        return Inputs(examples, images, f"{options.count} pairs of {size} pixels, {plain(options.data)}", names)
    source = data.load_source(options.data, "heldout" if options.split == "heldout" else None, model.task)
    shared = {"image_size": model.image_size, "count": options.count, "seed": options.seed}
    shared["keys"] = [key for key in truth_keys(metric_arguments(options)) if key in source.provides]
    shared["prompts"] = options.prompts or model.task.prompted or not CAPTIONS.isdisjoint(shared["keys"])
    examples = data.evaluation_set(source, model.task, **shared)
    number = "" if len(source) == ENDLESS else f"{len(source)} "
    which = number + ("held-out " if options.split == "heldout" else "")
    crops = f"{options.count} crops of {model.image_size} pixels"
    return Inputs(examples, source.names, f"{crops} from {which}images of {plain(options.data)}")


def prompts_of(options: argparse.Namespace, model, examples: dict) -> str | list[str] | None:
    """The prompt for all images (--prompt), the prompts of the images, or None.

    Raises:
        UserError: there is none where one is needed, or --prompt in place of instructions.
    """
    if options.prompt is not None and model.task.prompted:
        raise UserError("--prompt: each image has its own instruction, which the original follows; leave it out")
    if options.prompt is not None:
        return options.prompt
    if options.prompts or model.task.prompted:
        if "prompt" not in examples:
            raise UserError(f"--data is {options.data}: its images have no prompts; give --prompt, or name other data")
        return list(examples["prompt"])
    if flags := flags_that_need_prompts(metric_arguments(options)):
        raise UserError(f"{flags[0]} measures how well images fit a prompt; give --prompt or --prompts")
    return None


def check_prompts_used(prompts: str | list[str] | None, options: argparse.Namespace, models: dict) -> None:
    """Raise UserError for prompts that neither a model nor a metric takes."""
    takes_text = any(model.base.text_encoder is not None for model in models.values())
    if prompts is not None and not takes_text and not needs_prompts(metric_arguments(options)):
        raise UserError("--prompt: no bundle has a text encoder; leave it out, or name a --clip to compare it with")


def _written_pairs(options: argparse.Namespace, task) -> tuple[dict[str, np.ndarray], list[str]]:
    from codi_tf import data

    if not task.has_low_resolution:
        raise UserError(f"--data is {options.data}: pairs are for super-resolution; name other data for these bundles")
    examples = data.read_pairs(options.data, options.count, scale=task.scale)
    return examples, [f"{i:05}" for i in range(options.count)]


def _size(height: int, width: int) -> str:
    return str(height) if height == width else f"{width}x{height}"
