"""The one exception that stands for a mistake of the user."""

from __future__ import annotations


class UserError(ValueError):
    """A one-line message that names the thing, its value and the remedy.

    The command lines print it as ``error: ...`` and exit with status 2, without a traceback.
    """
