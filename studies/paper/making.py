"""Making a piece: training it and measuring what came out."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from codi_tf import data
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.cli.cache import encode
from codi_tf.cli.train import train
from codi_tf.evaluation.loading import named_metrics, truth_of
from codi_tf.evaluation.measuring import Evaluator
from codi_tf.evaluation.samplers import model_sampler
from codi_tf.model import CoDi, load
from codi_tf.tasks import make_task
from codi_tf.trainers.trainer import Trainer
from codi_tf.training.folder import METRICS as LOG
from studies.common.making import commit, encode_examples, train_piece, train_seed
from studies.common.measures import figures_of
from studies.common.results import read_json, sample_name, write_json, write_strip
from studies.paper import pieces
from studies.paper.costs import passes
from studies.paper.pieces import Piece, experiment_of
from studies.paper.plan import AT_4, AT_50, BY_NAME, COMPUTE, SEEDS, TASKS, world_of
from studies.paper.results import references_of, strip_of

SHOWN = (AT_4, AT_50)  # samples whose first images are kept, besides that by which trials are judged
SEED_OF = {"test": 1, "validation": 2, "other": 3}  # of the images of a split
TIMED = 8  # updates of a measured step


def make(piece: Piece) -> None:
    """Train a piece and measure it, as far as this is not done.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP while a base is trained, whose state is saved; the next call goes on.
    """
    model = None if pieces.is_trained(piece) else _train(piece)
    if piece.row.samples and not pieces.is_measured(piece):
        _measure(piece, model if isinstance(model, CoDi) else load(piece.result, compute=COMPUTE))
    if not pieces.is_parent(piece) and (piece.rate is not None or piece.seed != pieces.SHOWN_SEED):
        shutil.rmtree(piece.run)


def _train(piece: Piece) -> Trainer | None:
    experiment = experiment_of(piece, world_of(piece.task).data["source"])
    count = experiment.data.encode_once or world_of(piece.task).examples
    encode_examples(experiment, pieces.examples_of(piece), count)
    if piece.row.once:
        train_piece(piece, experiment_of(piece), pieces.settings_of(piece))
        return None
    return train_seed(piece, experiment_of(piece), pieces.settings_of(piece))


def _measure(piece: Piece, model: CoDi) -> None:
    """Measure the samples of a piece, and write their figures, and the first images of some of them."""
    split = "test" if piece.rate is None else "validation"
    if split == "test" and not references_of(piece.task).is_file():
        make_references(piece.task)
    originals, samples = evaluator(piece.task, split), {}
    for way in piece.row.samples:
        (sampler, steps, guidance), name = way, sample_name(*way)
        images, latents = model_sampler(model, steps, sampler=sampler, guidance=guidance)(originals.conditions)
        finite = bool(np.isfinite(images).all() and np.isfinite(latents).all())
        samples[name] = figures_of(originals.measure(images, latents), images) if finite else None
        if finite and piece.rate is None and piece.seed == pieces.SHOWN_SEED and way in (*SHOWN, piece.row.judged):
            write_strip(strip_of(piece.task, piece.row.name, name), images, world_of(piece.task).shown)
    about = {"settings": pieces.settings_of(piece), "commit": commit(), "samples": samples}
    about["cpu_seconds"] = round(read_json(piece.state)["cpu_seconds"])
    write_json(piece.figures, about)


def make_references(task: str) -> None:
    """Measure the references of a task on its test: the conditions, the autoencoder's images, the originals.

    "other" are other true images, which tell how large a distance between two sets of true images is.
    """
    originals, world = evaluator(task, "test"), world_of(task)
    other = _examples(task, "other")["image"]
    made = {
        "condition": (originals.conditions[..., :3], originals.encode(originals.conditions[..., :3])),
        "autoencoder": (originals.reconstructions, originals.latents),
        "original": (originals.images, originals.latents),
        "other": (other, originals.encode(other)),
    }
    rows = {}
    for name, (images, latents) in made.items():
        row = originals.measure(images, latents).row()
        of_sets = [measure for measure in world.measures if not originals.metrics[measure].per_image]
        shown = of_sets if name == "other" else list(world.measures)
        rows[name] = {measure: row[measure] for measure in shown}
        if name != "other":
            write_strip(strip_of(task, name), images, world.shown)
    write_json(references_of(task), rows)


@functools.lru_cache(maxsize=2)
def evaluator(task: str, split: str) -> Evaluator:
    """The evaluator of a task on the images of a split, "test" or "validation"."""
    world, examples = TASKS[task], _examples(task, split)
    about = make_task(task)
    metrics = named_metrics(world.measures, world.weights, world.data["image_size"])
    truth = {key: examples[key] for key in truth_of(world.measures)}
    base = load_stable_diffusion(world.base)
    options = {"finish": about.finish, "enlarged": about.has_low_resolution, "truth": truth}
    return Evaluator(examples["image"], examples["condition"], base, metrics, **options)


def _examples(task: str, split: str) -> dict[str, np.ndarray]:
    world, about = TASKS[task], make_task(task)
    if world.validation is None:
        source = data.load_source(world.data["source"], "heldout", about)
    else:
        photos = data.load_photos("heldout")
        source = {name: one for name, one in photos.items() if (name == world.validation) == (split == "validation")}
    count = world.chosen_on if split == "validation" else world.count
    shared = {"image_size": world.data["image_size"], "count": count, "seed": SEED_OF[split]}
    return data.evaluation_set(source, about, **shared, prompts=False, keys=truth_of(world.measures))


def seconds_of_a_pass(task: str) -> float:
    """Train CoDi for some updates in a folder that is removed; the wall time of one network pass on a batch."""
    piece = Piece(BY_NAME["codi"], task, SEEDS[0])
    with tempfile.TemporaryDirectory() as folder:
        cache, out = Path(folder) / "examples", Path(folder) / "run"
        encode(experiment_of(piece, TASKS[task].data["source"]), cache, examples=4 * TASKS[task].batch)
        experiment = experiment_of(piece, str(cache))
        short = dataclasses.replace(experiment.train, steps=TIMED, log_every=TIMED // 2, warmup_steps=0)
        train(dataclasses.replace(experiment, train=short), out)
        last = json.loads((out / LOG).read_text("utf-8").splitlines()[-1])
    return TASKS[task].batch / last["images_per_second"] / passes(piece.row)
