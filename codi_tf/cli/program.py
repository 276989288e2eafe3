"""codi COMMAND ...: the program for all commands. A command is imported when it is called."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import NamedTuple

import codi_tf
from codi_tf.core.command_line import run_command
from codi_tf.core.errors import UserError


class Command(NamedTuple):
    """A command: a module with `main(arguments, prog)`, and a line of help.

    `main` parses the arguments and does the work. It raises UserError for a mistake of the user, which
    `core.command_line.run_command` prints in one line, and Interrupted where the same command resumes.
    """

    module: str
    summary: str


COMMANDS = {  # `export` is named only here: codi_tf imports nothing of it
    "train": Command("codi_tf.cli.train", "train a model from a config; the same command resumes"),
    "restore": Command("codi_tf.cli.restore", "make an image from a condition with a trained model"),
    "edit": Command("codi_tf.cli.edit", "change an image as an instruction says, with a trained model"),
    "text2image": Command("codi_tf.cli.text2image", "make an image from a prompt with a Stable Diffusion checkpoint"),
    "repaint": Command("codi_tf.cli.repaint", "fill a part of an image with a base that was not trained for it"),
    "transfer": Command("codi_tf.cli.transfer", "turn images of one domain into images of another, with two bases"),
    "evaluate": Command("codi_tf.cli.evaluate", "measure and compare trained models, and write a report"),
    "prepare": Command("codi_tf.cli.prepare", "write images so that TensorFlow alone reads them"),
    "cache": Command("codi_tf.cli.cache", "encode training examples once"),
    "scenes": Command("codi_tf.cli.scenes", "look at rendered scenes, or write them as a data set"),
    "photos": Command("codi_tf.cli.photos", "fetch photos under free licenses, to train on"),
    "pairs": Command("codi_tf.cli.pairs", "write pairs of degraded and original images to evaluate on"),
    "depth": Command("codi_tf.cli.depth", "write depth maps next to images with a network of your own"),
    "convert": Command("codi_tf.cli.convert", "write a Stable Diffusion checkpoint as a diffusers folder"),
    "export": Command("export.__main__", "export a trained model as SavedModel, TFLite or ONNX"),
    "run": Command("export.run", "make an image with an exported model, without TensorFlow"),
    "web": Command("export.web.__main__", "build a web page that runs an exported ONNX model"),
    "init": Command("codi_tf.cli.init", "write the configs and small models that come with codi_tf into a folder"),
}


def usage() -> str:
    """The help: one line per command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: codi COMMAND ...", "", *lines, "", "codi COMMAND --help lists a command's options."])


def main(arguments: list[str]) -> None:
    """Call a command with the arguments after its name. Raises UserError for an unknown command."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    name, *rest = arguments
    if name == "--version":
        print(codi_tf.__version__)
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {name!r}: {hint}")
    importlib.import_module(COMMANDS[name].module).main(rest, prog=f"codi {name}")


def console() -> None:
    """The console script `codi`."""
    sys.exit(run_command(main))
