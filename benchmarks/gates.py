"""python -m benchmarks.gates BUNDLE [BUNDLE ...] [--formats onnx]: the gate's figures of trained models, in every form.

Prints a row for each export with its figures, or the reason if the gate refuses it. Mixed weights aim at 40 dB;
calibrated ones take the training images of the photos.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path

from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.core.errors import UserError
from export.formats import FORMATS
from export.formats.form import PLAIN, PORTABLE, Form
from export.quantization.activations import CALIBRATED

PORTABLE_FORMS = (Form(PORTABLE), Form(PORTABLE, 23), Form(PORTABLE, compute="float16"))
MIXED = {"psnr": 40.0}
COLUMNS = (
    "model",
    "export",
    "weights",
    "PSNR",
    "max error",
    "color",
    "another condition moves it by",
    "an image",
    "peak",
)


def _row(name: str, program, format: str, weights: str, form: Form = PLAIN) -> str:
    import json

    from export.build import write_package

    layout = FORMATS[format].layouts[-1]  # parts if the format offers them: their errors count, too
    opset = None if form.opset is None else f"opset {form.opset}"
    written = ", ".join(filter(None, [layout, form.profile, opset]))
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        out = Path(scratch) / "package"
        options = {"form": form, **({"target": MIXED} if weights == "mixed" else {})}
        options |= {"calibration": "photos"} if weights in CALIBRATED else {}
        try:
            (figures,) = write_package([program], out, format=format, layout=layout, weights=weights, **options)
        except UserError as error:
            return f"| {name} | {format}, {written} | {weights} | refused: {error} |"
        here = json.loads((out / "report.json").read_text("utf-8"))["here"]
    moved = figures["condition_sensitivity"]
    speed = f"{1000 * here['seconds']:.0f} ms | {here['peak_bytes'] / 2**20:.0f} MiB" if "seconds" in here else "| "
    computed = ", computes in float16" if form.in_half else ""
    stored = f"{weights}{computed}, {figures['stored_bytes'] / 1e6:.1f} MB"
    return (
        f"| {name} | {format}, {written} | {stored} | {figures['psnr_db']:.1f} dB "
        f"| {figures['max_error']:.1e} | {figures['color_shift']:.1e} "
        f"| {moved['export']:.4f}, Keras' {moved['keras']:.4f} | {speed} |"
    )


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.gates", description=__doc__)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="(default: all)")
    options = parser.parse_args(arguments)
    start_tensorflow()
    import codi_tf
    from export.emit.program import SamplerProgram

    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for bundle in options.bundles:
        model = codi_tf.load(bundle)
        program = SamplerProgram(model, steps=4, height=model.image_size, width=model.image_size)
        for format in options.formats:
            for weights in FORMATS[format].weight_choices():
                print(_row(model.task_config()["name"], program, format, weights), flush=True)
            for form in PORTABLE_FORMS if PORTABLE in FORMATS[format].profiles else ():
                print(_row(model.task_config()["name"], program, format, form.default_weights, form), flush=True)


if __name__ == "__main__":
    sys.exit(run_command(_main))
