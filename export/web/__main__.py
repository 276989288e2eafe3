"""python -m export.web DIR --out site/ [--runtime FOLDER]: a static page that runs an exported ONNX package."""

from __future__ import annotations

import sys
from pathlib import Path

from codi_tf.core.command_line import ArgumentParser, run_command
from export.web.site import build_site


def main(arguments: list[str], prog: str = "python -m export.web") -> None:
    parser = ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("package", type=Path, help="the folder that python -m export --format onnx made")
    parser.add_argument("--out", required=True, type=Path, help="folder of the page")
    parser.add_argument(
        "--runtime",
        type=Path,
        default=Path("node_modules/onnxruntime-web/dist"),
        help="dist folder of the npm package onnxruntime-web, ./node_modules/onnxruntime-web/dist unless given",
    )
    options = parser.parse_args(arguments)
    alone = build_site(options.package, options.out, options.runtime)
    disk = f"; {alone} is all of it in one file, to open from the disk" if alone else ""
    print(f"{options.out}: serve it, for example with python -m http.server --directory {options.out}{disk}")


if __name__ == "__main__":
    sys.exit(run_command(main))
