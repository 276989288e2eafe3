"""The format LiteRT (TFLite), for phones and desktops. Imports heavy modules only when they are used."""

from __future__ import annotations

import functools

from codi_tf.core.errors import UserError
from export.formats import FORMATS
from export.formats.format import Format
from export.formats.tflite.limits import MAX_FILE
from export.quantization.activations import CALIBRATED

GPU = "gpu"  # the profile of graphs that LiteRT's GPU delegate takes as a whole
GPU_WEIGHTS = ("float32", "float16")


@FORMATS.register("tflite")
class TFLite(Format):
    """LiteRT (TFLite). A file is smaller than 2 GiB."""

    suffix = ".tflite"
    weight_formats = ("float32", "float16", "int8", "int8_weight_only", "int4_channel")
    mixed_formats = ("float16", "int8_weight_only", "int4_channel")
    calibrated_formats = tuple(CALIBRATED)
    layouts = ("whole", "parts")
    profiles = ("cpu", GPU)
    has_loop = True
    max_graph = MAX_FILE
    requires = {"flatbuffers": "flatbuffers", "ai_edge_litert": "ai-edge-litert"}
    runtimes = ("litert",)

    @staticmethod
    def write(programs, emit, path, weight_formats):
        from export.formats.tflite.write import write

        return write(programs, emit, path, weight_formats)

    @classmethod
    def writer(cls, form):
        from export.formats.tflite.write import write

        return functools.partial(write, gpu=form.profile == GPU, unrolled=form.unrolled)

    @classmethod
    def check_form(cls, form, layout, weights):
        super().check_form(form, layout, weights)
        if form.profile == GPU and weights not in GPU_WEIGHTS:
            raise UserError(f"weights is {weights!r}: profile {GPU} takes {' or '.join(GPU_WEIGHTS)}, as GPUs compute")

    @staticmethod
    def stored_bytes(path):
        from export.formats.tflite.write import stored_bytes

        return stored_bytes(path)

    @staticmethod
    def new_graph():
        from export.formats.tflite.graph import LiteRtGraph

        return LiteRtGraph()
