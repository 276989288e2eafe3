"""python -m benchmarks.decoder DECODER [--out strip.png] [--count 256]: a small decoder against the autoencoder's.

Measures both decoders on the latents of held-out crops and on latents that the undistilled model generates in four
steps, and times both. At Stable Diffusion's size, without training: python -m benchmarks.full_size decoder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.timing import side_by_side
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.evaluation import numerics
from codi_tf.io.images import grid, write_png

ASSETS = Path(__file__).parents[1] / "assets" / "photos-base"
SEED, SHOWN = 1, (0, 1, 2, 3, 5, 8)  # those of the demo
BATCH = 8  # images at a time, of the timing


def compare(folder: Path, count: int, out: Path | None) -> None:
    """Print the metrics of `count` crops through both decoders and the time of both; write a strip of images.

    Raises:
        UserError: the folder's decoder is missing, damaged or of other latents.
    """
    start_tensorflow()
    import tensorflow as tf

    import codi_tf
    from codi_tf import data
    from codi_tf.checkpoints.base import check_decoder
    from codi_tf.evaluation.features import load_features
    from codi_tf.evaluation.loading import metrics_with
    from codi_tf.evaluation.measuring import Evaluator
    from codi_tf.evaluation.samplers import in_batches, model_sampler
    from codi_tf.evaluation.tables import markdown_table

    small, model = codi_tf.load_decoder(folder), codi_tf.load(ASSETS / "undistilled")
    check_decoder(small, model.base.vae)
    shared = {"image_size": model.image_size, "count": count, "seed": SEED}
    examples = data.evaluation_set(data.load_photos("heldout"), model.task, **shared)
    metrics = metrics_with(load_features(ASSETS / "features").features)
    evaluator = Evaluator(examples["image"], examples["condition"], model.base, metrics)
    decoders = {"autoencoder": model.base.decode, "small decoder": small}
    latents = {"encoded": evaluator.latents, "4 steps": model_sampler(model, 4)(examples["condition"])[1]}
    made = {
        f"{source}, {name}": np.clip(in_batches(tf.function(decode), BATCH)(z), -1, 1)
        for source, z in latents.items()
        for name, decode in decoders.items()
    }
    rows = {name: evaluator.measure(images, evaluator.encode(images)).row() for name, images in made.items()}
    print(markdown_table(rows))
    for source in latents:
        pair = ((made[f"{source}, {name}"] + 1) / 2 for name in decoders)
        low, high = numerics.mean_interval(values := numerics.psnr(*pair))
        print(f"{source}: PSNR to the autoencoder's decoding {values.mean():.2f} [{low:.2f}, {high:.2f}] dB")

    z = tf.constant(evaluator.latents[:BATCH])
    compiled = {name: tf.function(decode) for name, decode in decoders.items()}
    seconds = side_by_side({name: lambda f=f: f(z).numpy() for name, f in compiled.items()}, rounds=30)
    for name, value in seconds.items():
        print(f"{name:<14}{1e3 * value:8.2f} ms, batch {BATCH}")
    weights = [network.count_params() for network in (model.base.vae.decoder, small)]
    print(
        f"ratio         {seconds['small decoder'] / seconds['autoencoder']:8.3f}   weights {weights[1]} of {weights[0]}"
    )

    if out is not None:
        columns = {"original": examples["image"], **made}
        picked = [[(column[i] + 1) / 2 for column in columns.values()] for i in SHOWN]
        write_png(out, grid(picked, list(columns), zoom=2))


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.decoder", description=__doc__)
    parser.add_argument("decoder", type=Path, help="folder of a small decoder")
    parser.add_argument("--out", type=Path, help="a strip of images, .png")
    parser.add_argument("--count", type=int, default=256, help="held-out crops (default: 256)")
    options = parser.parse_args(arguments)
    compare(options.decoder, options.count, options.out)


if __name__ == "__main__":
    sys.exit(run_command(_main))
