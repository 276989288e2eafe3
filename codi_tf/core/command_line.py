"""What all commands share: argument parsing, one-line errors, exit statuses and the start of TensorFlow."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar, overload

from codi_tf.core.errors import Interrupted, UserError, user_errors
from codi_tf.core.quiet import quiet_import
from codi_tf.core.termination import ended_by_signals

TRY_AGAIN = 75  # exit status EX_TEMPFAIL
T = TypeVar("T")


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser that raises UserError for mistakes: one line, without the usage before it."""

    def error(self, message: str):
        raise UserError(f"{' '.join(message.split())}; see {self.prog} --help")


@ended_by_signals()
def run_command(main: Callable[[list[str]], None]) -> int:
    """Run `main` with the command line's arguments and return the exit status: 0, 2 (UserError), 75 (Interrupted), 130
    (Ctrl-C).

    Each UserWarning is shown once, in one line. A UserError raised within tf.data counts as a UserError.
    """
    shown = set()

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        text = _line_of(message, category, filename, lineno)
        if text not in shown:
            print(text, file=sys.stderr)
        shown.add(text)

    try:
        with warnings.catch_warnings(), user_errors():
            warnings.showwarning = show
            main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(error, file=sys.stderr)
        return TRY_AGAIN
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


@overload
def start_tensorflow(first: None = None) -> None: ...


@overload
def start_tensorflow(first: Callable[[], T]) -> T: ...


def start_tensorflow(first: Callable[[], T] | None = None) -> T | None:
    """Import TensorFlow and start its devices quietly, see `quiet.quiet_import`.

    Args:
        first: called before TensorFlow looks at its devices, see `distribution.make_strategy`; its result is returned.
    """
    with quiet_import():
        import tensorflow as tf

        result = None if first is None else first()
        tf.config.list_logical_devices()  # the drivers of accelerators write their notes here
    return result


def _line_of(message, category, filename: str, lineno: int) -> str:
    text = " ".join(str(message).split())
    if not issubclass(category, UserWarning):  # a warning to programmers names its place in the code
        text = f"{filename}:{lineno}: {category.__name__}: {text}"
    return f"warning: {text}"
