"""python -m export.run DIR --condition in.png --out out.png [--mask mask.png] [--prompt TEXT] [--seed 0] [--tile]

Runs an exported package. Needs NumPy, Pillow and the package's runtime (onnxruntime or ai-edge-litert); neither
TensorFlow nor Keras.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codi_tf.core.command_line import ArgumentParser
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.io import images
from codi_tf.io.color import ALIGNMENTS
from codi_tf.io.depth_files import as_picture, read_nearness
from export.package.adapters import with_adapter
from export.package.manifest import GraphFile, Package, read_package
from export.runtime.tiling import generate_tiled

Tensors = dict[str, np.ndarray]
Run = Callable[[Tensors], Tensors]  # a graph in its runtime


def load_tflite(graph: GraphFile) -> Run:
    """A flatbuffer's signature in LiteRT. Raises UserError where LiteRT is not installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        raise UserError(f"{graph.path}: a .tflite file needs LiteRT: pip install ai-edge-litert") from None
    interpreter = Interpreter(model_path=str(graph.path), num_threads=os.cpu_count())
    runner = interpreter.get_signature_runner(graph.signature)
    return lambda inputs: runner(**inputs)


def load_onnx(graph: GraphFile) -> Run:
    """An ONNX file in ONNX Runtime, on the CPU. Raises UserError where ONNX Runtime is not installed."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise UserError(f"{graph.path}: an .onnx file needs ONNX Runtime: pip install onnxruntime") from None
    session = onnxruntime.InferenceSession(graph.path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


RUNTIMES = {"tflite": load_tflite, "onnx": load_onnx}


@dataclass(frozen=True)
class Sampler:
    """A package's graphs, loaded: (condition, noise[, ids]) -> image.

    condition float32 [1, H, W, C] in [0, 1], noise float32 [1, h, w, 4], ids int32 [77], image float32 [1, H, W, 3] in
    [0, 1]. What one graph gives others take by its name.
    """

    package: Package
    graphs: dict[str, Run]

    def __call__(self, condition: np.ndarray, noise: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        inputs = {"condition": condition, **({} if ids is None else {"ids": ids})}
        if "sampler" in self.graphs:
            return self.graphs["sampler"]({**inputs, "noise": noise})["image"]
        pool = self.read(inputs)
        for i in range(self.package.steps):
            noise = self.step(i, noise, pool)
        return self.decode(noise, pool)

    def read(self, inputs: Tensors) -> Tensors:
        """The inputs, and what all steps are told: the prompt's embedding, the condition's features."""
        pool = dict(inputs)
        for name in ("text", "encoder"):
            if name in self.graphs:
                pool = self.run(name, pool)
        return pool

    def step(self, i: int, z: np.ndarray, pool: Tensors) -> np.ndarray:
        """z after the step i of the schedule."""
        now = self.package.schedule[i]
        numbers = {"time": np.float32(now["time"]), "scales": np.float32([now["a"], now["b"]])}
        return self.run("step", {**pool, **numbers, "z": z})["z_next"]

    def decode(self, z: np.ndarray, pool: Tensors) -> np.ndarray:
        """The image of the last z."""
        return self.run("decoder", {**pool, "z": z})["image"]

    def run(self, part: str, pool: Tensors) -> Tensors:
        """The pool with what a part makes of it; a step may have two halves, "step_1" and "step_2"."""
        for name in sorted(self.graphs):
            if name == part or name.startswith(f"{part}_"):
                inputs = {key: pool[key] for key in self.package.graphs[name].inputs}
                pool = {**pool, **self.graphs[name](inputs)}
        return pool


def load(package: Package) -> Sampler:
    """The package's graphs in their runtime. Raises UserError where they need TensorFlow, or a missing runtime."""
    if package.format not in RUNTIMES:
        raise UserError(
            f"{package.folder}: a {package.format} package needs TensorFlow (tf.saved_model.load); "
            f"for this command export with --format {' or '.join(RUNTIMES)}"
        )
    return Sampler(package, {name: RUNTIMES[package.format](graph) for name, graph in package.graphs.items()})


