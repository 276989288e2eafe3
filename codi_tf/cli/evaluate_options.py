"""The options of `codi evaluate`, checked before TensorFlow is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from codi_tf.core.arguments import finite_number, integer, one_of, path_argument, seed_number, several, text_argument
from codi_tf.core.command_line import ArgumentParser
from codi_tf.core.errors import UserError
from codi_tf.diffusion.samplers import SAMPLERS
from codi_tf.evaluation import METRICS
from codi_tf.evaluation.loading import labels
from codi_tf.evaluation.loading import options as metric_options
from codi_tf.evaluation.report import REPORTS
from codi_tf.io.bundle_files import BUNDLE, another_model, check_is_folder, is_bundle, is_pairs, model_at
from codi_tf.io.folders import check_folder
from codi_tf.io.listing import files_below
from codi_tf.io.naming import is_image
from codi_tf.io.places import folder_pair

SPLITS = ("heldout", "all")
MAX_COUNT = 100_000


def make_parser(prog: str) -> ArgumentParser:
    """The parser of `codi evaluate`, with the options of all registered metrics."""
    parser = ArgumentParser(
        prog=prog,
        description="Measure bundles on the same held-out crops with the same noise, by every sampler and number of "
        "steps. The report is report.md (a table with intervals), curves.png, grid.png, process-1.png, ... (one for "
        "each bundle and sampler), metrics.json and metrics.npz (values of every image).",
        epilog="PSNR, SSIM, sharpness, latent error and FD-photos, the Frechet distance through a small network "
        "trained on photos (not FID), need nothing else. Other metrics are measured if their weights are "
        "named.",
    )
    parser.add_argument(
        "bundles",
        type=path_argument,
        nargs="+",
        metavar="BUNDLE",
        help="folder of a trained model; or of another method's images, named as the inputs of --data",
    )
    parser.add_argument("--out", type=path_argument, required=True, help="folder of the report")
    parser.add_argument(
        "--data",
        type=text_argument,
        default="photos",
        help="photos (default), a folder, shards, a TFDS name, or pairs: a folder of codi pairs, or two, LOW:HIGH",
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default=SPLITS[0],
        help="heldout (default): images that training does not use; or all images",
    )
    steps = several(integer(1, 1000))
    parser.add_argument(
        "--steps", type=steps, default=[1, 2, 4], metavar="N,..", help="network evaluations (default: 1,2,4)"
    )
    parser.add_argument(
        "--samplers",
        type=several(one_of(tuple(SAMPLERS))),
        metavar="NAME,..",
        help=f"of {', '.join(SAMPLERS)} (default: of each bundle the one that it is trained for)",
    )
    parser.add_argument("--guidance", type=finite_number(), help="for bundles trained with guidance (default: none)")
    parser.add_argument(
        "--text-guidance",
        type=finite_number(),
        help="guidance by the prompt, for bundles trained with it",
    )
    parser.add_argument("--prompt", help="one prompt for all images: for bundles with a text encoder, and for --clip")
    parser.add_argument(
        "--prompts", action="store_true", help="use the prompts of the images (always, if the task needs them)"
    )
    parser.add_argument("--count", type=integer(2, MAX_COUNT), default=256, help="crops (default: 256)")
    parser.add_argument("--seed", type=seed_number, default=0, help="of crops, degradations and noise (default: 0)")
    for option in metric_options():
        default = None if option.default is None else option.default()
        parser.add_argument(option.flag, dest=option.key, default=default, help=option.help)
    return parser


def parse(arguments: list[str], prog: str) -> argparse.Namespace:
    """Parse and check the options. Raises UserError for bad ones.

    `bundles`, and `results`, the folders of other methods' images, become label -> folder.
    """
    options = make_parser(prog).parse_args(arguments)
    paths = [model_at(path) for path in options.bundles]
    _check_paths(paths, options.data)
    named = dict(zip(labels(paths), paths, strict=True))
    options.results = {label: path for label, path in named.items() if _holds_images(path)}
    options.bundles = {label: path for label, path in named.items() if label not in options.results}
    for option in metric_options():
        argument = getattr(options, option.key)
        if argument is not None:
            option.check(argument)
    if options.prompt is not None and options.prompts:
        raise UserError("--prompt is one prompt for all images, --prompts one for each image: give one of them")
    _check_out(options)
    return options


def metric_arguments(options: argparse.Namespace) -> dict[str, str | None]:
    """The arguments of the options of metrics: `Option.key` -> argument, or None."""
    return {option.key: getattr(options, option.key) for option in metric_options()}


def flags_that_need_prompts(arguments: Mapping[str, str | None]) -> list[str]:
    """The given flags whose metrics compare images with prompts."""
    kinds = [METRICS[name] for name in METRICS]
    of_prompts = [kind.option for kind in kinds if kind.needs_prompts and kind.option is not None]
    return [option.flag for option in of_prompts if arguments[option.key] is not None]


def needs_prompts(arguments: Mapping[str, str | None]) -> bool:
    """Whether one of the metrics to measure compares images with prompts."""
    always = any(METRICS[name].needs_prompts and METRICS[name].option is None for name in METRICS)
    return always or bool(flags_that_need_prompts(arguments))


def _check_paths(paths: Sequence[Path], source: str) -> None:
    """Raise UserError for folders that hold neither a bundle nor images, and for images that nothing is matched to."""
    results = [path for path in paths if _holds_images(path)]
    for path in paths:
        check_is_folder(path)
        if path not in results and not is_bundle(path):
            what = f"no bundle is in it (there is no {BUNDLE})" if path.is_dir() else "no such bundle"
            raise UserError(f"{path}: {what}; {another_model(path)}")
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("a bundle is named twice; name each once")
    if results == list(paths):
        raise UserError(f"{paths[0]}: holds images; name a bundle, too, whose task and autoencoder measure them")
    if results and not is_pairs(source) and folder_pair(source) is None:
        raise UserError(
            f"{results[0]}: images are matched by name to --data, and {source} has no pairs of names; give a folder of "
            "codi pairs, or LOW:HIGH"
        )


def _holds_images(path: Path) -> bool:
    return path.is_dir() and not is_bundle(path) and any(map(is_image, files_below(path)[0]))


def _check_out(options: argparse.Namespace) -> None:
    """Raise UserError if --out exists and is anything but an earlier report, which the new one replaces."""
    check_folder(options.out, REPORTS, inputs=[*options.bundles.values(), *options.results.values()])
    for option in metric_options():
        argument = getattr(options, option.key)
        path = None if argument is None else option.path(argument)
        if option.made and path is not None and options.out.resolve() in (path.resolve(), *path.resolve().parents):
            raise UserError(f"{option.flag} is {argument}: the report replaces {options.out}; name a folder elsewhere")
