"""The command `python -m codi_tf.depth`."""

import sys

from codi_tf.cli.depth import main
from codi_tf.core.command_line import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
