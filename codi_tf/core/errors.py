"""Exceptions that end a program without a traceback: mistakes of the user, and interruptions that can be resumed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator


class UserError(ValueError):
    """A mistake of the user. The message is one line that names the thing, its value and the remedy.

    The command lines print it as ``error: ...`` and exit with status 2, without a traceback.
    """


class Interrupted(Exception):
    """A run stopped early, and the same command resumes it. The message is one line that names the update.

    The command lines print it and exit with its status: 75 (EX_TEMPFAIL), which asks schedulers to try again, or 130
    after Ctrl-C.
    """

    def __init__(self, message: str, *, status: int = 75):
        super().__init__(message)
        self.status = status


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Within the block, a UserError that was raised inside tf.data reaches the caller as a UserError.

    TensorFlow wraps what a Python function raises into an error of its own, with the traceback in the message.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # TensorFlow's errors have a `message`; importing TensorFlow for their type is slow
        found = re.search(r"UserError: (.+)", str(getattr(error, "message", "")))
        if found is None:
            raise
        raise UserError(found[1]) from None
