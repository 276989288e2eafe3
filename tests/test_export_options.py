"""No option of the commands on packages is ignored: it counts, or it is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import run_here
from PIL import Image

from codi_tf.core.command_line import ArgumentParser
from codi_tf.core.errors import UserError
from export import __main__ as export
from export.build import make_package
from export.quantization.targets import check_target
from export.runtime import run
from export.web import __main__ as web

PACKAGE = Path(__file__).parent / "data" / "0.1.0" / "package"  # ONNX in parts, float16, 2 steps at 16x16
PLUG = ("BUNDLE", "--adapter-of", PACKAGE, "--out", "OUT")
WHOLE = ("BUNDLE", "--format", "onnx", "--out", "OUT")
PORTABLE = (*WHOLE, "--profile", "portable")
LITE = ("BUNDLE", "--format", "tflite", "--out", "OUT")
RUN = (PACKAGE, "--condition", "IN", "--out", "OUT.png")
# Where each option would be ignored if it were not refused: the command without it, its value, and the refusal.
REFUSED = {
    export: {
        "--format": [(PLUG, "tflite", "--format is tflite, but .* was made with onnx, .* leave --format out")],
        "--layout": [(PLUG, "whole", "--layout is whole, but .* was made with parts")],
        "--weights": [
            (PLUG, "int8", "--weights is int8, but .* was made with float16"),
            ((*PORTABLE, "--compute", "float16"), "int8", "weights is 'int8': .* holds float16; leave it out"),
        ],
        "--profile": [
            (PLUG, "portable", "--profile is portable, but .* was made with ort-cpu"),
            (WHOLE, "mine", "profile is 'mine': onnx offers ort-cpu, portable"),
            (LITE, "portable", "profile is 'portable': tflite offers cpu, gpu"),
        ],
        "--opset": [
            (PLUG, "23", "--opset is 23, but .* was made with none"),
            (WHOLE, "23", "opset is 23: only --profile portable leaves a choice"),
            (PORTABLE, "22", "opset is 22: use 21 or 23"),
            (PORTABLE, "nan", "--opset"),
        ],
        "--compute": [
            (PLUG, "float16", "--compute is float16, but .* was made with float32"),
            (WHOLE, "float16", "compute is 'float16': it takes --format onnx --profile portable"),
            (PORTABLE, "half", "compute is 'half': use float32 or float16"),
        ],
        "--steps": [
            (PLUG, "3", "--steps is 3, but .* was made with 2"),
            (WHOLE, "0", "steps is 0"),
            (WHOLE, "nan", "--steps"),
        ],
        "--size": [
            (PLUG, "16x24", "--size is 16x24, but .* was made with 16x16"),
            (PLUG, "16,32", "--size is 16x16,32x32, but"),
            (WHOLE, "", "--size is ''"),
        ],
        "--prompt": [(PLUG, "a cat", "--prompt is a cat, but .* was made with none")],
        "--sampler": [(PLUG, "consistency", "--sampler is consistency, but .* was made with ddim")],
        "--guidance": [(PLUG, "2", "--guidance is 2.0, but .* was made with none"), (WHOLE, "nan", "--guidance")],
        "--text-guidance": [
            (PLUG, "2", "--text-guidance is 2.0, but .* was made with none"),
            (WHOLE, "nan", "--text-guidance"),
        ],
        "--label": [(PLUG, "2", "--label is 2, but .* was made with none"), (WHOLE, "-1", "--label")],
        "--calibration": [
            (PLUG, "photos", "has no calibrated weights: leave out --calibration"),
            (WHOLE, "photos", "--calibration is 'photos': it is for --weights w8a8, w8a16; leave it out"),
        ],
        "--target-size": [
            (PLUG, "1MB", "has no mixed weights: leave out --target-size"),
            (WHOLE, "1MB", "need --weights mixed"),
            (WHOLE, "0MB", "--target-size is '0MB': it must be a number from 1 to 1e[+]15 bytes"),
            (WHOLE, f"{'9' * 400}GB", "--target-size is '9+GB': it must be a number from"),
            (WHOLE, "-1MB", "argument --target-size|--target-size is '-1MB'"),
            (WHOLE, "nan", "--target-size is 'nan': give a number and MB"),
        ],
        "--fidelity": [
            (PLUG, "0.5", "takes it when it runs; give it to codi run"),
            ([*WHOLE, "--layout=parts"], "0.5", "takes it when it runs; give it to codi run"),
            (WHOLE, "nan", "--fidelity"),
        ],
        "--min-psnr": [
            (PLUG, "40", "has no mixed weights: leave out --target-size and --min-psnr"),
            (WHOLE, "40", "need --weights mixed"),
            *((WHOLE, value, "--min-psnr is .*: it must be a number")
              for value in ("nan", "inf", "-40", "0", "1e9", "forty", "")),
        ],
    },
    run: {
        "--mask": [(RUN, "MASK", "--mask: .* takes no mask; leave it out")],
        "--prompt": [(RUN, "a cat", "--prompt: .* takes no prompt; leave it out")],
        "--adapter": [(RUN, PACKAGE, "no exported adapter")],
        "--size": [(RUN, "16", "--size: .* takes the size of the condition; leave it out")],
        "--threads": [(RUN, "0", "threads is 0"), (RUN, "nan", "--threads")],
        "--seed": [(RUN, "-1", "seed is -1"), (RUN, "nan", "--seed")],
        "--color": [(RUN, "sepia", "--color")],
        "--condition-scale": [(RUN, "2", "that of .* is fixed; export the model again"), (RUN, "-1", "from 0 to 10")],
        "--fidelity": [(RUN, "0.5", "not say how its steps are mixed; export the model"), (RUN, "1.5", "--fidelity")],
    },
    web: {},
}  # fmt: skip
# Options that are never ignored: each is used by every call that takes it.
USED = {
    export: {
        "--help",
        "--out",
        "--adapter-of",
        "--decoder",
        "--license",
        "--licence",
        "--lora",
        "--condition-scale",
        "--unrolled",
        "--runtime",
    },
    run: {
        "--help",
        "--condition",
        "--out",
        "--tile",
        "--colour",
        "--runtime",
        "--provider",
        "--providers",
        "--cache",
    },
    web: {"--help", "--out", "--runtime", "--samples"},
}
CASES = [
    (command, option, *case)
    for command, options in REFUSED.items()
    for option, cases in options.items()
    for case in cases
]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BUNDLE").mkdir()
    (tmp_path / "BUNDLE" / "codi.json").write_text("{}")
    for name in ("IN", "MASK"):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / name, "PNG")
    return tmp_path


@pytest.mark.parametrize("command, option, others, value, message", CASES)
def test_an_option_that_cannot_count_is_refused(folder, command, option, others, value, message):
    """Catches `--adapter-of P --weights int8`, which wrote float16; and a bound that is no number."""
    before = sorted(folder.rglob("*"))
    done = run_here(command.main, *others, f"{option}={value}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    with pytest.raises(UserError, match=message):
        raise UserError(done.stderr)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "others, message",
    [
        ((*LITE, "--layout", "parts"), "unrolled: tflite has no loop in the layout parts; leave it out"),
        (
            ("BUNDLE", "--format", "saved_model", "--out", "OUT"),
            "unrolled: saved_model has no loop in the layout whole",
        ),
        ((*PORTABLE, "--layout", "parts"), "unrolled: onnx has no loop in the layout parts; leave it out"),
        (PLUG, "--unrolled is True, but .* was made with False"),
    ],
)
def test_unrolled_is_refused_where_nothing_loops(folder, others, message):
    """Catches a flag that would change nothing."""
    done = run_here(export.main, *others, "--unrolled")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    with pytest.raises(UserError, match=message):
        raise UserError(done.stderr)


@pytest.mark.parametrize("command", REFUSED)
def test_every_option_is_in_a_table(monkeypatch, command):
    """Catches a new option that nobody has thought through: what is it with the others?"""
    parsers = []

    def record(self, arguments):
        parsers.append(self)
        raise UserError("recorded")

    monkeypatch.setattr(ArgumentParser, "parse_args", record)
    with pytest.raises(UserError, match="recorded"):
        command.main([])
    options = {name for action in parsers[0]._actions for name in action.option_strings if name.startswith("--")}
    assert options - {"--no-tile"} == REFUSED[command].keys() | USED[command]


def test_options_that_repeat_those_of_the_package_are_taken(folder):
    """Catches a refusal of what is the same: the export goes on, to the bundle, which is none."""
    same = ["--format=onnx", "--layout=parts", "--weights=float16", "--steps=2", "--size=16x16", "--sampler=ddim"]
    done = run_here(export.main, *PLUG, *same)
    assert done.returncode == 2 and "BUNDLE" in done.stderr and "was made with" not in done.stderr


@pytest.mark.parametrize("target", [{"psnr": float("nan")}, {"psnr": -1.0}, {"size": float("inf")}, {}, {"db": 3.0}])
def test_a_target_in_python_is_checked_too(folder, target):
    with pytest.raises(UserError, match="it must be a number from|give a size or a psnr"):
        check_target(target)
    with pytest.raises(UserError, match="it must be a number from|give a size or a psnr"):
        make_package(Path("BUNDLE"), Path("OUT"), format="onnx", weights="mixed", target=target)
