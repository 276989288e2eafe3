"""Depth estimation with a network that the user brings, as an ONNX file. Needs ONNX Runtime and no TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.io import depth_files
from codi_tf.io.images import resize

Network = Callable[[np.ndarray], np.ndarray]  # float32 [1, 3, h, w] -> a map, [h', w'] with any axes of 1 around

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # what most of these networks subtract from RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)  # and divide by
SIZE, MULTIPLE = 518, 14  # of Depth Anything; DPT and MiDaS: 384 and 32
INPUTS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def seen(
    image: np.ndarray,
    network: Network,
    size: tuple[int, int],
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    kind: str = "disparity",
) -> np.ndarray:
    """What a network sees in an image: nearness in its own unit, float32 [h', w'], NaN where it is unknown.

    Args:
        image: float32 RGB [H, W, 3] in [0, 1].
        network: float32 [1, 3, h, w], (RGB - mean) / std -> its map, [h', w'] with any axes of size 1 around.
        size: (h, w), what the image is resized to for the network.
        mean, std: of the network's training images, per channel.
        kind: the network's output: "disparity", larger is nearer, or "depth", distances.

    Raises:
        UserError: the network's output is no map.
    """
    pixels = (resize(image, *size) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)  # [h, w, 3]
    depth = as_map(network(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])))
    return depth_files.nearness(depth, kind)


def of_image(near: np.ndarray, height: int, width: int, *, fill: bool = False) -> np.ndarray:
    """What `seen` gives, at the size of the image and in [0, 1], 1 the nearest: float32 [H, W].

    Arguments and errors: see `io.depth_files.checked_nearness`.
    """
    near = depth_files.as_gray_image(depth_files.checked_nearness("the network's map", near, fill=fill))
    return resize(near[..., :1], height, width)[..., 0]


def estimate(image: np.ndarray, network: Network, size: tuple[int, int], **options) -> np.ndarray:
    """The nearness of each pixel, `of_image` of what is `seen`, with the same arguments and errors."""
    return of_image(seen(image, network, size, **options), *image.shape[:2])


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


def as_map(output: np.ndarray) -> np.ndarray:
    """[h, w] of an output with any axes of 1 around. Raises UserError for another shape."""
    depth = np.squeeze(np.asarray(output, np.float32))
    if depth.ndim != 2:
        raise UserError(f"the network gives {np.shape(output)}: a depth map is [1, h, w] or [1, 1, h, w]")
    return depth


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
