"""python -m benchmarks.guided: a step of a concat model against one of its base, and both stages of guided distillation
against their bare network work, in one run.

The model is the small base with a new adapter `concat`, for inpainting; its weights are random where they are new. Bare
work: the student's forward and backward pass and the teacher's two forward passes. In stage 1 these are independent of
each other; in stage 2 the second one takes what the first one says, as in the algorithm.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.demo import trainer_and_batch
from benchmarks.timing import side_by_side
from codi_tf.core.command_line import run_command, start_tensorflow

CONFIGS = Path(__file__).parents[1] / "configs"
BASE = "photos-base"
STAGES = {1: ["method.guidance=[1.0, 3.0]"], 2: []}  # settings in place of the config's
ROUNDS = 40  # of a step of sampling: a few milliseconds each


def sampling(bundle: Path) -> dict[str, float]:
    """Median seconds of a network evaluation of "concat" and of its "base", 8 latents of 64 x 64 pixels."""
    import tensorflow as tf

    import codi_tf
    from codi_tf.adapters.adapted import AdaptedUNet

    model = codi_tf.load(bundle)
    z_t = tf.random.stateless_normal(model.latent_shape(8, 64, 64), (0, 0))
    c, conditioning = tf.random.stateless_normal((*z_t.shape[:3], 5), (0, 1)), model.base.conditioning().tensors()
    candidates = {}
    for name, network in (("concat", model.network), ("base", AdaptedUNet(model.base.unet, name="base"))):
        features = network.condition(c, conditioning)
        step = tf.function(network, autograph=False)
        candidates[name] = lambda step=step, features=features: step(z_t, tf.constant([500]), features, conditioning)
    return side_by_side(candidates, rounds=ROUNDS)


def training(bundle: Path, stage: int) -> dict[str, float]:
    """Median seconds of "step" and "bare" of a stage, batch 24, 64 x 64 pixels."""
    import tensorflow as tf

    shared = [f"base={bundle}", "task.name=inpainting", "adaptation.adapter=concat", "data.encode_once=0"]
    _, trainer, batch = trainer_and_batch(CONFIGS / f"photos_guided_{stage}.yaml", [*shared, *STAGES[stage]])
    x, c = batch.values()
    student, conditioning = trainer.student, trainer.base.conditioning()
    t = tf.fill((len(x),), 600)  # both stages draw a time for each example
    teacher = trainer.method.frozen if stage == 1 else trainer.method.teacher
    guidance = tf.ones((1,)) if student.takes_guidance else None

    def evaluated(network, z_t, taken=None):
        return network(z_t, t, network.condition(c, conditioning), conditioning, taken)

    def bare():
        first = evaluated(teacher, x)
        second = evaluated(teacher, x + 0.1 if stage == 1 else first)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(evaluated(student, x, guidance) - tf.stop_gradient(first + second)))
        # Every gradient is read, or TensorFlow would prune the work.
        return tf.add_n([tf.reduce_sum(g) for g in tape.gradient(loss, trainer.updated_variables)])

    step = tf.function(trainer.train_step)
    return side_by_side({"step": lambda: step(batch), "bare": tf.function(bare, autograph=False)})


def _main(arguments: list[str]) -> None:
    start_tensorflow()
    import codi_tf

    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        base, method = codi_tf.load_stable_diffusion(BASE), codi_tf.Finetune(drop_condition=0.1)
        codi_tf.CoDi(base, "concat", task="inpainting", method=method, image_size=64).save(bundle)
        found = {"an evaluation: concat, base": sampling(bundle)}
        for stage in STAGES:
            found[f"stage {stage}: step, bare networks"] = training(bundle, stage)
    print("| | ms | ms | ratio |\n|---|---:|---:|---:|")
    for name, seconds in found.items():
        ours, theirs = seconds.values()
        print(f"| {name} | {1e3 * ours:.1f} | {1e3 * theirs:.1f} | **{ours / theirs:.3f}** |")


if __name__ == "__main__":
    sys.exit(run_command(_main))
