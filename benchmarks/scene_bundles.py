"""python -m benchmarks.scene_bundles BUNDLE:STEPS ... [--prompts]: what bundles of one task make of held-out scenes.

All bundles have the same conditions and noise. The reader of scenes judges their images; beside them stand the
conditions, what the autoencoder makes of the originals, and the originals. A bundle can be named several times.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from codi_tf.core.arguments import integer, path_argument, seed_number
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.core.formats import FORMATS

READER = Path(__file__).parents[1] / "assets" / "scenes-reader"
MEASURES = ("psnr", "sharpness", "scene_accuracy", "scene_variety", "scene_depth", "frechet_scenes")
OF_EDITS = "edit_success"
SHOWN = 4


def bundle_and_steps(text: str) -> tuple[Path, int]:
    """FOLDER:STEPS, both parts of it."""
    path, _, steps = text.rpartition(":")
    if not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not FOLDER:STEPS")
    return path_argument(path), integer(1, 1000)(steps)


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(
        prog="python -m benchmarks.scene_bundles", description="What bundles make of held-out scenes."
    )
    parser.add_argument("bundles", type=bundle_and_steps, nargs="+", metavar="BUNDLE:STEPS")
    parser.add_argument("--prompts", action="store_true", help="with captions; always, for tasks that need prompts")
    parser.add_argument("--count", type=integer(SHOWN, 10_000), default=48, help="scenes (default: 48)")
    parser.add_argument(
        "--seed", type=seed_number, default=1, help="of the scenes (default: 1); that of the noise is 0"
    )
    parser.add_argument("--compute", choices=FORMATS, default="bfloat16", help="default: bfloat16, as in training")
    parser.add_argument("--images", type=path_argument, help="a file for the first images of each row")
    options = parser.parse_args(arguments)
    start_tensorflow()
    from codi_tf import data
    from codi_tf.core.progress import Progress
    from codi_tf.evaluation.grids import name_of_steps
    from codi_tf.evaluation.loading import labels, load_models, named_metrics, truth_of
    from codi_tf.evaluation.measuring import evaluate
    from codi_tf.evaluation.samplers import keeping, model_sampler
    from codi_tf.evaluation.tables import legend, markdown_table
    from codi_tf.io.images import grid, write_png

    paths = list(dict.fromkeys(path for path, _ in options.bundles))
    names_of = dict(zip(paths, labels(paths), strict=True))
    models = load_models({name: path for path, name in names_of.items()}, compute=options.compute, merge=True)
    first = next(iter(models.values()))
    names = (*MEASURES, OF_EDITS) if first.task.name == "editing" else MEASURES
    source, size, keys = data.load_source("scenes", "heldout", first.task), first.image_size, truth_of(names)
    examples = data.evaluation_set(
        source, first.task, image_size=size, count=options.count, seed=options.seed, keys=keys
    )
    prompts = list(examples["prompt"]) if options.prompts or first.task.prompted else None
    samplers = {
        f"{names_of[path]}, {name_of_steps(steps)}": model_sampler(models[names_of[path]], steps, prompt=prompts)
        for path, steps in options.bundles
    }
    made = {}
    rows = evaluate(
        keeping(samplers, made),
        examples["image"],
        examples["condition"],
        first.base,
        named_metrics(names, {"reader": str(READER)}, size),
        report=Progress("measuring", len(samplers)).update,
        truth={key: examples[key] for key in keys},
    )
    print(f"{markdown_table(rows)}\n{legend(rows)}")
    if options.images is not None:
        columns = {"condition": examples["condition"], **made, "original": examples["image"]}
        shown = [[(column[i][..., :3] + 1) / 2 for column in columns.values()] for i in range(SHOWN)]
        instructions = prompts[:SHOWN] if prompts and first.task.prompted else None
        write_png(options.images, grid(shown, [name.replace(", ", "\n") for name in columns], row_labels=instructions))


if __name__ == "__main__":
    sys.exit(run_command(main))
