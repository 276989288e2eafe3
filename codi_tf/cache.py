"""The command `python -m codi_tf.cache`."""

import sys

from codi_tf.cli.cache import main
from codi_tf.core.command_line import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
