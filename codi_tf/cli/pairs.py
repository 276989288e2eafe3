"""codi pairs --out DIR: write degraded pairs to evaluate on.

They are made as StableSR's test set (Wang et al. 2023, section 4: 3,000 crops of 512 pixels of the DIV2K validation
photos, degraded by Real-ESRGAN's degradation to 128): gt/00000.png, the crop, and lq/00000.png, its low-resolution
version. The same arguments write the same files. pairs.json records how they were made; `codi evaluate --data DIR`
measures on them.
"""

from __future__ import annotations

from codi_tf import config
from codi_tf.core.arguments import integer, path_argument, seed_number, text_argument
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.core.showing import printable
from codi_tf.io.bundle_files import PAIRS
from codi_tf.io.folders import check_folder

SPLITS = {"heldout": "heldout", "train": "train", "all": None}
MAX_COUNT, MAX_SIZE = 1_000_000, 8192
EMBEDDED, EMBEDDED_SIZE, SIZE = "photos", 256, 512  # the smallest of the embedded photos has 300 pixels


def task_options(texts: list[str]) -> dict:
    """The options of a task, written as name=value. Raises UserError for another form."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{text}: write options of the task as name=value")
        options[name] = config.parse_value(text, value)
    return options


def main(arguments: list[str], prog: str = "python -m codi_tf.pairs") -> None:
    """Run `codi pairs`. Raises UserError, see `make_task`, `load_source` and `write_pairs`."""
    parser = ArgumentParser(prog=prog, doc=__doc__)
    parser.add_argument("--out", type=path_argument, required=True, help="a new folder")
    parser.add_argument(
        "--data", type=text_argument, default=EMBEDDED, help="photos (default), a folder, shards, a TFDS name"
    )
    parser.add_argument("--split", choices=SPLITS, default="heldout", help="heldout (default), train or all")
    parser.add_argument("--task", default="real_world", help="real_world (default), super_resolution or bicubic")
    parser.add_argument("--count", type=integer(1, MAX_COUNT), default=3000, help="pairs (default: 3000)")
    sizes = f"(default: {SIZE}, of the embedded photos {EMBEDDED_SIZE})"
    parser.add_argument("--size", type=integer(8, MAX_SIZE), help=f"side of the crops in pixels {sizes}")
    parser.add_argument("--seed", type=seed_number, default=0, help="of crops and degradations (default: 0)")
    parser.add_argument("options", nargs="*", metavar="option=value", help="of the task, for example scale=2")
    options = parser.parse_intermixed_args(arguments)
    if options.size is None:
        options.size = EMBEDDED_SIZE if options.data == EMBEDDED else SIZE
    chosen = task_options(options.options)
    check_folder(options.out, PAIRS, replace=False)
    start_tensorflow()
    from codi_tf import data
    from codi_tf.core.progress import Progress
    from codi_tf.data.stream import warn_of_unreadable
    from codi_tf.tasks import TASKS, make_task

    task = make_task(options.task, **chosen)
    if not task.has_low_resolution:
        able = ", ".join(name for name in TASKS if TASKS[name].has_low_resolution)
        raise UserError(f"--task is {options.task}: use one of {able}")
    source = data.load_source(options.data, SPLITS[options.split])
    settings = {name: getattr(options, name) for name in ("count", "size", "seed")}
    about = {"data": options.data, "split": options.split, "task": options.task, "options": chosen}
    report = Progress("writing pairs", options.count).update
    data.write_pairs(options.out, source, task, about=about, report=report, **settings)
    warn_of_unreadable(source)
    print(printable(options.out))
