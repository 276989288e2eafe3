"""The command `python -m codi_tf.sample`."""

import sys

from codi_tf.cli.sample import main
from codi_tf.core.command_line import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
