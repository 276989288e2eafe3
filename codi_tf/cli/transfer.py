"""codi transfer BASE_A BASE_B --image in.png --out out.png: an image of A's domain as one of B's.

A's model leads from the image to noise (DDIM reversed), B's from that noise to an image. Both are bases with one
autoencoder, undistilled or distilled: A by guided distillation with method.reverse, B without. --image takes a folder,
too; --out is then a folder, and the same command resumes. With --data, pairs whose true counterparts are known are
measured, and --out is a report.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from codi_tf.cli.images import Images, base_folder
from codi_tf.cli.sampling_options import COMPUTE, fill_in, progress, say
from codi_tf.core.arguments import finite_number, flag, integer, path_argument, seed_number, several, text_argument
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.evaluation.report import REPORTS
from codi_tf.io.folders import check_folder, whole_folder
from codi_tf.io.images import read_image

MAX_COUNT = 100_000
OF_IMAGES = ("prompt", "reverse_prompt")  # options that --data does not take
OF_DATA = ("count", "seed", "size", "prompts", "undistilled", "reader")  # and those that --image does not take
DEFAULTS = {"count": 64, "seed": 0}


def main(arguments: list[str], prog: str = "codi transfer") -> None:
    """Run `codi transfer`. Raises UserError for options that do not fit the models or each other."""
    options = _parse(arguments, prog)
    if options.data is not None:
        from codi_tf.cli.transfer_report import measure_transfers

        check_folder(options.out, REPORTS, inputs=[*options.models, *(options.undistilled or ())])
        start_tensorflow()
        with whole_folder(options.out, REPORTS) as folder:
            table = measure_transfers(options, folder, load_pair)
        print(f"{table}\n{options.out}")
        return
    images = Images("--image", options.image, options, models=options.models, inputs={})
    if images.results is None:
        read_image(options.image)  # a mistake is told before the models are read
    print(images.write(lambda: _load(options), lambda pair, name: _transferred(pair, images.files[name], options)))


def _load(options: argparse.Namespace):
    start_tensorflow()
    return load_pair(options.models, options.compute)


def load_pair(models: tuple[Path, Path], compute: str):
    """The `Transfer` of two folders; one that is named twice is read once.

    Raises:
        UserError: a bundle, or see `load_stable_diffusion`, `BaseModel` and `Transfer`.
    """
    from codi_tf import load_stable_diffusion
    from codi_tf.inference.base_model import BaseModel
    from codi_tf.inference.transfer import Transfer

    read = {}
    for path in models:
        if path not in read:
            say(f"loading {path}")
            read[path] = BaseModel(load_stable_diffusion(path, compute=compute))
    return Transfer(*(read[path] for path in models), names=models)


def _transferred(pair, file: Path, options: argparse.Namespace):
    (steps,), (guidance,) = options.steps, options.guidance
    return pair.generate(
        read_image(file),
        options.prompt,
        options.reverse_prompt,
        steps=steps,
        guidance=guidance,
        reverse_guidance=options.reverse_guidance,
        report=progress("step", 2 * steps),
    )


def _parser(prog: str) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, doc=__doc__)
    parser.add_argument("base_a", type=path_argument, metavar="BASE_A", help="folder of the base of the images' domain")
    parser.add_argument("base_b", type=path_argument, metavar="BASE_B", help="folder of the base of the other domain")
    parser.add_argument("--out", type=path_argument, required=True, help="an image, a new folder, or a report")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--image", type=path_argument, help="an image of A's domain, or a folder of them")
    what.add_argument("--data", type=text_argument, help="pairs to measure on, such as scenes:noon-to-night")
    parser.add_argument(
        "--steps",
        type=several(integer(1, 1000)),
        default=[16],
        metavar="N",
        help="of each way; with --data several, as 16,8,4 (default: 16)",
    )
    parser.add_argument(
        "--guidance",
        type=several(finite_number()),
        default=[1.0],
        metavar="X",
        help="of B, by the prompt; with --data several, as 1,2 (default: 1, none)",
    )
    parser.add_argument("--reverse-guidance", type=finite_number(), default=1.0, help="of A (default: 1, none)")
    parser.add_argument("--compute", choices=COMPUTE, default=COMPUTE[0], help="number format (default: float32)")
    of_images = parser.add_argument_group("with --image")
    of_images.add_argument("--prompt", help="what the result shows, for B with a text encoder")
    of_images.add_argument("--reverse-prompt", help="what the image shows, for A with a text encoder")
    of_data = parser.add_argument_group("with --data")
    of_data.add_argument("--count", type=integer(2, MAX_COUNT), help="pairs (default: 64)")
    of_data.add_argument("--seed", type=seed_number, help="of the pairs (default: 0)")
    of_data.add_argument("--size", type=integer(8, 4096), help="of the images (default: as A was trained)")
    of_data.add_argument(
        "--prompts", action="store_const", const=True, help="use the captions of both images of a pair as prompts"
    )
    of_data.add_argument(
        "--undistilled", type=path_argument, nargs=2, metavar=("BASE_A", "BASE_B"), help="bases to measure as well"
    )
    of_data.add_argument("--reader", type=text_argument, help="folder of a reader of scenes")
    return parser


def _parse(arguments: list[str], prog: str) -> argparse.Namespace:
    """Parse and check the options. Raises UserError for bad options."""
    options = _parser(prog).parse_args(arguments)
    with_data = options.data is not None
    for name in OF_IMAGES if with_data else OF_DATA:
        if getattr(options, name) is not None:
            which = "--data" if with_data else "--image"
            raise UserError(f"{flag(name)} does not go with {which}: leave it out")
    fill_in(options, DEFAULTS)
    if not with_data and (len(options.steps) > 1 or len(options.guidance) > 1):
        raise UserError("--image takes one number of --steps and one --guidance: several need --data")
    options.models = base_folder(options.base_a), base_folder(options.base_b)
    options.undistilled = None if options.undistilled is None else tuple(map(base_folder, options.undistilled))
    return options