def token_ids(package: Package, prompt: str | None) -> np.ndarray | None:
    """The prompt as the package takes it. Raises UserError for one that is missing, or not wanted."""
    if not package.prompted:
        if prompt is not None:
            raise UserError(f"--prompt: {package.folder} was made for one prompt; leave it out, or export without one")
        return None
    if prompt is None:
        raise UserError(f"--prompt is missing: {package.folder} does what a prompt says")
    from codi_tf.checkpoints.tokenizer import Tokenizer

    return Tokenizer.load(package.folder / "tokenizer")([prompt])[0]


def generate(
    sampler: Sampler,
    image: np.ndarray,
    *,
    seed: int,
    ids: np.ndarray | None = None,
    tile: bool = False,
    color: str = "none",
) -> np.ndarray:
    """The image for a condition image of any size.

    The condition is scaled, without distortion, to fit into the size that the graphs were made for, and mirrored at the
    bottom and the right to fill it; what comes out is cut and scaled back. With `tile`, a condition that is larger is
    not scaled but worked on in tiles (`export.runtime.tiling`). The noise is that of `codi_tf`'s `generate`. The known
    pixels of a photo with a mask are its own.

    Args:
        image: float32 [H, W, 3] in [0, 1]; for inpainting [H, W, 4], with a mask above 0.5 where it is to be filled.
        ids: of the prompt, where it is an input.
        color: "wavelet" or "adain" aligns the picture's colors with the condition's (`codi_tf.io.color`), for
            super-resolution alone.

    Returns:
        float32 [H, W, 3] in [0, 1].

    Raises:
        UserError: for a bad seed, or a color that the task does not keep.
    """
    package = sampler.package
    if color != "none" and not package.keeps_colors:
        raise UserError(f"--color: {package.folder} was made for {package.task}, which keeps no colors; leave it out")
    fitted = image if tile else _fit(image, package.height, package.width)
    height, width = fitted.shape[:2]
    filled = _mirrored(fitted, max(height, package.height), max(width, package.width))
    if filled.shape[:2] == (package.height, package.width):
        output = sampler(filled[None], gaussian_noise(seed, package.latent_shape), ids)[0]
    else:
        output = generate_tiled(sampler, filled, seed=seed, ids=ids)
    output = _resize(output[:height, :width], *image.shape[:2])
    if color != "none":
        output = np.clip(ALIGNMENTS[color](output, image), 0.0, 1.0)
    return output if image.shape[-1] == 3 else np.where(image[..., 3:] > 0.5, output, image[..., :3])


def _fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """As large as height x width allows, the ratio of the sides kept."""
    scale = min(height / image.shape[0], width / image.shape[1])
    return images.resize_condition(image, *(max(1, round(scale * side)) for side in image.shape[:2]))


def _mirrored(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """At least height x width."""
    return np.pad(image, [(0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)], "reflect")


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


def main(arguments: list[str], prog: str = "python -m export.run") -> None:
    parser = ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("package", type=Path, help="the folder that python -m export made")
    parser.add_argument("--condition", required=True, type=Path, help="image file of any size")
    parser.add_argument("--mask", type=Path, help="for inpainting: white where the photo is to be filled, its size")
    parser.add_argument("--prompt", help="what is to be done, where the package takes a prompt")
    parser.add_argument("--out", required=True, type=Path, help="PNG file to write, of the condition's size")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise, 0 unless given")
    parser.add_argument("--tile", action="store_true", help="work on a large picture in tiles, not scaled down")
    colors = ("none", *ALIGNMENTS)
    parser.add_argument(
        "--color", "--colour", choices=colors, default="none", help="align the colors with the condition's"
    )
    parser.add_argument("--adapter", type=Path, help="the folder of another adapter for the same base (--adapter-of)")
    options = parser.parse_args(arguments)
    package = read_package(options.package)
    if options.adapter is not None:
        package = with_adapter(package, options.adapter)
    ids = token_ids(package, options.prompt)
    image = _condition(package, options.condition, options.mask)
    how = {"tile": options.tile, "color": options.color}
    package = package.fitting(*image.shape[:2])
    result = generate(load(package), image, seed=options.seed, ids=ids, **how)
    images.write_png(options.out, result)
    height, width = image.shape[:2]
    print(f"{options.out}: {width}x{height}, computed at {package.width}x{package.height} in {package.steps} steps")
    if options.mask is not None:
        print(f"where {options.mask} is not white, its pixels are those of {options.condition}")
