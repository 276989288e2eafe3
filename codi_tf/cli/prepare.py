"""codi prepare SOURCE --out DIR: write images so that TensorFlow alone reads them.

A folder, tar files, TFRecord files of others, parquet files or a TFDS name become TFRecord files with an index.
Training reads these by operations of TensorFlow, without Python, on any machine that sees them. What TensorFlow cannot
decode becomes PNG. The folder appears whole or not at all.
"""

from __future__ import annotations

from codi_tf.cli.pairs import task_options
from codi_tf.core.arguments import finite_number, integer, path_argument, text_argument
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path
from codi_tf.core.showing import printable
from codi_tf.io.bundle_files import PREPARED, WORDS, model_at
from codi_tf.io.folders import check_folder, whole_folder
from codi_tf.io.places import is_data_set, sources_of

MEGABYTES = 256  # of a shard


def main(arguments: list[str], prog: str = "codi prepare") -> None:
    """Run `codi prepare`. Raises UserError, see `open_records`, `make_task` and `preparing.prepare`."""
    parser = ArgumentParser(prog=prog, doc=__doc__)
    parser.add_argument("source", type=text_argument, help="a folder of images, shards, a TFDS name: data.source")
    parser.add_argument("--out", type=path_argument, required=True, help="a new folder")
    parser.add_argument("--task", type=text_argument, help="of a training, whose companion of images is written, too")
    parser.add_argument(
        "--tokenizer", type=path_argument, help="a base, or the folder of a tokenizer: texts are also written as tokens"
    )
    parser.add_argument(
        "--shard", type=integer(1, 1 << 20), default=MEGABYTES, help=f"megabytes of a file (default: {MEGABYTES})"
    )
    parser.add_argument(
        "--max-unreadable", type=finite_number(0, 1), default=0.01, help="share of images left out (default: 0.01)"
    )
    parser.add_argument("options", nargs="*", metavar="option=value", help="of the task")
    options = parser.parse_intermixed_args(arguments)
    chosen = task_options(options.options)
    if chosen and options.task is None:
        raise UserError(f"{options.options[0]}: options of a task need --task")
    inputs = [] if is_data_set(options.source) else [as_path(options.source)]
    check_folder(options.out, PREPARED, replace=False, inputs=inputs)
    start_tensorflow()
    from codi_tf.checkpoints.tokenizer import Tokenizer
    from codi_tf.core.progress import Progress
    from codi_tf.data.preparing import prepare
    from codi_tf.tasks import make_task

    task = None if options.task is None else make_task(options.task, **chosen)
    tokenizer = None
    if options.tokenizer is not None:
        place = model_at(options.tokenizer)
        inside = place / WORDS
        tokenizer = Tokenizer.load(inside if inside.is_dir() else place)
    source = open_records(options.source, task, options.max_unreadable)
    report = Progress("preparing records", len(source)).update
    settings = {"tokenizer": tokenizer, "shard_bytes": options.shard * 1_000_000, "report": report}
    with whole_folder(options.out, PREPARED, replace=False) as partial:
        count = prepare(source, partial, name=options.source, **settings)
    print(printable(f"{count} records are prepared; train on them with data.source={options.out}"))


def open_records(name: str, task, max_unreadable: float):
    """All records of a source, as a `Stream` or `Photos`.

    Raises:
        UserError: see `data.load_source`; operations of TensorFlow read the source already; several sources.
    """
    from codi_tf import data
    from codi_tf.data.cached import is_cache
    from codi_tf.data.open_source import open_source
    from codi_tf.data.prepared import is_prepared
    from codi_tf.data.stream import Stream

    if len(sources_of(name)) > 1:
        raise UserError(f"{name}: prepare each of these sources alone, and join the folders by + in data.source")
    if is_prepared(name) or is_cache(name):
        raise UserError(f"{name}: TensorFlow alone reads these already; name them in data.source")
    if not is_data_set(name) and (task is None or task.condition_key == "image"):
        source = open_source(name, None, max_unreadable=max_unreadable, in_memory=False)
    else:
        source = data.load_source(name, None, task, max_unreadable=max_unreadable)
    if not isinstance(source, Stream | data.Photos):
        raise UserError(f"{name}: TensorFlow alone makes these examples already; name them in data.source")
    return source
