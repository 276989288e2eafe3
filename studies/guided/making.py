"""Making a piece: training it, sampling what came out, and measuring that."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator

import numpy as np

from codi_tf import data
from codi_tf.checkpoints.base import Base
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.core.noise import gaussian_noise
from codi_tf.evaluation import METRICS
from codi_tf.evaluation.loading import named_metrics, truth_of
from codi_tf.evaluation.measuring import Evaluator
from codi_tf.evaluation.scenes import READER
from codi_tf.inference.base_model import BaseModel
from codi_tf.inference.text_to_image import TextToImage
from codi_tf.inference.transfer import Transfer
from codi_tf.tasks import make_task
from studies.common.making import commit, encode_examples, train_piece, train_seed
from studies.common.measures import figures_of
from studies.common.results import read_json, sample_name, write_json, write_strip
from studies.guided import pieces
from studies.guided.pieces import Piece, experiment_of, settings_of
from studies.guided.plan import BATCH, Way, World
from studies.guided.results import references_of, strip_of

TEST, OTHER = 1, 2  # seeds of the test images, and of other true ones
CAPTIONS = ("caption", "source_caption")  # of the image of a pair, and of its counterpart before
Made = tuple[np.ndarray, np.ndarray]  # images [N, S, S, 3] in [-1, 1], and their latents [N, h, w, C]


def make(piece: Piece) -> None:
    """Train a piece and measure it, as far as this is not done.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP during the training, whose state is saved; the next call goes on with it.
    """
    if not pieces.is_trained(piece):
        if piece.row.encoded:
            encode_examples(experiment_of(piece, to_encode=True), pieces.examples_of(piece), piece.world.examples)
        how = train_piece if piece.row.once else train_seed
        how(piece, experiment_of(piece), settings_of(piece))
    if piece.samples and not pieces.is_measured(piece):
        _measure(piece)
    if piece.row.config is not None and not pieces.is_needed(piece) and piece.seed != pieces.SHOWN_SEED:
        shutil.rmtree(piece.run)


def _measure(piece: Piece) -> None:
    """Measure the samples of a piece, and write their figures, and the first images of those of one seed.

    The file is written after every sample, so that a piece that was stopped goes on with the next one.
    """
    print(f"{piece.title}: measuring", flush=True)
    world, models, settings = piece.world, [piece] if piece.row.config else pieces.models_of(piece), settings_of(piece)
    bases = [load_stable_diffusion(model.result, compute="bfloat16") for model in models]
    originals = evaluator(world)
    if not references_of(world).is_file():
        make_references(world)
    sample = _transfers(world, *bases) if len(bases) > 1 else _generated(world, *bases)
    about = read_json(piece.figures)
    if about is None or about["settings"] != settings:
        state = {"cpu_seconds": 0} if piece.row.config is None else read_json(piece.state)
        about = {"settings": settings, "commit": commit(), "cpu_seconds": round(state["cpu_seconds"]), "samples": {}}
    for way in piece.samples:
        name = sample_name(*way)
        if name in about["samples"]:
            continue
        images, latents = sample(way)
        finite = bool(np.isfinite(images).all() and np.isfinite(latents).all())
        about["samples"][name] = figures_of(originals.measure(images, latents), images) if finite else None
        if finite and piece.seed == pieces.SHOWN_SEED:
            write_strip(strip_of(world, piece.row.name, name), images, world.shown)
        write_json(piece.figures, about)


def _generated(world: World, base: Base):
    """way -> images of the classes or captions of the test, from the same noise for every way and row."""
    model, asked = TextToImage(base), examples(world, TEST)[world.asks].tolist()
    key = "labels" if world.asks == "class" else "prompts"
    side = world.image_size // base.vae.factor
    noise = gaussian_noise(0, (world.count, side, side, base.vae.latent_channels))

    def sample(way: Way) -> Made:
        sampler, steps, guidance = way
        grid, images, latents = model.grid(sampler, steps), [], []
        for rows in _batches(world.count):
            conditioning = model.conditioning(**{key: asked[rows]}, guidance=guidance)
            fresh = _fresh(rows.start, noise[rows].shape, grid.draws)
            latents.append(np.asarray(model.latents(noise[rows], conditioning, grid, guidance=guidance, noise=fresh)))
            images.append(np.asarray(model.decode(latents[-1])))
        return np.concatenate(images), np.concatenate(latents)

    return sample


def _transfers(world: World, there: Base, back: Base):
    """way -> images of the other domain, with the captions of both images of each pair."""
    pair, test = Transfer(BaseModel(there), BaseModel(back)), examples(world, TEST)

    def sample(way: Way) -> Made:
        _, steps, guidance = way
        images, latents = [], []
        for rows in _batches(world.count):
            given = [
                model.base.conditioning(list(test[key][rows]))
                for model, key in zip((pair.b, pair.a), CAPTIONS, strict=True)
            ]
            z = pair.a.encode(test["condition"][rows])
            latents.append(np.asarray(pair.carry(z, *given, steps=steps, guidance=guidance)))
            images.append(np.asarray(pair.b.decode(latents[-1])))
        return np.concatenate(images), np.concatenate(latents)

    return sample


def _batches(count: int) -> Iterator[slice]:
    return (slice(start, min(start + BATCH, count)) for start in range(0, count, BATCH))


def _fresh(seed: int, shape: tuple, draws: int) -> Iterator[np.ndarray]:
    """The noise that a stochastic sampler adds, another one for each batch."""
    return (gaussian_noise(seed, shape, stream=i + 1) for i in range(draws))


def make_references(world: World) -> None:
    """Measure the references of a world on its test: originals, "other" true images, and what a transfer starts from.

    Other true images tell how large a distance between two sets of true images is.
    """
    originals, test, other = evaluator(world), examples(world, TEST), examples(world, OTHER)["image"]
    of_sets = [name for name in world.measures if not METRICS[name].per_image]
    made = {
        "original": (originals.images, originals.latents, world.measures),
        "autoencoder": (originals.reconstructions, originals.latents, world.measures),
        "other": (other, originals.encode(other), of_sets),
    }
    if "condition" in test:
        made["condition"] = (test["condition"], originals.encode(test["condition"]), world.measures)
    rows = {}
    for name, (images, latents, measures) in made.items():
        row = originals.measure(images, latents).row()
        rows[name] = {measure: row[measure] for measure in measures}
        if name != "other":
            write_strip(strip_of(world, name), images, world.shown)
    write_json(references_of(world), rows)


@functools.lru_cache(maxsize=1)
def evaluator(world: World) -> Evaluator:
    """The evaluator of a world on its test images."""
    test, trained = examples(world, TEST), pieces.reader_of(world)
    reader = world.reader if trained is None else str(trained.result)
    metrics = named_metrics(world.measures, {READER.key: reader}, world.image_size)
    truth = {key: test[key] for key in truth_of(world.measures) if key in test}
    teacher = Piece(world, next(row for row in world.rows if row.name != world.reader), 0)
    base = load_stable_diffusion(teacher.result)
    return Evaluator(test["image"], test.get("condition", test["image"]), base, metrics, truth=truth)


@functools.lru_cache(maxsize=2)
def examples(world: World, seed: int) -> dict[str, np.ndarray]:
    """Held-out examples: "image", and what it is made for; of a pair also "condition"."""
    task = make_task("editing") if world.asks == "pair" else None
    source = data.load_source(world.source, "heldout", task)
    keys = CAPTIONS if world.asks == "pair" else (world.asks,)
    return data.evaluation_set(
        source, task, image_size=world.image_size, count=world.count, seed=seed, prompts=False, keys=keys
    )
