"""python -m export BUNDLE --format saved_model|tflite|onnx [--weights int8] [--steps 4] [--size 64] --out DIR"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from codi_tf.cli import ArgumentParser, run_command
from codi_tf.errors import UserError
from export.package import ARTEFACTS, make_package


def _size(text: str) -> tuple[int, int]:
    """(64, 64) for "64", (64, 96) for "64x96": height first."""
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None:
        raise UserError(f"--size is {text!r}: give one side, or HEIGHTxWIDTH, for example 64 or 64x96")
    return int(match[1]), int(match[2] or match[1])


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("bundle", type=Path, help="the folder of a trained model")
    parser.add_argument("--format", required=True, help=", ".join(ARTEFACTS))
    parser.add_argument(
        "--weights", default="float32", help="float32 unless given; onnx: or float16; tflite: or int8, too"
    )
    parser.add_argument("--steps", type=int, default=4, help="network evaluations, 4 unless given")
    parser.add_argument("--size", help="height and width, 64 or 64x96; the size of the training crops unless given")
    parser.add_argument("--prompt", help="the one that the file is made for; the empty one unless given")
    parser.add_argument("--out", required=True, type=Path, help="folder of the package")
    options = parser.parse_args(arguments)
    size = None if options.size is None else _size(options.size)
    chosen = {"format": options.format, "steps": options.steps, "size": size, "prompt": options.prompt}
    chosen["weights"] = options.weights
    figures = make_package(options.bundle, options.out, **chosen)
    keras, artefact = figures["condition_sensitivity"].values()
    print(
        f"on {figures['cases']} inputs from {figures['conditions']}: max error {figures['max_error']:.1e}, "
        f"PSNR {figures['psnr_db']:.0f} dB; swapping conditions moves the image by {artefact:.4f} (Keras {keras:.4f})\n"
        f"{figures['file_bytes'] / 1e6:.1f} MB for {figures['weight_bytes'] / 1e6:.1f} MB of weights: {options.out}"
    )


if __name__ == "__main__":
    sys.exit(run_command(_main))
