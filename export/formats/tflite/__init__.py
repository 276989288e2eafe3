"""The format LiteRT (TFLite), for phones and desktops. Imports heavy modules only when they are used."""

from __future__ import annotations

from export.formats import FORMATS
from export.formats.format import Format
from export.formats.tflite.limits import MAX_FILE


@FORMATS.register("tflite")
class TFLite(Format):
    """LiteRT (TFLite). A file is smaller than 2 GiB."""

    suffix = ".tflite"
    weight_formats = ("float32", "float16", "int8", "int8_weight_only")
    mixed_formats = ("float16", "int8_weight_only")
    layouts = ("whole", "parts")
    max_graph = MAX_FILE
    requires = {"flatbuffers": "flatbuffers", "ai_edge_litert": "ai-edge-litert"}
    runtimes = ("litert",)

    @staticmethod
    def write(programs, emit, path, weight_formats):
        from export.formats.tflite.write import write

        return write(programs, emit, path, weight_formats)

    @staticmethod
    def stored_bytes(path):
        from export.formats.tflite.write import stored_bytes

        return stored_bytes(path)

    @staticmethod
    def new_graph():
        from export.formats.tflite.graph import LiteRtGraph

        return LiteRtGraph()
