"""Runtimes beside that of a format: OpenVINO against ONNX Runtime and the gate; providers; one-line errors."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from commands import run_here
from export_cases import SIZES, STEPS, command, exported
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.io.hashing import file_sha256
from export import build
from export.formats.runtimes import RUNTIMES
from export.formats.runtimes.onnx_runtime import check_started, settings_of
from export.package.manifest import read_package
from export.parity import gate
from export.quantization import weights
from export.runtime import run
from export.runtime.choice import Choice, reported, resolve
from export.runtime.sampler import load_any

BF16 = "openvino:bfloat16"


@pytest.fixture
def openvino():
    return pytest.importorskip("openvino")


@pytest.fixture
def in_bfloat16(openvino):
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor computes nothing in bfloat16")


def image(folder: Path, choice: Choice | None = None) -> np.ndarray:
    package = read_package(folder)
    condition = np.random.default_rng(7).random((1, *SIZES["onnx"], 3), dtype=np.float32)
    return load_any(package, choice)(condition, gaussian_noise(70, package.latent_shape))


def test_openvino_makes_the_image_in_the_format_that_is_asked_for(bundle, in_bfloat16):
    """Catches OpenVINO's own choice: on a processor that has bfloat16 it computes in it, unasked."""
    package = exported(bundle, "onnx")
    expected = image(package)
    exact, rounded = (np.abs(image(package, Choice(name)) - expected).max() for name in ("openvino", BF16))
    assert exact < 1e-5 < 1e-3 < rounded < 0.1


@pytest.mark.parametrize("layout", [pytest.param("whole", marks=pytest.mark.slow), "parts"])
def test_the_gate_checks_and_reports_other_runtimes(bundle, tmp_path, in_bfloat16, layout):
    """Catches a runtime that is not run, or held to the bounds of another format."""
    out, both = tmp_path / "out", ("openvino", BF16)
    options = {"format": "onnx", "layout": layout, "steps": STEPS, "sizes": [SIZES["onnx"]], "runtimes": both}
    (figures,) = build.make_package(bundle, out, **options, report=layout == "whole")
    exact, rounded = (figures["runtimes"][name] for name in both)
    assert exact["bounds"] == gate.BOUNDS["float32"]._asdict() and exact["psnr_db"] > 90
    assert rounded["bounds"] == gate.BOUNDS["int8"]._asdict() and 35 < rounded["psnr_db"] < 80
    assert set(exact["part_errors"]) == (set() if layout == "whole" else {"encoder", "step", "decoder"})
    if layout == "whole":
        report = json.loads((out / "report.json").read_text())
        assert report["runtimes"][BF16]["parity"] == rounded and report["runtimes"][BF16]["here"]["seconds"] > 0
        assert "runtimes" not in report["parity"]
        assert f"| {BF16} | {rounded['psnr_db']:.1f} dB | 35 dB |" in (out / "report.md").read_text()


