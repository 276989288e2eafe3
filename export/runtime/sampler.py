"""`Sampler`: the graphs of a package as one function. Imports TensorFlow only if the format needs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from codi_tf.core.errors import UserError, explained, first_line
from export.emit.fidelity import of_ends
from export.formats.format import GraphFile, Run, Tensors
from export.formats.runtimes.runtime import RunOptions
from export.package.manifest import Package
from export.runtime.choice import Choice, resolve


class RunError(UserError):
    """A runtime does not load a graph, or fails while it runs it."""


@dataclass(frozen=True)
class Sampler:
    """A package's graphs in their runtime, as a function (condition, noise[, ids]) -> image.

    condition float32 [1, H, W, C] in [0, 1], None for text-to-image, noise float32 [1, h, w, 4], ids int32 [77], image
    float32 [1, H, W, 3] in [0, 1]. A graph's inputs are the outputs of other graphs with the same names. Threads may
    share a sampler. `fidelity`, below 1, is the share of the first step's x_hat in the latents (`fidelity.faithful`).
    """

    package: Package
    graphs: dict[str, Run]
    fidelity: float = 0.0

    def __call__(self, condition: np.ndarray | None, noise: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        given = {"condition": condition, "ids": ids}
        inputs = {name: value for name, value in given.items() if value is not None}
        if "sampler" in self.graphs:
            return self.graphs["sampler"]({**inputs, "noise": noise})["image"]
        pool, zs = self.read(inputs), [noise]
        for i in range(self.package.steps):
            zs = [*zs[:2], self.step(i, zs[-1], pool)]
        return self.decode(self.result(zs[0], zs[1], zs[-1]), pool)

    def read(self, inputs: Tensors) -> Tensors:
        """The inputs together with the embedded prompt and the condition features, which all steps take."""
        pool = dict(inputs)
        for name in ("text", "encoder"):
            if name in self.graphs:
                pool = self.run(name, pool)
        return pool

    def step(self, i: int, z: np.ndarray, pool: Tensors) -> np.ndarray:
        """z, float32 [1, h, w, 4], after step i of the schedule; `pool` is from `read`."""
        now = self.package.schedule[i]
        numbers = {
            name: np.array(value, "float32")
            for name, value in (("time", now["time"]), ("scales", [now["a"], now["b"]]))
        }
        return self.run("step", {**pool, **numbers, "z": z})["z_next"]

    def result(self, start: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """The latents to decode, of z where sampling starts, after the first step, and after the last."""
        estimate, now = self.package.estimate, self.package.schedule[0]
        if self.fidelity == 0.0 or estimate is None:
            return last
        p, q = map(np.float32, of_ends((now["a"], now["b"]), estimate))
        return np.float32(1.0 - self.fidelity) * last + np.float32(self.fidelity) * (p * start + q * first)

    def decode(self, z: np.ndarray, pool: Tensors) -> np.ndarray:
        """The image, float32 [1, H, W, 3] in [0, 1], of the last z; `pool` is from `read`."""
        return self.run("decoder", {**pool, "z": z})["image"]

    def run(self, part: str, pool: Tensors) -> Tensors:
        """Run a part, or its halves "step_1" and "step_2", and return the pool with its outputs."""
        for name in sorted(self.graphs):
            if name == part or name.startswith(f"{part}_"):
                inputs = {key: pool[key] for key in self.package.graphs[name].inputs}
                pool = {**pool, **self.graphs[name](inputs)}
        return pool


def scaled(sampler: Sampler, scale: float) -> Sampler:
    """The sampler with a condition that counts K times as much: its features f become K f + (1 - K) n, n the neutral.

    Args:
        sampler: from `load_any`.
        scale: K, 0 or more; 1 returns the sampler itself.

    Raises:
        UserError: the package's condition cannot be scaled: it is one graph, or its adapter works within the steps.
    """
    if scale == 1.0:
        return sampler
    package, encode = sampler.package, sampler.graphs.get("encoder")
    neutral = package.neutral_features
    if not neutral or encode is None:
        raise UserError(
            f"--condition-scale: that of {package.folder} is fixed; export the model again, with --condition-scale, or "
            "with --layout parts if its adapter is mu or t2i"
        )

    def features(inputs: Tensors) -> Tensors:
        made, kept = encode(inputs), 1.0 - scale
        return {name: np.float32(scale) * f + np.float32(kept * neutral.get(name, 0.0)) for name, f in made.items()}

    return replace(sampler, graphs={**sampler.graphs, "encoder": features})


def load_any(package: Package, choice: Choice | None = None) -> Sampler:
    """Load a package's graphs into a runtime, which may be TensorFlow.

    Args:
        package: from `read_package`.
        choice: of the runtime; None: the default of the package's format.

    Raises:
        UserError: the runtime is missing, or cannot do what is chosen (`choice.resolve`).
        RunError: it refuses a file; also when a graph is run.
    """
    runtime, options = resolve(choice or Choice(), package.format)
    return Sampler(package, {name: _plain(graph, runtime.load, options) for name, graph in package.graphs.items()})


def _plain(graph: GraphFile, load: Callable[[GraphFile, RunOptions], Run], options: RunOptions) -> Run:
    """A loaded graph. What its runtime raises, when it loads and when it runs, becomes a RunError that names the file.

    Runtimes have no exceptions of their own in common; LiteRT raises ValueError and RuntimeError.
    """

    @contextlib.contextmanager
    def plain_errors():
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            reason = (
                explained(error) or f"its runtime fails ({first_line(error)}); export it again, or update the runtime"
            )
            raise RunError(f"{graph.path}: {reason}") from error

    with plain_errors():
        run = load(graph, options)

    def plainly(inputs):
        with plain_errors():
            return run(inputs)

    return plainly
