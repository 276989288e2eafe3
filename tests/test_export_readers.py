"""Other programs read our ONNX files: the checker, shape inference, ONNX Runtime's tools, simplifiers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization.shape_inference import quant_pre_process

from codi_tf.core.noise import gaussian_noise
from export.emit import sampler
from export.formats import FORMATS
from export.quantization.weights import WeightFormats

pytest_plugins = ["export_cases"]
pytestmark = pytest.mark.usefixtures("small_kernels_too")


@pytest.fixture(params=["float32", "float16", "int8", "int4"])
def file(request, program, tmp_path) -> Path:
    """The whole sampler, with its loop."""
    FORMATS["onnx"].write([program], sampler.whole, tmp_path / f"{request.param}.onnx", WeightFormats(request.param))
    return tmp_path / f"{request.param}.onnx"


def inputs() -> dict[str, np.ndarray]:
    condition = np.random.default_rng(0).random((1, 16, 16, 3), dtype=np.float32)
    return {"condition": condition, "noise": gaussian_noise(3, (1, 4, 4, 4))}


def image(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, inputs())[0]


def loops(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == "Loop"]


def test_every_input_of_the_loop_is_named(file):
    """Catches an optional input that is left out: the standard allows it, but few readers do."""
    (loop,) = loops(onnx.load(file).graph)
    assert len(loop.input) == 3 and all(loop.input)


def test_the_checker_and_shape_inference_agree(file):
    """Catches shapes or types that only ONNX Runtime takes; what the image is made of is inferred, body and all."""
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    (shape,) = (output.type.tensor_type.shape for output in inferred.graph.output)
    assert [side.dim_value for side in shape.dim] == [1, 16, 16, 3]


def test_onnx_runtimes_own_preparation_takes_it(file, tmp_path):
    """Catches the Loop without a condition, on which ONNX Runtime's symbolic shape inference fails."""
    quant_pre_process(file, tmp_path / "prepared.onnx")
    np.testing.assert_allclose(image(tmp_path / "prepared.onnx"), image(file), atol=1e-5)


def simplified_by_onnxsim(path: Path) -> np.ndarray:
    onnxsim = pytest.importorskip("onnxsim")
    onnx.save(onnxsim.simplify(onnx.load(path))[0], path.with_stem("simple"))
    return image(path.with_stem("simple"))


def slimmed_by_onnxslim(path: Path) -> np.ndarray:
    onnxslim = pytest.importorskip("onnxslim")
    onnx.save(onnxslim.slim(onnx.load(path)), path.with_stem("slim"))
    return image(path.with_stem("slim"))


def run_by_openvino(path: Path) -> np.ndarray:
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return next(iter(model(inputs()).values()))


@pytest.mark.slow
@pytest.mark.parametrize("other", [simplified_by_onnxsim, slimmed_by_onnxslim, run_by_openvino])
def test_others_make_the_same_image(file, other):
    """Catches what other programs refuse or misread; OpenVINO pads with no zero point that is computed."""
    if other is run_by_openvino and file.stem == "int4":
        pytest.skip("OpenVINO refuses int4")
    np.testing.assert_allclose(other(file), image(file), atol=0.02 if file.stem == "int8" else 1e-5)