def test_what_another_runtime_refuses_is_not_written(bundle, tmp_path, openvino, monkeypatch):
    """Catches a package that is said to run in OpenVINO, which has no products by four bits."""
    monkeypatch.setattr(weights, "MIN_SIZE", 256)
    monkeypatch.setattr(weights, "MIN_SIZE_INT4", 256)
    options = ["--format", "onnx", "--weights", "int4", "--steps", 1, "--size", 16, "--runtime", "openvino"]
    done = command(bundle, *options, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: onnx in openvino: the runtime refuses the package: "), done.stderr
    assert not list(tmp_path.iterdir())


def run_it(package: Path, folder: Path, *options):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(folder / "in.png")
    return run_here(run.main, package, "--condition", folder / "in.png", "--out", folder / "out.png", *options)


def test_the_command_takes_a_runtime_a_provider_and_a_cache(bundle, tmp_path, openvino):
    """Catches options that do not arrive."""
    pictures = []
    package, kept = exported(bundle, "onnx"), tmp_path / "kept"
    for options in ([], ["--runtime", "openvino", "--provider", "CPU", "--threads", 1, "--cache", kept]):
        done = run_it(package, tmp_path, *options)
        assert done.returncode == 0, done.stderr
        pictures.append(np.asarray(Image.open(tmp_path / "out.png")).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert [path.suffix for path in kept.iterdir()] == [".blob"]


@pytest.mark.slow
def test_a_cache_never_gives_the_graph_of_other_weights(bundle, tmp_path, openvino):
    """Catches a cache that knows a graph by its path and its time: another export may have the same."""
    package = shutil.copytree(exported(bundle, "onnx"), tmp_path / "package")
    choice, graph = Choice("openvino", cache=tmp_path / "kept"), read_package(package).graphs["sampler"].path
    before, (stat, content) = image(package, choice), (graph.stat(), graph.read_bytes())
    model = onnx.load(graph)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.CopyFrom(numpy_helper.from_array(1.5 * numpy_helper.to_array(largest), largest.name))
    onnx.save(model, graph)
    os.utime(graph, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    manifest = json.loads((package / "manifest.json").read_text())
    manifest["files"][graph.name] = file_sha256(graph)
    (package / "manifest.json").write_text(json.dumps(manifest))
    assert len(graph.read_bytes()) == len(content)
    np.testing.assert_array_equal(image(package, choice), image(package, choice._replace(cache=None)))
    assert np.abs(image(package, choice) - before).max() > 1e-3


@pytest.mark.parametrize(
    ("format", "choice", "said"),
    [
        ("onnx", Choice("openvno"), "unknown runtime 'openvno': did you mean 'openvino'? known are "),
        ("tflite", Choice("openvino"), "--runtime is 'openvino': tflite packages run in litert"),
        (
            "onnx",
            Choice("onnxruntime:bfloat16"),
            "--runtime is 'onnxruntime:bfloat16': ONNX Runtime computes in",
        ),
        ("onnx", Choice(provider="tpu"), "--provider is 'tpu': ONNX Runtime here has "),
        (
            "tflite",
            Choice(provider="gpu"),
            "--provider is 'gpu': LiteRT here has cpu; use one of these, or",
        ),
        ("onnx", Choice(cache=Path("kept")), "--cache is kept: ONNX Runtime keeps no compiled graphs; leave it out"),
        ("onnx", Choice("openvino", "gpu.7"), "--provider is 'gpu.7': OpenVINO here has cpu"),
    ],
)
def test_what_a_runtime_cannot_do_is_refused(format, choice, said):
    """Catches options that are passed on to a runtime, which says nothing, or shows a traceback."""
    if choice.runtime == "openvino":
        pytest.importorskip("openvino")
    with pytest.raises(UserError) as refused:
        resolve(choice, format)
    assert str(refused.value).startswith(said), refused.value


def test_a_provider_that_is_missing_is_one_line_of_the_command(bundle, tmp_path):
    """Catches an image that is written by another provider, and a message of several lines."""
    done = run_it(exported(bundle, "onnx"), tmp_path, "--provider", "tpu")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: --provider is 'tpu': ONNX Runtime here has "), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_a_runtime_that_is_not_installed_is_named_before_the_export(bundle, tmp_path, monkeypatch):
    """Catches an export that takes minutes and then finds no OpenVINO."""
    monkeypatch.setattr(RUNTIMES["openvino"], "module", "no_openvino")
    done = command(bundle, "--format", "onnx", "--runtime", "openvino", "--out", tmp_path / "out")
    assert done.stderr == "error: OpenVINO is not installed: pip install openvino\n" and done.stdout == ""
    assert "openvino: not installed (OpenVINO is not installed: pip install openvino)" in reported()
    done = command(bundle, "--format", "onnx", "--runtime", "onnxruntime", "--out", tmp_path / "out")
    assert done.stderr == "error: --runtime is 'onnxruntime': the gate always runs onnx packages there; leave it out\n"


def test_providers_are_listed_as_the_runtimes_report_them(capsys):
    """Catches names that are made up; the list needs neither a package nor an image."""
    with pytest.raises(SystemExit, match="0"):
        run.main(["--providers"])
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    theirs = [name.removesuffix("ExecutionProvider").lower() for name in onnxruntime.get_available_providers()]
    assert lines["onnxruntime"].split(", ") == theirs and lines["litert"] == "cpu" and "tensorflow" not in lines


def test_every_provider_of_this_machine_makes_the_image(bundle):
    """Catches a provider that is asked for by another name than its own, or without the processor beside it."""
    package = exported(bundle, "onnx")
    for provider in RUNTIMES["onnxruntime"].providers():
        np.testing.assert_allclose(image(package, Choice(provider=provider)), image(package), atol=1e-3)


def test_a_provider_that_does_not_start_is_an_error():
    """Catches ONNX Runtime's way with a driver that is missing: it computes on the processor, with a mere warning."""
    check_started("cuda", ["cuda", "cpu"])
    with pytest.raises(UserError, match="--provider is 'cuda': this ONNX Runtime has it, but it does not start"):
        check_started("cuda", ["cpu"])


def test_nodes_run_in_the_order_of_the_file(tmp_path):
    """Catches ranges that are computed last: each keeps its map until then, and calibration fills the memory."""
    nodes, value = [], helper.make_tensor_value_info
    for i in range(4):
        nodes.append(helper.make_node("Sigmoid", [f"x{i}"], [f"x{i + 1}"], name=f"map {i}"))
        nodes.append(helper.make_node("ReduceMax", [f"x{i + 1}"], [f"end{i}"], keepdims=0, name=f"range {i}"))
    outputs = [value("x4", TensorProto.FLOAT, [8])] + [value(f"end{i}", TensorProto.FLOAT, []) for i in range(4)]
    graph = helper.make_graph(nodes, "chain", [value("x0", TensorProto.FLOAT, [8])], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    settings = settings_of(1, as_written=True)
    settings.enable_profiling, settings.profile_file_prefix = True, str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    session.run(None, {"x0": np.zeros(8, "float32")})
    events = sorted(json.loads(Path(session.end_profiling()).read_text("utf-8")), key=lambda event: event["ts"])
    ran = [event["name"].removesuffix("_kernel_time") for event in events if event["name"].endswith("_kernel_time")]
    assert ran == [node.name for node in nodes]
