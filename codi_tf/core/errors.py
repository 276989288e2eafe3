"""What ends a program without a traceback: a mistake of the user, and work that can go on later."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator


class UserError(ValueError):
    """A one-line message that names the thing, its value and the remedy.

    The command lines print it as ``error: ...`` and exit with status 2, without a traceback.
    """


class Interrupted(Exception):
    """A run that stopped on the way, and that the same command resumes: one line that says where.

    The command lines print it and exit with status 75, which says "try again" to schedulers (EX_TEMPFAIL).
    """


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Within the block, a UserError that was raised inside tf.data reaches the caller as itself.

    TensorFlow wraps what a Python function raises into an error of its own, with the traceback in the message.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # `message` is TensorFlow's, which is not imported for this
        found = re.search(r"UserError: (.+)", str(getattr(error, "message", "")))
        if found is None:
            raise
        raise UserError(found[1]) from None
