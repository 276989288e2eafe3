"""python -m export.run: the command `codi run`."""

import sys

from codi_tf.core.command_line import run_command
from export.runtime.run import main

if __name__ == "__main__":
    sys.exit(run_command(main))
