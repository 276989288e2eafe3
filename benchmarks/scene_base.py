"""python -m benchmarks.scene_base [BASE] [--steps 50 4] [--guidance 2.5]: how good a text-to-image base of scenes is.

The images are made for captions of held-out scenes, and read by the reader of scenes. Beside them stand the true
renderings, and those that the autoencoder makes of these. FD-scenes compares with a second set of true renderings.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from codi_tf.core.arguments import finite_number, integer, path_argument, seed_number
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow

ASSETS = Path(__file__).parents[1] / "assets"
BATCH, SHOWN = 16, 12
TITLES = ("statements", "count", "attributes", "floor", "light", "variety lost", "sharpness", "FD-scenes")


def examples(name: str, count: int, image_size: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Held-out images float32 [N, S, S, 3] in [-1, 1], and their captions."""
    from codi_tf import data

    source = data.load_source(name, "heldout")
    drawn = data.crops(source, image_size=image_size, seed=seed, augment=False).take(count).batch(count)
    one = next(drawn.map(lambda one: {key: one[key] for key in ("image", "caption")}).as_numpy_iterator())
    return one["image"], [text.decode() for text in one["caption"]]


def made_by(base, captions: list[str], steps: int, guidance: float, seed: int, report) -> np.ndarray:
    """Images for captions, float32 [N, S, S, 3] in [-1, 1], by DDIM."""
    from codi_tf.inference.text_to_image import TextToImage

    model, made = TextToImage(base), []
    for i in range(0, len(captions), BATCH):
        made.append(
            model.generate(captions[i : i + BATCH], sampler="ddim", steps=steps, guidance=guidance, seed=seed + i)
        )
        report(i + len(made[-1]))
    return np.concatenate(made).astype("float32") / 127.5 - 1


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(
        prog="python -m benchmarks.scene_base", description="How good a text-to-image base of scenes is."
    )
    parser.add_argument("base", type=path_argument, nargs="?", default=ASSETS / "scenes-base")
    parser.add_argument("--reader", type=path_argument, default=ASSETS / "scenes-reader")
    parser.add_argument("--data", default="scenes", help="scenes, or scenes:unseen for combinations held out")
    parser.add_argument("--steps", type=integer(1, 1000), nargs="+", default=[50, 4])
    parser.add_argument("--guidance", type=finite_number(1, 100), nargs="+", default=[2.5])
    parser.add_argument("--count", type=integer(2, 10_000), default=256, help="images a row (default: 256)")
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument("--images", type=path_argument, help="a file for some images of each row")
    options = parser.parse_args(arguments)
    start_tensorflow()
    from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
    from codi_tf.core.progress import Progress
    from codi_tf.evaluation import numerics
    from codi_tf.evaluation.metrics.scene_variety import variety_distance
    from codi_tf.evaluation.samplers import in_batches
    from codi_tf.io import images as image_files
    from codi_tf.scenes.captions import parse
    from codi_tf.scenes.reading import load_reader
    from codi_tf.scenes.statements import GROUPS, occurrences, share_right

    base, reader = load_stable_diffusion(options.base), load_reader(options.reader)
    count, side = options.count, reader.image_size
    both, captions = examples(options.data, 2 * count, side, options.seed)
    true, others, captions = both[:count], both[count:], captions[:count]
    sets = {"true": true, "autoencoder": np.clip(in_batches(base.vae, BATCH)(true), -1, 1)}
    rows = [(steps, guidance) for guidance in options.guidance for steps in options.steps]
    progress = Progress("making images", count * len(rows))
    for i, (steps, guidance) in enumerate(rows):
        report = lambda done, i=i: progress.update(i * count + done)  # noqa: E731
        name = f"{steps} steps, guidance {guidance:g}"
        sets[name] = made_by(base, captions, steps, guidance, options.seed, report)
    stated = [parse(text) for text in captions]
    features = in_batches(reader.features, BATCH)
    reference, energy = features(others), numerics.sharpness((true + 1) / 2).mean()
    print(f"| | {' | '.join(TITLES)} |\n|---|{'---:|' * len(TITLES)}")
    for name, one in sets.items():
        seen = reader.read(one).statements
        shares = [
            np.mean([share_right(a, b, *groups) for a, b in zip(stated, seen, strict=True)])
            for groups in (GROUPS, *((group,) for group in GROUPS))
        ]
        tables = [np.array([occurrences(each) for each in some], np.float64) for some in (seen, stated)]
        figures = [*shares, variety_distance(*tables), numerics.sharpness((one + 1) / 2).mean() / energy]
        distance = numerics.frechet_distance(features(one), reference)
        print(f"| {name} | {' | '.join(f'{figure:.3f}' for figure in figures)} | {distance:.3g} |")
    if options.images is not None:
        shown = [[(one[i] + 1) / 2 for one in sets.values()] for i in range(min(SHOWN, count))]
        image_files.write_png(options.images, image_files.grid(shown, list(sets), zoom=1))
        print(options.images)


if __name__ == "__main__":
    sys.exit(run_command(main))
