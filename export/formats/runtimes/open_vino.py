"""OpenVINO. Imports it only when it is used."""

from __future__ import annotations

import threading

from codi_tf.core.errors import UserError
from export.formats.format import GraphFile, Run
from export.formats.runtimes import RUNTIMES
from export.formats.runtimes.runtime import RunOptions, Runtime

HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16"}  # of a device; all compute in float32


@RUNTIMES.register("openvino")
class OpenVino(Runtime):
    """OpenVINO, on any of its devices.

    Left alone, it computes in bfloat16 wherever the processor can. Here the format is always stated.
    """

    title = "OpenVINO"
    module = "openvino"
    package = "openvino"
    computes = tuple(HINTS)
    caches = True

    @classmethod
    def providers(cls):
        return tuple(device.lower() for device in cls.installed().Core().available_devices)

    @classmethod
    def load(cls, graph: GraphFile, options: RunOptions) -> Run:
        """An ONNX file; it computes one call after the other, as a request holds the tensors of one."""
        core, device = cls.installed(graph).Core(), options.provider.upper()
        able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
        if CAPABILITIES.get(options.compute, "FP32") not in able:
            others = [name for name in HINTS if CAPABILITIES.get(name, "FP32") in able]
            raise UserError(
                f"--runtime is 'openvino:{options.compute}': its device {options.provider} computes in "
                f"{', '.join(others)} on this machine; use one of these"
            )
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[options.compute],
            "INFERENCE_NUM_THREADS": options.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        known = core.get_property(device, "SUPPORTED_PROPERTIES")
        settings = {name: value for name, value in settings.items() if name in known}
        if options.cache is not None:
            core.set_property({"CACHE_DIR": str(options.cache)})
        # OpenVINO names a compiled graph in the cache by what it has read, not by the path of the file.
        request = core.compile_model(core.read_model(graph.path), device, settings).create_infer_request()
        lock = threading.Lock()

        def run(inputs):
            with lock:
                made = request.infer(inputs)
                return {output.get_any_name(): value.copy() for output, value in made.items()}

        return run
