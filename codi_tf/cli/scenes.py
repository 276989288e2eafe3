"""codi scenes --out PATH: look at rendered scenes, or write them as a data set.

With an image file, as PATH.png, a contact sheet. With a folder, NAME.png, its depth map NAME.depth.png and its caption
NAME.txt; with --edits or --domain the image after an edit NAME.png, the image before it NAME.source.png and the
instruction NAME.txt. Scene i is a function of the seed and i alone.
"""

from __future__ import annotations

from pathlib import Path

from codi_tf.core.arguments import integer, path_argument, seed_number
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.showing import printable
from codi_tf.io.bundle_files import SCENES
from codi_tf.io.folders import check_folder, whole_folder
from codi_tf.io.save_image import check_image_file, is_written, write_image
from codi_tf.scenes.domains import TRANSFERS

MAX_COUNT, COLUMNS = 10_000_000, 8


def main(arguments: list[str], prog: str = "codi scenes") -> None:
    """Run `codi scenes`. Raises UserError if the result cannot be written there."""
    parser = ArgumentParser(prog=prog, doc=__doc__)
    parser.add_argument("--out", type=path_argument, required=True, help="an image file, or a new folder")
    parser.add_argument("--count", type=integer(1, MAX_COUNT), default=24, help="scenes (default: 24)")
    parser.add_argument(
        "--size", type=integer(16, 1024), default=128, help="side of the images in pixels (default: 128)"
    )
    parser.add_argument("--seed", type=seed_number, default=0, help="of the scenes (default: 0)")
    parser.add_argument("--split", choices=("train", "heldout"), default="heldout", help="heldout (default) or train")
    pairs = parser.add_mutually_exclusive_group()
    pairs.add_argument("--edits", action="store_true", help="pairs of scenes and instructions")
    pairs.add_argument(
        "--domain", choices=tuple(TRANSFERS), help="pairs of a scene and its counterpart in another domain"
    )
    options = parser.parse_args(arguments)
    sheet = is_written(options.out)
    if sheet:
        check_image_file(options.out)
    else:
        check_folder(options.out, SCENES, replace=False)
    start_tensorflow()
    from codi_tf.core.progress import Progress
    from codi_tf.data import crops
    from codi_tf.data.scenes import SceneEdits, Scenes

    transfer = TRANSFERS.get(options.domain)
    edited = options.edits or transfer is not None
    source = SceneEdits(options.split, transfer) if edited else Scenes(options.split)
    examples = crops(source, image_size=options.size, seed=options.seed, augment=False).take(options.count)
    report = Progress("rendering scenes", options.count).update
    write = _write_sheet if sheet else _write_folder
    write(options.out, examples.as_numpy_iterator(), report)
    print(printable(options.out))


def _write_sheet(path: Path, examples, report) -> None:
    import numpy as np

    images = []
    for i, example in enumerate(examples):
        images += [(example[key] + 1) / 2 for key in ("source", "image") if key in example]
        report(i + 1)
    images += [np.ones_like(images[0])] * (-len(images) % COLUMNS)
    rows = [np.concatenate(images[i : i + COLUMNS], axis=1) for i in range(0, len(images), COLUMNS)]
    write_image(path, np.concatenate(rows))


def _write_folder(path: Path, examples, report) -> None:
    from codi_tf.io.depth_files import write_nearness

    with whole_folder(path, SCENES, replace=False) as partial:
        for i, example in enumerate(examples):
            name = f"{i:07}"
            write_image(partial / f"{name}.png", (example["image"] + 1) / 2)
            if "source" in example:
                write_image(partial / f"{name}.source.png", (example["source"] + 1) / 2)
            if "depth" in example:
                write_nearness(partial / f"{name}.depth.png", example["depth"][..., 0])
            (partial / f"{name}.txt").write_bytes(example["prompt"] + b"\n")
            report(i + 1)
