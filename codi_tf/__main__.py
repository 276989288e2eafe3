"""The command `python -m codi_tf`: the program `codi`."""

from codi_tf.cli.program import console

if __name__ == "__main__":
    console()
