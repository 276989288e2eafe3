"""Exceptions that end a program without a traceback: a user's mistake, and an interruption that can be resumed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator


class UserError(ValueError):
    """A mistake of the user; the message is one line with the thing, its value and the remedy.

    The command lines print it as ``error: ...`` and exit with status 2, without a traceback.
    """


class Interrupted(Exception):
    """A run that stopped early and that the same command resumes; the message is one line that says where.

    The command lines print it and exit with status 75, which says "try again" to schedulers (EX_TEMPFAIL).
    """


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Within the block, a UserError that was raised inside tf.data reaches the caller as a UserError.

    TensorFlow wraps what a Python function raises into an error of its own, with the traceback in the message.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # `message` is an attribute of TensorFlow's errors; it is not imported for them
        found = re.search(r"UserError: (.+)", str(getattr(error, "message", "")))
        if found is None:
            raise
        raise UserError(found[1]) from None
