"""codi scenes --out PATH: look at rendered scenes, or write them as a data set.

With PATH.png, a contact sheet. With a folder, NAME.png, its depth map NAME.depth.png and its caption NAME.txt; with
--edits the image after an edit NAME.png, the image before it NAME.source.png and the instruction NAME.txt. Scene i is a
function of the seed and i alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.io.files import check_target

MAX_COUNT, COLUMNS = 10_000_000, 8


def main(arguments: list[str], prog: str = "codi scenes") -> None:
    parser = ArgumentParser(prog=prog, description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--out", type=Path, required=True, help="a new .png file, or a new folder")
    parser.add_argument("--count", type=int, default=24, help="scenes (default: 24)")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels (default: 128)")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (default: 0)")
    parser.add_argument("--split", choices=("train", "heldout"), default="heldout", help="heldout (default) or train")
    parser.add_argument("--edits", action="store_true", help="pairs of scenes and instructions")
    options = parser.parse_args(arguments)
    _check(options)
    start_tensorflow()
    from codi_tf.core.progress import Progress
    from codi_tf.data import crops
    from codi_tf.data.scenes import SceneEdits, Scenes

    source = SceneEdits(options.split) if options.edits else Scenes(options.split)
    examples = crops(source, image_size=options.size, seed=options.seed, augment=False).take(options.count)
    report = Progress("rendering scenes", options.count).update
    write = _write_sheet if options.out.suffix.lower() == ".png" else _write_folder
    write(options.out, examples.as_numpy_iterator(), report)
    print(options.out)


def _write_sheet(path: Path, examples, report) -> None:
    import numpy as np

    from codi_tf.io.images import write_png

    images = []
    for i, example in enumerate(examples):
        images += [(example[key] + 1) / 2 for key in ("source", "image") if key in example]
        report(i + 1)
    images += [np.ones_like(images[0])] * (-len(images) % COLUMNS)
    rows = [np.concatenate(images[i : i + COLUMNS], axis=1) for i in range(0, len(images), COLUMNS)]
    write_png(path, np.concatenate(rows))


def _write_folder(path: Path, examples, report) -> None:
    from codi_tf.io.depth_files import write_nearness
    from codi_tf.io.files import whole_folder
    from codi_tf.io.images import write_png

    with whole_folder(path) as partial:
        for i, example in enumerate(examples):
            name = f"{i:07}"
            write_png(partial / f"{name}.png", (example["image"] + 1) / 2)
            if "source" in example:
                write_png(partial / f"{name}.source.png", (example["source"] + 1) / 2)
            if "depth" in example:
                write_nearness(partial / f"{name}.depth.png", example["depth"][..., 0])
            (partial / f"{name}.txt").write_bytes(example["prompt"] + b"\n")
            report(i + 1)


def _check(options: argparse.Namespace) -> None:
    for name, low, high in (("count", 1, MAX_COUNT), ("size", 16, 1024), ("seed", 0, 2**63 - 1)):
        value = getattr(options, name)
        if not low <= value <= high:
            raise UserError(f"--{name} is {value}: it must be from {low} to {high}")
    check_target(options.out)
