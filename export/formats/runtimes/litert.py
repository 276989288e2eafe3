"""LiteRT. Imports it only when it is used."""

from __future__ import annotations

import importlib
import threading

from export.formats.format import GraphFile, Run
from export.formats.runtimes import RUNTIMES
from export.formats.runtimes.runtime import RunOptions, Runtime
from export.formats.tflite.quiet import note_nothing


@RUNTIMES.register("litert")
class LiteRt(Runtime):
    """LiteRT, on the processor."""

    title = "LiteRT"
    module = "ai_edge_litert"
    package = "ai-edge-litert"
    max_threads = 8

    @classmethod
    def load(cls, graph: GraphFile, options: RunOptions) -> Run:
        """A signature of a flatbuffer; it computes one call after the other.

        An interpreter holds the tensors of one call: two at a time would overwrite each other's.
        """
        cls.installed(graph)
        interpreters = importlib.import_module("ai_edge_litert.interpreter")
        note_nothing()
        interpreter = interpreters.Interpreter(model_path=str(graph.path), num_threads=options.threads)
        runner, lock = interpreter.get_signature_runner(graph.signature), threading.Lock()

        def run(inputs):
            with lock:
                return runner(**inputs)

        return run
