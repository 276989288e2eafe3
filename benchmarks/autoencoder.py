"""python -m benchmarks.autoencoder [BASE] [--data SOURCE ...]: what is left of held-out images after encoding them.

PSNR and sharpness of the decoded images, by a base's autoencoder, and by the same network before any training.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from codi_tf.core.arguments import integer, path_argument, seed_number, text_argument
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow

BASE = Path(__file__).parents[1] / "assets" / "scenes-base"
BATCH = 16


def measure(vae, images: np.ndarray) -> tuple[float, float]:
    """Mean PSNR in dB, and the gradient energy as a share of the originals'; images [N, S, S, 3] in [-1, 1]."""
    from codi_tf.evaluation import numerics

    parts = [vae(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    made, originals = (np.clip(np.concatenate(parts), -1, 1) + 1) / 2, (images + 1) / 2
    sharpness = numerics.sharpness(made).mean() / numerics.sharpness(originals).mean()
    return float(numerics.psnr(made, originals).mean()), float(sharpness)


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.autoencoder", description="What an autoencoder keeps of images.")
    parser.add_argument("base", type=path_argument, nargs="?", default=BASE)
    parser.add_argument("--data", type=text_argument, nargs="+", default=["scenes", "photos"], help="see data.source")
    parser.add_argument("--size", type=integer(8, 1024), default=128, help="side of the images (default: 128)")
    parser.add_argument("--count", type=integer(1, 10_000), default=128, help="images a row (default: 128)")
    parser.add_argument("--seed", type=seed_number, default=0)
    options = parser.parse_args(arguments)
    start_tensorflow()
    import keras

    from codi_tf import data
    from codi_tf.checkpoints.base import make_autoencoder
    from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion

    trained = load_stable_diffusion(options.base).vae
    keras.utils.set_random_seed(options.seed)
    networks = {
        "before training": make_autoencoder({k: v for k, v in trained.get_config().items() if k != "name"}),
        "trained": trained,
    }
    print("| images | network | PSNR, dB | sharpness |\n|---|---|---:|---:|")
    for name in options.data:
        source = data.load_source(name, "heldout")
        examples = data.evaluation_set(
            source, None, image_size=options.size, count=options.count, seed=options.seed, prompts=False
        )
        for label, vae in networks.items():
            psnr, sharpness = measure(vae, examples["image"])
            print(f"| {name} | {label} | {psnr:.2f} | {sharpness:.3f} |")


if __name__ == "__main__":
    sys.exit(run_command(main))
