"""What a package computes does not depend on the processor's instructions."""

from __future__ import annotations

import onnx
import pytest
from emulated import EmulatedSampler, needs_qemu

from export.build import write_package
from export.emit import sampler
from export.formats import FORMATS
from export.formats.onnx.graph import bodies
from export.parity import gate
from export.quantization.activations import CALIBRATED
from export.quantization.weights import WeightFormats

pytest_plugins = ["export_cases"]
pytestmark = pytest.mark.usefixtures("small_kernels_too")

INTEGER = {"MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "QGemm", "DynamicQuantizeMatMul"}


@pytest.mark.parametrize("kind", [kind for kind in FORMATS["onnx"].weight_formats if kind != "float32"])
def test_products_of_whole_numbers_have_unsigned_operands(program, tmp_path, kind):
    """Catches an operand of int8: with uint8, processors without VNNI add pairs of products in 16 bits.

    Also a product by weights of four bits that rounds its activations to 8 bits (accuracy_level 4).
    """
    path = tmp_path / "model.onnx"
    FORMATS["onnx"].write([program], sampler.whole, path, WeightFormats(kind))
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    graphs = [graph, *bodies(graph.node)]
    types = {tensor.name: tensor.data_type for part in graphs for tensor in part.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for part in graphs for value in part.value_info}
    nodes = [node for part in graphs for node in part.node]
    products = [node for node in nodes if node.op_type in INTEGER]
    assert {node.op_type for node in products} == ({"MatMulInteger"} if kind == "int8" else set())
    assert (len(products) > 20) == (kind == "int8")
    assert (len([node for node in nodes if node.op_type == "MatMulNBits"]) > 20) == (kind == "int4")
    assert {types[name] for node in products for name in node.input} <= {onnx.TensorProto.UINT8}
    assert not [
        a for node in nodes if node.op_type == "MatMulNBits" for a in node.attribute if a.name[:8] == "accuracy"
    ]


QUANTIZED = [(name, kind) for name in ("onnx", "tflite") for kind in FORMATS[name].weight_formats if kind != "float32"]
QUANTIZED += [(name, "w8a8") for name in ("onnx", "tflite")]


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize("format, kind", [("onnx", "float32"), ("tflite", "float32"), *QUANTIZED])
def test_the_gate_holds_on_a_processor_without_vnni(program, tmp_path, monkeypatch, format, kind):
    """Catches products of 8 bits whose sums fit into this machine's accumulators, but not into those of AVX2."""
    made = []

    def emulated(package, choice):
        made.append(EmulatedSampler(package))
        return made[-1]

    monkeypatch.setattr(gate, "load_any", emulated)
    options = {"format": format, "layout": "parts", "weights": kind, "report": False}
    options |= {"calibration": "photos"} if kind in CALIBRATED else {}
    try:
        (figures,) = write_package([program], tmp_path / "out", **options)
        assert figures["psnr_db"] > figures["bounds"]["psnr"] and len(made) == 1
    finally:
        for process in made:
            process.close()
