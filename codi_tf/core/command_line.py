"""What all commands share: argument parsing, one-line errors, exit statuses and the start of TensorFlow."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar, overload

from codi_tf.core.errors import Interrupted, UserError, explained, user_errors
from codi_tf.core.quiet import quiet_import
from codi_tf.core.showing import printable
from codi_tf.core.signals import ended_by_signals

NO_READER = 141  # of a program that SIGPIPE ends
T = TypeVar("T")


class HelpFormatter(argparse.HelpFormatter):
    """Help that keeps paragraphs, and names values by what they are: --out PATH, not --out OUT."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(HelpFormatter, self)._fill_text(part, width, indent) for part in text.split("\n\n"))

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        known = {"path_argument": "PATH", "whole": "N", "number": "X"}  # types of `core.arguments`
        return known.get(getattr(action.type, "__name__", ""), action.dest.upper())


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser that raises UserError for mistakes: one line, without the usage before it.

    "argument --steps: is 0: it must be ...", as the types of `core.arguments` word it, becomes "--steps is 0: ...", and
    so does an invalid choice.

    Args:
        doc: the docstring of the command's module, "codi NAME ...: what it does." and paragraphs with more: the example
            and the description of the help. Other arguments are argparse's.
    """

    def __init__(self, *, doc: str | None = None, **options):
        if doc is not None:
            first, _, more = doc.strip().partition("\n\n")
            example, _, what = first.partition(": ")
            about = f"{what[:1].upper()}{what[1:]}\n\n{more}".strip()
            options = {"description": about, "epilog": f"example: {example}", **options}
        super().__init__(formatter_class=HelpFormatter, **options)

    def error(self, message: str):
        for action in self._actions:  # argparse asks for those, too, where it mixes options and positional arguments
            if action.nargs == "*" and not action.option_strings:
                message = message.replace(f", {action.metavar or action.dest}", "")
        text = re.sub(r"^argument (\S+): is ", r"\1 is ", " ".join(message.split()))
        if choice := re.fullmatch(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)", text):
            text = "{} is {}: choose from {}".format(*choice.groups()).replace("'", "")
        raise UserError(f"{text}; see {self.prog} --help")


@ended_by_signals()
def run_command(main: Callable[[list[str]], None]) -> int:
    """Run `main` with the command line's arguments and return the exit status.

    0: done. 2: a mistake of the user (UserError), or a fault of the machine or a runtime that `errors.explained` knows,
    as a full disk: one line on standard error. 75: Interrupted, after Ctrl-C 130. 141: nobody reads the output any
    more. Every other exception is a bug and keeps its traceback.

    Each UserWarning is shown once, in one line. A UserError raised within tf.data counts as a UserError.
    """
    shown = set()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path that is not UTF-8 is no reason to fail after the work
        sys.stdout.reconfigure(errors="backslashreplace")

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        text = _line_of(message, category, filename, lineno)
        if text not in shown:
            _say(text)
        shown.add(text)

    try:
        with warnings.catch_warnings(), user_errors():
            warnings.showwarning = show
            main(sys.argv[1:])
            sys.stdout.flush()
    except UserError as error:
        _say(f"error: {error}")
        return 2
    except Interrupted as error:
        _say(str(error))
        return error.status
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError as error:
        if error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it again at its end
        return NO_READER
    except Exception as error:
        line = explained(error)
        if line is None:
            raise
        _say(f"error: {line}")
        return 2
    return 0


@overload
def start_tensorflow(first: None = None) -> None: ...


@overload
def start_tensorflow(first: Callable[[], T]) -> T: ...


def start_tensorflow(first: Callable[[], T] | None = None) -> T | None:
    """Import TensorFlow and start its devices quietly, see `quiet.quiet_import`.

    Args:
        first: called before TensorFlow looks at its devices, see `distribution.make_strategy`; its result is returned.

    Raises:
        UserError: see `quiet.check_backend`, or from `first`.
    """
    with quiet_import():
        import keras
        import tensorflow as tf

        # A keras.json is for other programs of the user; networks that are made here take these.
        keras.config.set_floatx("float32")
        keras.config.set_image_data_format("channels_last")
        result = None if first is None else first()
        tf.config.list_logical_devices()  # the drivers of accelerators write their notes here
    return result


def _say(text: str) -> None:
    """Print one line on standard error. Names of files may hold newlines, escapes and bytes that are no UTF-8."""
    print(printable(text), file=sys.stderr)


def _line_of(message, category, filename: str, lineno: int) -> str:
    text = " ".join(str(message).split())
    if not issubclass(category, UserWarning):  # a warning to programmers names its place in the code
        text = f"{filename}:{lineno}: {category.__name__}: {text}"
    return f"warning: {text}"
