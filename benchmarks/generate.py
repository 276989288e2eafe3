"""python -m benchmarks.generate [BUNDLE]: the time of 4-step generation against the sum of its parts, in one run.

Parts: condition encoding (autoencoder and adapter), 4 network evaluations, decoding, each compiled by itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.timing import side_by_side
from codi_tf.core.command_line import run_command, start_tensorflow

BUNDLE = Path("runs/demo/bundle")
BATCH, STEPS = 8, 4


def measure(bundle: Path) -> dict[str, float]:
    """Median seconds of "generate" (with the conversion from and to NumPy) and of its parts."""
    start_tensorflow()
    import tensorflow as tf

    import codi_tf

    model = codi_tf.load(bundle)
    base, network, size = model.base, model.network, model.image_size
    conditioning = base.conditioning()
    condition = tf.random.stateless_uniform((BATCH, size, size, 3), (0, 0))
    z = tf.random.stateless_normal(model.latent_shape(BATCH, size, size), (0, 1))
    numpy_condition, t = condition.numpy(), tf.constant([600])
    encode = tf.function(lambda images: network.condition(base.encode(images), conditioning))
    evaluate = tf.function(lambda z_t, features: network(z_t, t, features, conditioning))
    decode = tf.function(base.decode)
    features = encode(2 * condition - 1)
    return side_by_side(
        {
            "generate": lambda: model.generate(numpy_condition, steps=STEPS),
            "encode": lambda: encode(2 * condition - 1),
            "evaluate": lambda: evaluate(z, features),
            "decode": lambda: decode(z),
        },
        rounds=30,
    )


def _main(arguments: list[str]) -> None:
    seconds = measure(Path(arguments[0]) if arguments else BUNDLE)
    parts = seconds["encode"] + STEPS * seconds["evaluate"] + seconds["decode"]
    for name, value in seconds.items():
        print(f"{name:<10}{1e3 * value:9.1f} ms")
    print(f"parts     {1e3 * parts:9.1f} ms   (encode + {STEPS} evaluate + decode, batch {BATCH})")
    print(f"ratio     {seconds['generate'] / parts:9.3f}      (bar: 1.1)")


if __name__ == "__main__":
    sys.exit(run_command(_main))
