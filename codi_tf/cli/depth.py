"""codi depth FOLDER --model MODEL.onnx: write a depth map for every image of a folder.

Writes NAME.depth.png next to NAME.jpg, for training on depth, with a monocular depth network of your own (MiDaS, DPT,
Depth Anything, ... exported to ONNX). A map is a 16-bit gray PNG of its image's size, the nearest pixel white, the
farthest black. Existing maps are not overwritten, so the same command resumes. Needs ONNX Runtime and no TensorFlow.
"""

from __future__ import annotations

import warnings

import numpy as np

from codi_tf.core.arguments import finite_number, integer, path_argument
from codi_tf.core.command_line import ArgumentParser
from codi_tf.core.errors import UserError
from codi_tf.core.progress import Progress
from codi_tf.evaluation.perception.depth import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MULTIPLE,
    SIZE,
    OnnxNetwork,
    as_map,
    estimate,
    size_for,
)
from codi_tf.io import depth_files
from codi_tf.io.files import check_growing_folder
from codi_tf.io.images import read_image

MAX_SIDE = 4096
SHOWN = 5  # names in a message


def _parser(prog: str) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, doc=__doc__)
    parser.add_argument("folder", type=path_argument, help="folder of images")
    parser.add_argument("--model", type=path_argument, required=True, help="the network, an ONNX file")
    parser.add_argument(
        "--size",
        type=integer(1, MAX_SIDE),
        help=f"shorter side of the network's input, if its file does not fix it (default: {SIZE})",
    )
    parser.add_argument(
        "--multiple",
        type=integer(1, MAX_SIDE),
        help=f"both sides are multiples of this number (default: {MULTIPLE})",
    )
    parser.add_argument(
        "--kind", choices=depth_files.KINDS, default="disparity", help="what the network gives (default: disparity)"
    )
    for name, default, what, number in (
        ("mean", IMAGENET_MEAN, "is subtracted", finite_number()),
        ("std", IMAGENET_STD, "it is divided by", finite_number(0, above=True)),
    ):
        numbers = " ".join(map(str, default))
        parser.add_argument(
            f"--{name}",
            type=number,
            nargs=3,
            default=default,
            metavar=("R", "G", "B"),
            help=f"what of RGB in [0, 1] {what} (default: {numbers})",
        )
    return parser


def main(arguments: list[str], prog: str = "python -m codi_tf.depth") -> None:
    """Run `codi depth`. Raises UserError for a network that does not run, or if no image gets a map."""
    options = _parser(prog).parse_args(arguments)
    photos, maps = depth_files.photo_files(options.folder), depth_files.map_files(options.folder)
    wanted = {name: file for name, file in photos.items() if name not in maps}
    if not wanted:
        print(f"{options.folder}: all {len(photos)} images have a depth map")
        return
    check_growing_folder(options.folder)
    network = OnnxNetwork(options.model)
    if network.size is not None and (options.size or options.multiple) is not None:
        raise UserError(
            f"--size and --multiple: {options.model} takes {network.size[1]}x{network.size[0]}; leave them out"
        )
    shorter, multiple = options.size or SIZE, options.multiple or MULTIPLE
    trial = network.size or size_for(1, 1, shorter, multiple)
    as_map(network(np.zeros((1, 3, *trial), np.float32)))  # a wrong model fails at once, not image by image

    progress, failures = Progress("depth map", len(wanted)), []
    for done, (name, file) in enumerate(wanted.items(), start=1):
        try:
            image = read_image(file)
            size = network.size or size_for(*image.shape[:2], shorter=shorter, multiple=multiple)
            near = estimate(image, network, size, mean=options.mean, std=options.std, kind=options.kind)
        except UserError as error:  # one bad image does not stop the others
            failures.append((file.name, error))
        else:
            depth_files.write_nearness(options.folder / f"{name}{depth_files.MARK}.png", near)
        progress.update(done)
    first = f"{failures[0][0]}: {failures[0][1]}" if failures else ""
    if len(failures) == len(wanted):
        raise UserError(f"{options.folder}: no depth map could be made of {len(wanted)} images; {first}")
    if failures:
        names = ", ".join(name for name, _ in failures[:SHOWN]) + (", ..." if len(failures) > SHOWN else "")
        warnings.warn(
            f"{options.folder}: {len(failures)} of {len(wanted)} images are left without a map: {names} ({first})",
            stacklevel=1,
        )
    print(f"{options.folder}: {len(wanted) - len(failures)} depth maps written, {len(photos) - len(wanted)} existed")
