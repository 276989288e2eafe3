"""Exceptions that end a program without a traceback: mistakes of the user, and interruptions that can be resumed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from codi_tf.core.showing import clipped, printable

TRY_AGAIN = 75  # exit status EX_TEMPFAIL
LONGEST = 2000  # characters of a message, whatever it quotes
LONGEST_QUOTE = 300  # characters of another library's message in one of ours
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, the largest file of a file system


class UserError(ValueError):
    """A mistake of the user. The message is one line that names the thing, its value and the remedy.

    The command lines print it as ``error: ...`` and exit with status 2, without a traceback. Names of files in the
    message may hold anything: it is made printable, see `printing.printable`.
    """

    def __init__(self, message: object = ""):
        super().__init__(printable(clipped(str(message), LONGEST)))


class Interrupted(Exception):
    """A run stopped early, and the same command resumes it. The message is one line that names the update.

    The command lines print it and exit with its status: 75 (EX_TEMPFAIL), which asks schedulers to try again, or 130
    after Ctrl-C.
    """

    def __init__(self, message: object = "", *, status: int = TRY_AGAIN):
        super().__init__(printable(message))
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


def full_disk(error: BaseException) -> str | None:
    """The system's words for a full disk, if that is the error; else None.

    TensorFlow, safetensors and h5py put the system's words into errors of their own.
    """
    for number in FULL:
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            return os.strerror(number)
    return None


def explained(error: Exception) -> str | None:
    """One line for an error that the machine or a runtime causes: files, disks, memory; None for any other error.

    Errors of TensorFlow and ONNX Runtime are known by their modules: importing these takes seconds.
    """
    kind, text = type(error), first_line(error)
    library, _, _ = kind.__module__.partition(".")
    if reason := full_disk(error):
        place = getattr(error, "filename", None)
        return f"cannot write{'' if place is None else f' {place}'}: {reason}; make room or choose another place"
    needed = re.search(r"(OOM when|Failed to|Unable to|bad) alloca.*", str(error))
    exhausted = kind.__name__ == "ResourceExhaustedError" or needed
    if isinstance(error, MemoryError) or (library in ("tensorflow", "onnxruntime") and exhausted):
        amount = f" ({needed[0][:LONGEST_QUOTE]})" if needed else ""
        return f"not enough memory{amount}; choose a smaller size, a smaller batch, or tiles"
    if library == "onnxruntime":
        return f"ONNX Runtime fails ({text}); export the model again, or update onnxruntime"
    if isinstance(error, OSError):
        place = "" if error.filename is None else f"{error.filename}: "
        return f"{place}{error.strerror or text}; check the place, and that you may read and write there"
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type where there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line[:LONGEST_QUOTE] for line in lines if line), type(error).__name__)
