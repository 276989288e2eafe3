"""python -m studies.steps BUNDLE FINETUNED --data scenes --out steps.png: x_hat at every step, side by side.

A distilled and a fine-tuned model of one task, for the same input and the same noise. A row is a number of evaluations
T, from 0 to 10: from the left the noise that sampling starts from, and x_hat after each step, all decoded. T = 0 is the
noise alone. The right image of a row is the sampler's result; the condition and the original stand in the first row.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from codi_tf.core.arguments import integer, path_argument, seed_number, text_argument
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.core.errors import UserError
from codi_tf.io.images import grid, write_png

LONGEST = 10
SMALLEST = 96  # pixels: smaller images are shown enlarged
LABELS = ("distilled", "fine-tuned")


def process(model, examples: dict[str, np.ndarray], place: int, longest: int, seed: int = 0) -> list[list[np.ndarray]]:
    """A list for each T from 0 to `longest`: the decoded noise, and x_hat after each of the T steps.

    Args:
        model: the `CoDi` model.
        examples: of its task, see `data.evaluation_set`.
        place: of the example that is shown; its noise depends on it.
        longest: the most steps.
        seed: of the noise.

    Returns:
        [longest + 1] lists of images, float32 [H, W, 3] in [-1, 1].
    """
    from codi_tf.core.noise import gaussian_noise
    from codi_tf.evaluation.samplers import model_process

    condition = examples["condition"][place]
    noise = gaussian_noise(seed, model.latent_shape(place + 1, *condition.shape[:2]))[place:]
    start = np.asarray(model.generator.decode(noise))[0]
    prompt = str(examples["prompt"][place]) if model.task.prompted else None
    rows = [[start]]
    for steps in range(1, longest + 1):
        rows.append([start, *model_process(model, condition, place, steps, seed, prompt=prompt)])
    return rows


def side_by_side(rows: dict[str, list[list[np.ndarray]]], condition: np.ndarray, original: np.ndarray) -> np.ndarray:
    """One triangle of images beside the other, float32 [H', W', 3] in [0, 1].

    Args:
        rows: label -> see `process`.
        condition: float32 [H, W, C] in [-1, 1], of which the first three channels are shown.
        original: float32 [H, W, 3] in [-1, 1].
    """
    blank, zoom = np.ones_like(original), -(-SMALLEST // original.shape[1])
    blocks = []
    for label, triangle in rows.items():
        longest = len(triangle) - 1
        cells = [[*row, *[blank] * (longest + 1 - len(row)), blank, blank] for row in triangle]
        cells[0][-2:] = condition[..., :3], original
        titles = ["noise", *(f"after {n}" for n in range(1, longest + 1)), "condition", "original"]
        shown = [[(np.clip(image, -1, 1) + 1) / 2 for image in row] for row in cells]
        blocks.append(grid(shown, titles, row_labels=[f"{label}, T = {n}" for n in range(longest + 1)], zoom=zoom))
    height = max(block.shape[0] for block in blocks)
    padded = [np.pad(one, ((0, height - len(one)), (0, 0), (0, 0)), constant_values=1.0) for one in blocks]
    return np.concatenate(padded, axis=1)


def _main(arguments: list[str]) -> None:
    options = _parse(arguments)
    start_tensorflow()
    from codi_tf import data
    from codi_tf.evaluation.loading import load_models

    models = load_models(dict(zip(LABELS, (options.bundle, options.finetuned), strict=True)))
    model = models[LABELS[0]]
    source = data.load_source(options.data, "heldout", model.task)
    if model.task.prompted and "prompt" not in source.provides:
        raise UserError(
            f"--data is {options.data}: task {model.task_config()['name']} needs prompts; name data with them"
        )
    shared = {"image_size": model.image_size, "count": options.place + 1, "seed": options.seed}
    examples = data.evaluation_set(source, model.task, prompts=model.task.prompted, **shared)
    rows = {label: process(one, examples, options.place, options.steps) for label, one in models.items()}
    write_png(options.out, side_by_side(rows, examples["condition"][options.place], examples["image"][options.place]))
    print(options.out)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m studies.steps", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("bundle", type=path_argument, metavar="BUNDLE", help="the distilled model")
    parser.add_argument(
        "finetuned", type=path_argument, metavar="FINETUNED", help="the fine-tuned one, of the same task"
    )
    parser.add_argument("--data", type=text_argument, default="photos", help="as data.source of a config (photos)")
    parser.add_argument("--place", type=integer(0, 31), default=0, help="of the example in the held-out set (0)")
    parser.add_argument("--seed", type=seed_number, default=0, help="of the examples (0)")
    parser.add_argument("--steps", type=integer(1, 100), default=LONGEST, help=f"the largest T ({LONGEST})")
    parser.add_argument("--out", type=path_argument, required=True, help="the image, a PNG")
    options = parser.parse_args(arguments)
    if Path(options.out).suffix.lower() != ".png":
        raise UserError(f"--out is {options.out}: name a file that ends with .png")
    return options


if __name__ == "__main__":
    sys.exit(run_command(_main))
