"""python -m benchmarks.scene_reader [FOLDER]: how often a reader of scenes is right on true renderings.

The scenes are held out: training has seen neither them nor, in the second row, their combinations of shape, color and
light. Images with noise and blur are those that training draws.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from codi_tf.core.arguments import integer, path_argument, seed_number
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow

FOLDER = Path(__file__).parents[1] / "assets" / "scenes-reader"
BATCH = 100


def measure(folder: Path, name: str, count: int, seed: int, *, worse: bool = False) -> dict[str, float]:
    """Shares of right statements by kind, share of images without an error, and the error of the depth.

    Args:
        folder: of the reader.
        name: of the source: "scenes" or "scenes:unseen".
        count: scenes.
        seed: of the scenes, and of blur and noise.
        worse: whether images are blurred and noisy.
    """
    import tensorflow as tf

    from codi_tf import data
    from codi_tf.evaluation.numerics import aligned_error
    from codi_tf.methods.reader import worsened
    from codi_tf.scenes.captions import parse
    from codi_tf.scenes.reading import ATTRIBUTES, load_reader
    from codi_tf.scenes.statements import GROUPS, agreement

    reader, random = load_reader(folder), np.random.default_rng(seed)
    source, keys = data.load_source(name, "heldout"), ("caption", "depth")
    batches = data.crops(source, image_size=reader.image_size, seed=seed, augment=False).take(count).batch(BATCH)
    right, total, perfect, errors = {}, {}, [], []
    for examples in batches.map(lambda one: {key: one[key] for key in ("image", *keys)}).as_numpy_iterator():
        images = examples["image"]
        if worse:
            blur, amount = (tf.constant(random.uniform(size=len(images)), tf.float32) for _ in range(2))
            images = worsened(images, blur, amount, random.normal(size=images.shape).astype("float32")).numpy()
        seen = reader.read(images)
        errors.append(aligned_error(seen.nearness, examples["depth"][..., 0]))
        for text, found in zip(examples["caption"], seen.statements, strict=True):
            stated = parse(text.decode())
            counts = agreement(stated, found)
            perfect.append(all(one == all_ for one, all_ in counts.values()))
            for group in GROUPS:
                right[group] = right.get(group, 0) + counts[group][0]
                total[group] = total.get(group, 0) + counts[group][1]
            if len(stated.objects) != len(found.objects):
                continue
            for kind in ATTRIBUTES:  # where the count is right
                pairs = list(zip(stated.objects, found.objects, strict=True))
                right[kind] = right.get(kind, 0) + sum(a[kind] == b[kind] for a, b in pairs)
                total[kind] = total.get(kind, 0) + len(pairs)
    shares = {kind: right[kind] / total[kind] for kind in total}
    all_right = sum(right[group] for group in GROUPS) / sum(total[group] for group in GROUPS)
    means = {"images": float(np.mean(perfect)), "depth": float(np.mean(np.concatenate(errors)))}
    return {"statements": all_right, **shares, **means}


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(
        prog="python -m benchmarks.scene_reader", description="How often a reader is right on true renderings."
    )
    parser.add_argument("folder", type=path_argument, nargs="?", default=FOLDER, help="of the reader")
    parser.add_argument("--count", type=integer(BATCH, 100_000), default=1000, help="scenes a row (default: 1000)")
    parser.add_argument("--seed", type=seed_number, default=0)
    options = parser.parse_args(arguments)
    start_tensorflow()
    rows = {
        "held-out scenes": measure(options.folder, "scenes", options.count, options.seed),
        "unseen combinations": measure(options.folder, "scenes:unseen", options.count, options.seed),
        "noise and blur": measure(options.folder, "scenes", options.count, options.seed, worse=True),
    }
    names = list(rows["held-out scenes"])
    print(f"| | {' | '.join(names)} |\n|---|{'---:|' * len(names)}")
    for label, row in rows.items():
        figures = (f"{row[name]:.4f}" if name == "depth" else f"{100 * row[name]:.1f} %" for name in names)
        print(f"| {label} | {' | '.join(figures)} |")


if __name__ == "__main__":
    sys.exit(run_command(main))
