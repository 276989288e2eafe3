"""python -m benchmarks.export_profile PACKAGE [--runtime openvino:bfloat16]: where the time of an exported model goes.

The runtime's own counters of its operators, added up by the operator's type for each part of one image, after one image
that warms up. ONNX Runtime and OpenVINO count; OpenVINO counts a loop as one operator, so give it a package of parts.
With `--rates`, also the machine's rate of a product of 2048 x 2048 matrices in several formats: what it can do at most.
"""

from __future__ import annotations

import bisect
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from codi_tf.core.command_line import ArgumentParser, run_command
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from export.formats.format import GraphFile, Tensors
from export.formats.runtimes import RUNTIMES
from export.formats.runtimes.onnx_runtime import settings_of
from export.formats.runtimes.open_vino import HINTS
from export.formats.threads import default_threads
from export.package.manifest import read_package
from export.runtime.choice import resolve_runtime
from export.runtime.sampler import Sampler

LINES = 14  # of the table; the rest is added up
SIDE, ROUNDS = 2048, 20


class Part:
    """A graph that notes the seconds of each call by the clock, and those of its operators."""

    def __init__(self):
        self.clock: list[float] = []

    def __call__(self, inputs: Tensors) -> Tensors:
        began = time.perf_counter()
        outputs = self.run(inputs)
        self.clock.append(time.perf_counter() - began)
        return outputs

    def run(self, inputs: Tensors) -> Tensors:
        """Run the graph."""
        raise NotImplementedError

    def operators(self) -> list[Counter[str]]:
        """The seconds of each type of operators in every call. Ends the profile."""
        raise NotImplementedError


class InOnnxRuntime(Part):
    """A graph whose operators ONNX Runtime's profiler times, in a file that it writes at the end."""

    def __init__(self, graph: GraphFile, _: str):
        import onnxruntime

        super().__init__()
        settings = settings_of(default_threads())
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(tempfile.mkdtemp()) / "profile")
        self._session = onnxruntime.InferenceSession(graph.path, settings, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Tensors) -> Tensors:
        return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))

    def operators(self) -> list[Counter[str]]:
        path = Path(self._session.end_profiling())
        events = json.loads(path.read_text("utf-8"))
        shutil.rmtree(path.parent)
        ends = sorted(event["ts"] + event["dur"] for event in events if event["name"] == "model_run")
        calls = [Counter[str]() for _ in ends]
        for event in events:
            kind = event.get("args", {}).get("op_name")
            if event["cat"] == "Node" and event["name"].endswith("kernel_time") and kind not in (None, "Loop"):
                calls[bisect.bisect_left(ends, event["ts"])][kind] += event["dur"] / 1e6
        return calls


class InOpenVino(Part):
    """A graph whose operators OpenVINO counts."""

    def __init__(self, graph: GraphFile, compute: str):
        import openvino

        super().__init__()
        settings = {"INFERENCE_PRECISION_HINT": HINTS[compute], "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
        settings["INFERENCE_NUM_THREADS"] = default_threads()
        core = openvino.Core()
        self._request = core.compile_model(core.read_model(graph.path), "CPU", settings).create_infer_request()
        self._calls: list[Counter[str]] = []

    def run(self, inputs: Tensors) -> Tensors:
        outputs = self._request.infer(inputs)
        self._calls.append(Counter())
        for found in self._request.profiling_info:
            self._calls[-1][f"{found.node_type} ({found.exec_type})"] += found.real_time.total_seconds()
        return {output.get_any_name(): value.copy() for output, value in outputs.items()}

    def operators(self) -> list[Counter[str]]:
        return self._calls


PARTS = {"onnxruntime": InOnnxRuntime, "openvino": InOpenVino}


def profile(folder: Path, runtime: str | None) -> list[str]:
    """Markdown: a line for each type of operators, the longest first, and one for each part's time by the clock."""
    package = read_package(folder)
    chosen, compute = resolve_runtime(runtime, package.format)
    name = RUNTIMES.name_of(chosen)
    if name not in PARTS:
        raise UserError(f"--runtime is {name}: {' and '.join(PARTS)} count their operators; use one of these")
    graphs = {part: PARTS[name](graph, compute) for part, graph in package.graphs.items()}
    condition = np.full((1, package.height, package.width, package.channels), 0.5, np.float32)
    for _ in range(2):  # the first warms up
        Sampler(package, graphs)(condition, gaussian_noise(0, package.latent_shape))
    seconds = {part: _second_half(graph.operators()) for part, graph in graphs.items()}
    clock = [sum(graph.clock[len(graph.clock) // 2 :]) for graph in graphs.values()]
    total = sum(seconds.values(), Counter[str]())
    lines = [f"| operators | {' | '.join(seconds)} | all | share |", f"|---|{'---:|' * (len(seconds) + 2)}"]
    rows = {kind: [counts[kind] for counts in seconds.values()] for kind, _ in total.most_common(LINES)}
    shown = [sum(times) for times in zip(*rows.values(), strict=True)]
    rows["the rest"] = [sum(counts.values()) - part for counts, part in zip(seconds.values(), shown, strict=True)]
    for kind, times in rows.items():
        lines.append(_row(kind, times, f"{sum(times) / sum(total.values()):.0%}"))
    return [*lines, _row("by the clock", clock, "")]


def _row(name: str, times: list[float], share: str) -> str:
    return f"| {name} | {' | '.join(f'{seconds:.2f}' for seconds in (*times, sum(times)))} | {share} |"


def _second_half(calls: list[Counter[str]]) -> Counter[str]:
    return sum(calls[len(calls) // 2 :], Counter[str]())


def rates() -> list[str]:
    """Multiplications and additions per second of large products, as PyTorch's oneDNN computes them."""
    import torch

    def rate(a, product) -> str:
        best = min(_seconds(lambda: product(a, a)) for _ in range(ROUNDS))
        return f"{2 * SIDE**3 / best / 1e9:,.0f} GFLOP/s"

    torch.set_num_threads(default_threads())
    real = torch.randn(SIDE, SIDE)
    return [
        f"float32: {rate(real, torch.matmul)}",
        f"bfloat16: {rate(real.bfloat16(), torch.matmul)}",
        f"int8: {rate((20 * real).to(torch.int8), torch._int_mm)}",
    ]


def _seconds(run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.export_profile", description=__doc__)
    parser.add_argument("package", type=Path, help="folder of an exported model")
    parser.add_argument("--runtime", help="as in codi run: onnxruntime, openvino, openvino:bfloat16")
    parser.add_argument("--rates", action="store_true", help="measure the machine's products, too")
    options = parser.parse_args(arguments)
    print("\n".join(profile(options.package, options.runtime)), flush=True)
    if options.rates:
        print("\n".join(rates()))


if __name__ == "__main__":
    sys.exit(run_command(_main))
