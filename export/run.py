"""python -m export.run DIR --condition in.png --out out.png [--mask mask.png] [--seed 0]: run an exported package.

Needs NumPy, Pillow and the package's runtime (onnxruntime or ai-edge-litert); neither TensorFlow nor Keras.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from codi_tf import images
from codi_tf.cli import ArgumentParser, run_command
from codi_tf.depth_files import as_picture, read_nearness
from codi_tf.errors import UserError
from codi_tf.noise import gaussian_noise
from export.package import Package, read_package

# (condition float32 [1, H, W, C] in [0, 1], noise float32 [1, h, w, 4]) -> image float32 [1, H, W, 3] in [0, 1]
Sampler = Callable[[np.ndarray, np.ndarray], np.ndarray]


def load_tflite(path: Path) -> Sampler:
    """A flatbuffer in LiteRT. Raises UserError where LiteRT is not installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        raise UserError(f"{path}: a .tflite file needs LiteRT: pip install ai-edge-litert") from None
    runner = Interpreter(model_path=str(path)).get_signature_runner()

    def sample(condition: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return runner(condition=condition, noise=noise)["image"]

    return sample


def load_onnx(path: Path) -> Sampler:
    """An ONNX file in ONNX Runtime, on the CPU. Raises UserError where ONNX Runtime is not installed."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise UserError(f"{path}: an .onnx file needs ONNX Runtime: pip install onnxruntime") from None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def sample(condition: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return session.run(["image"], {"condition": condition, "noise": noise})[0]

    return sample


RUNTIMES = {"tflite": load_tflite, "onnx": load_onnx}


def load(package: Package) -> Sampler:
    """The package's artefact in its runtime. Raises UserError where it needs TensorFlow, or a missing runtime."""
    if package.format not in RUNTIMES:
        raise UserError(
            f"{package.folder}: a {package.format} package needs TensorFlow (tf.saved_model.load); "
            f"for this command export with --format {' or '.join(RUNTIMES)}"
        )
    return RUNTIMES[package.format](package.artefact)


def generate(package: Package, sampler: Sampler, image: np.ndarray, *, seed: int) -> np.ndarray:
    """The image for a condition image of any size.

    The condition is scaled, without distortion, to fit into the size that the graph was made for, and mirrored at the
    bottom and the right to fill it; what comes out is cut and scaled back. The noise is that of `codi_tf`'s `generate`.
    The known pixels of a photo with a mask are its own.

    Args:
        image: float32 [H, W, 3] in [0, 1]; for inpainting [H, W, 4], with a mask above 0.5 where it is to be filled.

    Returns:
        float32 [H, W, 3] in [0, 1].

    Raises:
        UserError: for a bad seed.
    """
    noise = gaussian_noise(seed, package.latent_shape)
    fitted = _fit(image, package.height, package.width)
    height, width = fitted.shape[:2]
    filled = np.pad(fitted, [(0, package.height - height), (0, package.width - width), (0, 0)], "reflect")
    output = _resize(sampler(filled[None], noise)[0, :height, :width], *image.shape[:2])
    return output if image.shape[-1] == 3 else np.where(image[..., 3:] > 0.5, output, image[..., :3])


def _fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """As large as height x width allows, the ratio of the sides kept."""
    scale = min(height / image.shape[0], width / image.shape[1])
    return images.resize_condition(image, *(max(1, round(scale * side)) for side in image.shape[:2]))


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return image if image.shape[:2] == (height, width) else images.resize(image, height, width)


def _condition(package: Package, path: Path, mask: Path | None) -> np.ndarray:
    """What the package's task makes pictures from. Raises UserError for a mask that is missing or not wanted."""
    if package.channels == 3 and mask is not None:
        raise UserError(f"--mask: {package.folder} was made for {package.task}, which takes none; leave it out")
    if package.task == "depth":
        return as_picture(read_nearness(path, package.depth_kind))
    if package.channels == 3:
        return images.read_image(path)
    if mask is None:
        raise UserError(f"--mask is missing: {package.folder} fills in what is white in a picture of the photo's size")
    return images.read_image_and_mask(path, mask)


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m export.run", description=__doc__)
    parser.add_argument("package", type=Path, help="the folder that python -m export made")
    parser.add_argument("--condition", required=True, type=Path, help="image file of any size")
    parser.add_argument("--mask", type=Path, help="for inpainting: white where the photo is to be filled, its size")
    parser.add_argument("--out", required=True, type=Path, help="PNG file to write, of the condition's size")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise, 0 unless given")
    options = parser.parse_args(arguments)
    package = read_package(options.package)
    image = _condition(package, options.condition, options.mask)
    result = generate(package, load(package), image, seed=options.seed)
    images.write_png(options.out, result)
    height, width = image.shape[:2]
    print(f"{options.out}: {width}x{height}, computed at {package.width}x{package.height} in {package.steps} steps")


if __name__ == "__main__":
    sys.exit(run_command(_main))
