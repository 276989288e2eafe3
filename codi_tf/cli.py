"""What all command lines share: a user's mistake ends in one line and exit status 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from codi_tf.errors import UserError


def run_command(main: Callable[[list[str]], None]) -> int:
    """Run `main` with the command line's arguments and return the exit status: 0, 2 (UserError), 130 (Ctrl-C)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
