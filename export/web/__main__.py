"""codi web PACKAGE --out SITE: build a static web page that runs an exported ONNX model in the browser."""

from __future__ import annotations

import sys
from pathlib import Path

from codi_tf.core.arguments import path_argument
from codi_tf.core.command_line import ArgumentParser, run_command
from export.web.site import build_site


def main(arguments: list[str], prog: str = "python -m export.web") -> None:
    """Run `codi web`. Raises UserError, see `build_site`."""
    parser = ArgumentParser(prog=prog, doc=__doc__)
    parser.add_argument("package", type=path_argument, help="folder of a model exported with --format onnx")
    parser.add_argument("--out", required=True, type=path_argument, help="folder of the page")
    parser.add_argument(
        "--runtime",
        type=path_argument,
        default=Path("node_modules/onnxruntime-web/dist"),
        help="dist folder of the npm package onnxruntime-web (default: ./node_modules/onnxruntime-web/dist)",
    )
    parser.add_argument(
        "--samples",
        default="scenes",
        help="what the page shows as samples: a folder of images, each with NAME.mask.png or NAME.txt where the "
        "model takes a mask or a prompt; scenes (default): rendered ones, where the task allows it; or none",
    )
    options = parser.parse_args(arguments)
    samples = options.samples if options.samples in ("scenes", "none") else path_argument(options.samples)
    alone = build_site(options.package, options.out, options.runtime, samples)
    disk = f"; or open {alone}, the whole page in one file, from the disk" if alone else ""
    print(f"{options.out}: serve it, for example with python -m http.server --directory {options.out}{disk}")


if __name__ == "__main__":
    sys.exit(run_command(main))
