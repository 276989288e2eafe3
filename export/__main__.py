"""codi export BUNDLE --format onnx --out PACKAGE: export a trained model as SavedModel, TFLite or ONNX.

Writes a folder with the graphs and a manifest. Every graph is run in its own runtime and compared with the Keras model;
the folder appears only if they agree.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys

from codi_tf.core.arguments import add_condition_scale, add_fidelity, add_loras, finite_number, integer, path_argument
from codi_tf.core.command_line import ArgumentParser, run_command
from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_WIDTH
from export.build import make_adapter, make_package
from export.emit.limits import MAX_STEPS
from export.formats import FORMATS
from export.formats.form import COMPUTES, OPSETS, PORTABLE, Form
from export.package.manifest import parse_size
from export.quantization.activations import CALIBRATED
from export.quantization.targets import parse_target

FORM = tuple(field.name for field in dataclasses.fields(Form))  # each is an option


def main(arguments: list[str], prog: str = "python -m export") -> None:
    """Run `codi export`. Raises UserError, see `make_package` and `make_adapter`."""
    parser = ArgumentParser(prog=prog, doc=__doc__)
    parser.add_argument(
        "bundle", type=path_argument, help="folder of a trained model, or of a distilled text-to-image model"
    )
    parser.add_argument("--format", help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--layout", help="whole: one graph (default); parts: one graph each for encoder, step, decoder")
    offers = "; ".join(f"{name}: {', '.join(FORMATS[name].weight_choices())}" for name in FORMATS)
    parser.add_argument(
        "--weights", help=f"format of the weights (default: float32; with --compute float16, float16). {offers}"
    )
    profiles = "; ".join(f"{name}: {', '.join(FORMATS[name].profiles)}" for name in FORMATS if FORMATS[name].profiles)
    parser.add_argument("--profile", help=f"the readers that graphs are for (default: the first). {profiles}")
    parser.add_argument(
        "--opset", type=integer(1, 1000), help=f"of ONNX, for --profile {PORTABLE}: {' or '.join(map(str, OPSETS))}"
    )
    parser.add_argument("--compute", help=f"what activations are: {' or '.join(COMPUTES)} (default: {COMPUTES[0]})")
    parser.add_argument(
        "--unrolled", action="store_true", default=None, help="write the steps one after the other, without a loop"
    )
    parser.add_argument("--target-size", help="for mixed weights: their size, for example 700MB")
    parser.add_argument("--min-psnr", help="for mixed and calibrated weights: the lowest PSNR of images, dB")
    parser.add_argument(
        "--calibration",
        help=f"for calibrated weights ({', '.join(CALIBRATED)}): the images, as --data names them elsewhere: "
        "a folder, shards, photos, scenes",
    )
    parser.add_argument("--steps", type=integer(1, MAX_STEPS), help="of the sampler (default: as it is made for)")
    parser.add_argument(
        "--size",
        help="64, or height and width, 64x96; several with commas between (default: that of the training crops)",
    )
    parser.add_argument(
        "--prompt", help="the prompt of every image (default: an input if it needs prompts, else the empty one)"
    )
    parser.add_argument(
        "--sampler", help="a sampler with deterministic steps (default: the one that the model is trained for)"
    )
    parser.add_argument(
        "--guidance",
        type=finite_number(),
        help="of every image, as in codi restore and codi text2image, which also have the default",
    )
    parser.add_argument(
        "--text-guidance", type=finite_number(), help="of every image, by the prompt (default: 1, none)"
    )
    parser.add_argument(
        "--label",
        type=integer(0, MAX_WIDTH),
        help="the class of every image, for a model that takes classes (default: the null class, none)",
    )
    add_condition_scale(parser, above=True)
    add_fidelity(parser, "a package of parts takes it in codi run")
    parser.add_argument(
        "--decoder", type=path_argument, help="folder of a small decoder, an AutoencoderTiny, in place of the VAE's"
    )
    add_loras(parser)
    parser.add_argument(
        "--runtime",
        help="further runtimes that the gate runs the package in, with commas between: openvino, openvino:bfloat16",
    )
    parser.add_argument("--license", help="license of the base, for the manifest")
    parser.add_argument("--licence", dest="license", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--adapter-of", type=path_argument, help="a package of parts: export the adapter alone, to plug in there"
    )
    parser.add_argument("--out", required=True, type=path_argument, help="folder of the package")
    options = parser.parse_args(arguments)
    names = ("format", "layout", "weights", "calibration", "steps", "prompt", "sampler", "label")
    names += ("guidance", "text_guidance")
    asked = {name: getattr(options, name) for name in names}
    asked["target"] = parse_target(options.target_size, options.min_psnr)
    asked["sizes"] = None if options.size is None else [parse_size(size) for size in options.size.split(",")]
    asked = {name: value for name, value in asked.items() if value is not None}
    origin = {name: getattr(options, name) for name in ("condition_scale", "decoder", "license")}
    origin["loras"] = options.lora
    form = {name: value for name in FORM if (value := getattr(options, name)) is not None}
    runtimes = [] if options.runtime is None else options.runtime.split(",")
    if options.adapter_of is not None:
        if options.fidelity:
            raise UserError("--fidelity: a package of parts takes it when it runs; give it to codi run")
        if runtimes:
            raise UserError("--runtime: an adapter is checked in its format's runtime; leave it out")
        asked |= form
        made = make_adapter(options.bundle, options.out, package=options.adapter_of, asked=asked, **origin)
    elif options.format is None:
        raise UserError(f"--format is missing: use one of {', '.join(FORMATS)}")
    else:
        own = {"form": Form(**form), "fidelity": options.fidelity, "runtimes": runtimes}
        made = make_package(options.bundle, options.out, **own, **asked, **origin)
    for figures in made:
        line = (
            f"{'x'.join(map(str, figures['size']))}: on {figures['cases']} inputs from {figures['conditions']}: "
            f"max error {figures['max_error']:.1e}, PSNR {figures['psnr_db']:.0f} dB"
        )
        for what in ("condition", "prompt"):
            if moved := figures.get(f"{what}_sensitivity"):
                line += f"; swapping {what}s moves the image by {moved['export']:.4f} (Keras {moved['keras']:.4f})"
                break
        print(line)
        for name, other in figures.get("runtimes", {}).items():
            print(f"  in {name}: max error {other['max_error']:.1e}, PSNR {other['psnr_db']:.0f} dB")
    print(
        f"{made[0]['stored_bytes'] / 1e6:.1f} MB for {made[0]['weight_bytes'] / 1e6:.1f} MB of weights: {options.out}"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
