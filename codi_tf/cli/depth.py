"""codi depth FOLDER --model MODEL.onnx: write a depth map for every image of a folder.

Writes NAME.depth.png next to NAME.jpg, for training on depth, with a monocular depth network of your own (MiDaS, DPT,
Depth Anything, ... exported to ONNX). A map is a 16-bit gray PNG of its image's size, the nearest pixel white, the
farthest black. Existing maps are not overwritten, so the same command resumes. Needs ONNX Runtime and no TensorFlow.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from codi_tf.core.arguments import finite_number, integer, path_argument
from codi_tf.core.command_line import ArgumentParser
from codi_tf.core.errors import UserError
from codi_tf.core.progress import Progress
from codi_tf.io import depth_files
from codi_tf.io.files import check_growing_folder
from codi_tf.io.images import read_image, resize

Network = Callable[[np.ndarray], np.ndarray]  # float32 [1, 3, h, w] -> a map, [h', w'] with any axes of 1 around

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # what most of these networks subtract from RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)  # and divide by
MAX_SIDE = 4096
SIZE, MULTIPLE = 518, 14  # of Depth Anything; DPT and MiDaS: 384 and 32
SHOWN = 5  # names in a message
INPUTS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def estimate(
    image: np.ndarray,
    network: Network,
    size: tuple[int, int],
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    kind: str = "disparity",
) -> np.ndarray:
    """Estimate the nearness of each pixel with a network: float32 [H, W] in [0, 1], 1 the nearest.

    Args:
        image: float32 RGB [H, W, 3] in [0, 1].
        network: float32 [1, 3, h, w], (RGB - mean) / std -> its map, [h', w'] with any axes of size 1 around.
        size: (h, w), what the image is resized to for the network; the map is resized back.
        mean, std: of the network's training images, per channel.
        kind: the network's output: "disparity", larger is nearer, or "depth", distances.

    Raises:
        UserError: the network's output is no map, constant, or not finite.
    """
    pixels = (resize(image, *size) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)  # [h, w, 3]
    depth = _as_map(network(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])))
    near = depth_files.checked_nearness("the network's map", depth_files.nearness(depth, kind))
    return resize(depth_files.as_gray_image(near)[..., :1], *image.shape[:2])[..., 0]


def size_for(height: int, width: int, shorter: int, multiple: int) -> tuple[int, int]:
    """(height, width) scaled so that the shorter side is `shorter`, each side rounded to a multiple above 0."""
    scale = shorter / min(height, width)

    def scaled(side: int) -> int:
        return max(1, round(side * scale / multiple)) * multiple

    return scaled(height), scaled(width)


class OnnxNetwork:
    """A depth network from an ONNX file, run in ONNX Runtime; a `Network`.

    Args:
        path: a model with one input, float32 or float16, [1, 3, h, w] or [1, h, w, 3], sides fixed or open; its first
            output counts.

    Attributes:
        size: (h, w) where the file fixes them, else None.

    Raises:
        UserError: ONNX Runtime or the file is missing, or the file holds no such model.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise UserError(f"--model is {path}: no such file; export a depth network to ONNX")
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise UserError(f"{path}: an .onnx file needs ONNX Runtime: pip install onnxruntime") from None
        self.path = path
        available = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        try:
            self.session = onnxruntime.InferenceSession(path, providers=providers)
        except Exception as error:  # ONNX Runtime's own exceptions have no public base
            raise UserError(f"{path}: ONNX Runtime cannot load it ({_first_line(error)})") from error
        inputs = self.session.get_inputs()
        shapes = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        shape = inputs[0].shape
        one_image = len(inputs) == 1 and len(shape) == 4 and inputs[0].type in INPUTS
        self.channels_last = one_image and shape[3] == 3 and shape[1] != 3
        if not one_image or not self.channels_last and isinstance(shape[1], int) and shape[1] != 3:
            raise UserError(f"{path} takes {shapes}: a depth network takes one image, [1, 3, h, w] or [1, h, w, 3]")
        self.name, self.dtype = inputs[0].name, INPUTS[inputs[0].type]
        sides = shape[1:3] if self.channels_last else shape[2:]
        self.size = tuple(sides) if all(isinstance(side, int) and side > 0 for side in sides) else None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """float32 [1, 3, h, w] -> the first output. Raises UserError where the model fails."""
        given = pixels.transpose(0, 2, 3, 1) if self.channels_last else pixels
        try:
            return self.session.run(None, {self.name: given.astype(self.dtype)})[0]
        except Exception as error:
            size = f"{pixels.shape[3]}x{pixels.shape[2]}"
            raise UserError(
                f"{self.path} fails on {size} ({_first_line(error)}); try another --size or --multiple"
            ) from error


def _as_map(output: np.ndarray) -> np.ndarray:
    """[h, w] of an output with any axes of 1 around. Raises UserError for another shape."""
    depth = np.squeeze(np.asarray(output, np.float32))
    if depth.ndim != 2:
        raise UserError(f"the network gives {np.shape(output)}: a depth map is [1, h, w] or [1, 1, h, w]")
    return depth


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _parser(prog: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=prog, description="Write depth maps next to images, with a network of your own. The same command resumes."
    )
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
    _as_map(network(np.zeros((1, 3, *trial), np.float32)))  # a wrong model fails at once, not image by image

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
