"""codi edit BUNDLE --image in.png --prompt "make it night" --out out.png: an image, edited as an instruction says.

The image may have any size and mode; transparent parts become white. The result is an RGB image of the same size.
--image takes a folder, too: --out is then the folder of the results, which have the same names. The same command goes
on where it was stopped.
"""

from __future__ import annotations

from codi_tf.cli import restore
from codi_tf.cli.sampling_options import check_shared_options
from codi_tf.core.arguments import path_argument
from codi_tf.core.errors import UserError

IMAGE = "--image"


def main(arguments: list[str], prog: str = "codi edit") -> None:
    """Run `codi edit`. Raises UserError for a bundle of a task without instructions, and see `restore.run`."""
    parser = restore.make_parser(
        prog,
        __doc__,
        model="a model trained for editing: its folder, or the name of one that comes with codi_tf",
        prompt="the instruction: what to change",
    )
    parser.add_argument(
        IMAGE, type=path_argument, dest="condition", help="the image to edit, of any size and mode; or a folder"
    )
    restore.add_knobs(parser)
    options = parser.parse_args(arguments)
    check_shared_options(options)
    restore.check_is_bundle(options.model)
    task = restore.task_of(options.model)
    if task is not None and not task.prompted:
        remedy = "name a model for editing, or use codi restore"
        raise UserError(f"{options.model} was trained for {task.name}, which takes no instruction; {remedy}")
    restore.run(options, IMAGE)
