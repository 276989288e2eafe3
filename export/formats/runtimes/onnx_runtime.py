"""ONNX Runtime. Imports it only when it is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codi_tf.core.errors import UserError
from export.formats.format import GraphFile, Run
from export.formats.runtimes import RUNTIMES
from export.formats.runtimes.runtime import RunOptions, Runtime

SUFFIX = "ExecutionProvider"
EXACT = {"cuda": {"use_tf32": "0"}}  # products of float32 in full, as everywhere else


@RUNTIMES.register("onnxruntime")
class OnnxRuntime(Runtime):
    """ONNX Runtime, on any of the execution providers that the installed build has."""

    title = "ONNX Runtime"
    module = "onnxruntime"
    package = "onnxruntime"

    @classmethod
    def providers(cls):
        return tuple(map(_short, cls.installed().get_available_providers()))

    @classmethod
    def load(cls, graph: GraphFile, options: RunOptions) -> Run:
        runtime = cls.installed(graph)
        names = {_short(name): name for name in runtime.get_available_providers()}
        chosen = [(names[options.provider], EXACT.get(options.provider, {}))]
        if options.provider != "cpu":
            chosen.append((names["cpu"], {}))  # of the operators that the other lacks
        session = runtime.InferenceSession(graph.path, settings_of(options.threads), providers=chosen)
        check_started(options.provider, [_short(name) for name in session.get_providers()])
        outputs = [output.name for output in session.get_outputs()]
        return lambda inputs: dict(zip(outputs, session.run(outputs, inputs), strict=True))


def settings_of(threads: int, *, as_written: bool = False):
    """The settings of a session: so many threads, and exact products.

    `as_written` runs the nodes in the order of the file. Left alone, ONNX Runtime first computes the last output, and
    holds every tensor that another output is computed from, as its range, until then.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    if as_written:
        settings.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    # Else products of widened kernels round their activations to 8 bits.
    settings.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return settings


def load_as_written(path: Path, threads: int) -> Run:
    """A graph on the processor, whose nodes run in the order of the file."""
    import onnxruntime

    settings = settings_of(threads, as_written=True)
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def check_started(provider: str, started: Sequence[str]) -> None:
    """Raise UserError for a provider that is not among those of a session.

    A build may have a provider that this machine has no device or driver for. ONNX Runtime then computes with the
    others, and only logs a warning.
    """
    if provider not in started:
        raise UserError(
            f"--provider is {provider!r}: this ONNX Runtime has it, but it does not start on this machine; install its "
            "driver and libraries, or leave --provider out"
        )


def _short(name: str) -> str:
    """ "CUDAExecutionProvider" -> "cuda"."""
    return name.removesuffix(SUFFIX).lower()
