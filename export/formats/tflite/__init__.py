"""The format LiteRT (TFLite), for phones and desktops. Imports heavy modules only when they are used."""

from __future__ import annotations

import functools
import threading

from codi_tf.core.errors import UserError
from export.formats import FORMATS
from export.formats.format import Format, GraphFile, Run
from export.formats.tflite.limits import MAX_FILE
from export.formats.tflite.quiet import note_nothing

GPU = "gpu"  # the profile of graphs that LiteRT's GPU delegate takes as a whole
GPU_WEIGHTS = ("float32", "float16")


@FORMATS.register("tflite")
class TFLite(Format):
    """LiteRT (TFLite). A file is smaller than 2 GiB."""

    suffix = ".tflite"
    weight_formats = ("float32", "float16", "int8", "int8_weight_only")
    mixed_formats = ("float16", "int8_weight_only")
    calibrated_formats = ("w8a8", "w8a16")
    layouts = ("whole", "parts")
    profiles = ("cpu", GPU)
    max_graph = MAX_FILE
    max_threads = 8
    requires = {"flatbuffers": "flatbuffers", "ai_edge_litert": "ai-edge-litert"}

    @staticmethod
    def write(programs, emit, path, weight_formats):
        from export.formats.tflite.write import write

        return write(programs, emit, path, weight_formats)

    @classmethod
    def writer(cls, form):
        from export.formats.tflite.write import write

        return functools.partial(write, gpu=form.profile == GPU)

    @classmethod
    def check_form(cls, form, layout, weights):
        super().check_form(form, layout, weights)
        if form.profile == GPU and weights not in GPU_WEIGHTS:
            raise UserError(f"weights is {weights!r}: profile {GPU} takes {' or '.join(GPU_WEIGHTS)}, as GPUs compute")

    @staticmethod
    def load(graph: GraphFile, threads: int) -> Run:
        """Load a signature of a flatbuffer into LiteRT, which computes one call after the other.

        An interpreter holds the tensors of one call: two at a time would overwrite each other's.

        Raises:
            UserError: LiteRT is not installed.
        """
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ModuleNotFoundError:
            raise UserError(f"{graph.path}: a .tflite file needs LiteRT: pip install ai-edge-litert") from None
        note_nothing()
        interpreter = Interpreter(model_path=str(graph.path), num_threads=threads)
        runner, lock = interpreter.get_signature_runner(graph.signature), threading.Lock()

        def run(inputs):
            with lock:
                return runner(**inputs)

        return run

    @staticmethod
    def stored_bytes(path):
        from export.formats.tflite.write import stored_bytes

        return stored_bytes(path)

    @staticmethod
    def new_graph():
        from export.formats.tflite.graph import LiteRtGraph

        return LiteRtGraph()
