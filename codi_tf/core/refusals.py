"""What a remote file system says when it refuses: TensorFlow's errors as OSErrors of one line, with a remedy."""

from __future__ import annotations

import errno
import os
import re

LONGEST = 200  # characters of a file system's message
_PLACE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"]*[^\s'\".,:;]")
_HTTP = re.compile(r"https?://", re.IGNORECASE)
_RETRIED = re.compile(r"All \d+ retry attempts failed\. The last failure: ")
_UNREACHED = ("libcurl code", "HTTP response code 5", "retry attempts failed")


def as_os_error(error: Exception, path: str) -> OSError:
    """The OSError of one of TensorFlow's errors, which are known by their names: importing TensorFlow takes seconds.

    Google's answers 401 and 403 are PermissionDeniedError, and 404 is NotFoundError, of an object or of a bucket.
    """
    kind, text = type(error).__name__, " ".join(str(getattr(error, "message", error)).split())
    said = (found[1] if (found := re.search(r'"message": "([^"]+)"', text)) else _RETRIED.sub("", text))[:LONGEST]
    if kind in ("PermissionDeniedError", "UnauthenticatedError"):
        unknown = kind == "UnauthenticatedError" or "HTTP response code 401" in text
        remedy = (
            "log in (gcloud auth application-default login), or name a key in GOOGLE_APPLICATION_CREDENTIALS"
            if unknown and path.startswith("gs:")
            else "allow this account to read and write there"
        )
        return OSError(errno.EACCES, f"{os.strerror(errno.EACCES)}: {said.rstrip('.')}; {remedy}", path)
    if kind == "NotFoundError":
        bucket = "bucket does not exist" in text
        reason = "there is no such bucket; make it, or correct its name" if bucket else os.strerror(errno.ENOENT)
        return OSError(errno.ENOENT, reason, path)
    if any(sign in text for sign in _UNREACHED):
        return OSError(errno.EIO, f"no answer ({said.rstrip('.')}); see to the network, then try again", path)
    return OSError(errno.EIO, said, path)


def with_remedy(reason: object, remedy: str) -> str:
    """The reason, and the remedy where the reason has none of its own."""
    return str(reason) if "; " in str(reason) else f"{reason}; {remedy}"


def refusal_in(error: Exception) -> OSError | None:
    """The OSError of an error that TensorFlow raised while it read or wrote remotely by itself, as in tf.data.

    None if it is another kind of error or names no remote place.
    """
    text = str(getattr(error, "message", error))
    places = [place for place in _PLACE.findall(text) if not _HTTP.match(place)]
    kinds = ("PermissionDeniedError", "UnauthenticatedError", "NotFoundError", "AbortedError", "UnavailableError")
    if not places or type(error).__name__ not in (*kinds, "FailedPreconditionError"):
        return None
    return as_os_error(error, places[-1])
