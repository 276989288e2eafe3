"""Measuring: rows whose values are known, intervals, further measures; models as samplers of whole sets."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_base, make_model

import codi_tf
from codi_tf import data
from codi_tf.cli.evaluate_options import metric_arguments, parse
from codi_tf.core.errors import UserError
from codi_tf.evaluation import METRICS, loading, numerics
from codi_tf.evaluation.kept import Kept
from codi_tf.evaluation.loading import metrics_with
from codi_tf.evaluation.measuring import Evaluator, evaluate, measure
from codi_tf.evaluation.metric import LEVEL, Metric
from codi_tf.evaluation.samplers import BATCH, _seed_of_batch, in_batches, model_process, model_sampler
from codi_tf.io.images import to_uint8
from codi_tf.tasks import make_task

S, COUNT = 16, 34  # more than a batch


def quadrants(images):
    """A feature extractor that can be checked by hand: the mean colors of the four quarters, [B, 12]."""
    return tf.reshape(tf.nn.avg_pool2d(images, S // 2, S // 2, "VALID"), (-1, 12))


class Worst(Metric):
    """A metric of the caller's, which is not registered."""

    def measure(self, made, originals, reference):
        return np.abs(made.images - originals.images).max(axis=(1, 2, 3))


def examples_of(task: str, count: int = COUNT):
    return data.evaluation_set(data.load_photos("heldout"), make_task(task), image_size=S, count=count, seed=0)


@pytest.fixture(scope="module")
def model(bundle):
    return codi_tf.load(bundle)


@pytest.fixture(scope="module")
def examples():
    return examples_of("super_resolution")


@pytest.fixture(scope="module")
def known(model, examples):
    """Latents and reconstructions of the originals."""
    x = np.array(model.base.encode(examples["image"]))
    return x, np.clip(np.array(model.base.decode(x)), -1, 1)


@pytest.fixture(scope="module")
def samplers(model, examples, known):
    x, reconstructions = known
    return {
        "perfect": lambda conditions: (examples["image"], x),
        "reconstructing": lambda conditions: (reconstructions, x + 0.5),
        "copying": lambda conditions: (conditions, np.array(model.base.encode(conditions))),
        "pale": lambda conditions: (0.5 * examples["image"], x),
    }


@pytest.fixture(scope="module")
def rows(model, examples, samplers):
    done = []
    metrics = metrics_with(quadrants) | {"worst": Worst(), "fid": METRICS["fid"](quadrants)}
    options = {"report": done.append, "enlarged": True}
    rows = evaluate(samplers, examples["image"], examples["condition"], model.base, metrics, **options)
    assert done == [1, 2, 3, 4]
    return rows


def assert_equal_rows(row, expected, *, except_for=()):
    assert row.keys() == expected.keys()
    for key in row.keys() - {name + end for name in except_for for end in ("", "_interval")}:
        if expected[key] is None:
            assert row[key] is None
        else:
            np.testing.assert_allclose(row[key], expected[key], rtol=1e-3, atol=1e-6, err_msg=key)


def test_rows_that_must_agree(rows):
    assert list(rows) == ["bicubic", "perfect", "reconstructing", "copying", "pale", "autoencoder", "original"]
    assert_equal_rows(rows["perfect"], rows["original"])
    assert_equal_rows(rows["copying"], rows["bicubic"])
    assert_equal_rows(rows["reconstructing"], rows["autoencoder"], except_for=["latent_error"])


def test_values(rows, examples, known):
    images, conditions = examples["image"], examples["condition"]
    x, reconstructions = known
    original = rows["original"]
    assert original["psnr"] is None and original["psnr_interval"] is None
    assert original["latent_error"] == pytest.approx(0, abs=1e-9)
    assert original["ssim"] == pytest.approx(1) and original["sharpness"] == pytest.approx(1)
    features = [np.array(quadrants(batch)) for batch in (images, reconstructions, conditions)]
    assert original["frechet_photos"] == pytest.approx(numerics.frechet_distance(features[0], features[1]), rel=1e-4)
    assert rows["autoencoder"]["frechet_photos"] == pytest.approx(0, abs=1e-6)
    assert rows["reconstructing"]["latent_error"] == pytest.approx(0.25, rel=1e-4)
    bicubic, unit = rows["bicubic"], [(batch.astype(float) + 1) / 2 for batch in (conditions, images)]
    assert bicubic["psnr"] == pytest.approx(numerics.psnr(*unit).mean(), rel=1e-5)
    assert bicubic["ssim"] == pytest.approx(numerics.ssim(*unit).mean(), rel=1e-5)
    energies = [numerics.sharpness(batch).mean() for batch in unit]
    assert bicubic["sharpness"] == pytest.approx(energies[0] / energies[1], rel=1e-5) and bicubic["sharpness"] < 0.9
    assert bicubic["frechet_photos"] == pytest.approx(numerics.frechet_distance(features[2], features[1]), rel=1e-4)


def test_further_measures(rows, examples, known):
    """Of single images, to the originals; and Frechet distances, these to the originals, too."""
    images, conditions = examples["image"], examples["condition"]
    worst = np.abs(conditions - images).max(axis=(1, 2, 3))
    assert rows["bicubic"]["worst"] == pytest.approx(worst.mean(), rel=1e-5) and rows["original"]["worst"] == 0
    assert rows["bicubic"]["worst_interval"] == pytest.approx(numerics.mean_interval(worst, level=LEVEL), rel=1e-4)
    features = [np.array(quadrants(batch)) for batch in (known[1], images)]
    assert rows["original"]["fid"] == pytest.approx(0, abs=1e-6)
    assert rows["autoencoder"]["fid"] == pytest.approx(numerics.frechet_distance(*features), rel=1e-4)


def test_intervals(rows):
    """Each contains its figure, and has a width where images differ."""
    for name, row in rows.items():
        for key in (key for key in row if not key.endswith("_interval")):
            if row[key] is not None:
                low, high = row[f"{key}_interval"]
                assert low - 1e-9 <= row[key] <= high + 1e-9, (name, key)
    bicubic = rows["bicubic"]
    for key in ("psnr", "ssim", "worst", "sharpness", "latent_error", "frechet_photos", "fid"):
        low, high = bicubic[f"{key}_interval"]
        assert low < bicubic[key] < high, key
    assert bicubic["psnr_interval"][1] - bicubic["psnr_interval"][0] < 6


def test_the_interval_of_sharpness_is_that_of_a_ratio(rows):
    """Half the contrast is a quarter of the energy, whichever images are drawn."""
    for name, ratio in (("pale", 0.25), ("original", 1.0)):
        assert rows[name]["sharpness"] == pytest.approx(ratio, rel=1e-4)
        assert rows[name]["sharpness_interval"] == pytest.approx((ratio, ratio), rel=1e-4)


def test_values_of_every_image(model, examples, samplers, rows):
    evaluator = Evaluator(examples["image"], examples["condition"], model.base, metrics_with(quadrants))
    measured = measure({"pale": samplers["pale"]}, evaluator)["pale"]
    assert set(measured.per_image()) == {"psnr", "ssim", "sharpness", "latent_error"}
    for name, values in measured.per_image().items():
        assert values.shape == (COUNT,) and values.dtype == np.float64
        assert values.mean() == pytest.approx(rows["pale"][name], rel=1e-6)
    unit = [(batch.astype(float) + 1) / 2 for batch in (0.5 * examples["image"], examples["image"])]
    np.testing.assert_allclose(measured.values["psnr"], numerics.psnr(*unit), rtol=1e-5)


def test_diverged_model(model, examples):
    def diverged(conditions):
        return np.full_like(conditions, np.nan), np.zeros((COUNT, 4, 4, 4))

    with pytest.raises(UserError, match="x, 1 step: made images that are not finite"):
        evaluate({"x, 1 step": diverged}, examples["image"], examples["condition"], model.base, metrics_with(quadrants))


def test_batches_have_one_size():
    sizes = []

    def double(x):
        sizes.append(len(x))
        return 2 * x, -x

    x = np.arange(COUNT, dtype="float32")
    for result, expected in zip(in_batches(double)(x), (2 * x, -x), strict=True):
        np.testing.assert_array_equal(result, expected)
    assert sizes == [BATCH, BATCH]
    in_batches(double)(x[:5])
    assert sizes[2:] == [5]  # a smaller set is one batch of its size


# --- inpainting: a condition of four channels, and images that are finished


@pytest.fixture(scope="module")
def painter():
    return make_model(make_base(), task=make_task("inpainting"))


def test_a_condition_with_a_mask(painter):
    examples = examples_of("inpainting", 8)
    images, conditions = examples["image"], examples["condition"]
    known = conditions[..., 3:] == 0
    results = []

    def sampler(conditions):
        results.append(model_sampler(painter, 2)(conditions))
        return results[0]

    evaluator = Evaluator(images, conditions, painter.base, metrics_with(quadrants), finish=painter.task.finish)
    measured = measure({"painter": sampler}, evaluator)
    assert list(measured) == ["condition", "painter", "autoencoder", "original"]
    unit = [(batch.astype(float) + 1) / 2 for batch in (conditions[..., :3], images)]
    np.testing.assert_allclose(measured["condition"].values["psnr"], numerics.psnr(*unit), rtol=1e-5)
    decoded = np.clip(painter.base.decode(painter.base.encode(images)), -1, 1)
    np.testing.assert_allclose(evaluator.reconstructions, np.where(known, images, decoded), atol=1e-5)
    sampled = results[0][0]
    np.testing.assert_array_equal(np.where(known, sampled, 0), np.where(known, images, 0))
    assert np.abs(sampled - images).max() > 0.05


# --- models as samplers


@pytest.mark.parametrize("name", ["ddim", "stochastic"])
def test_model_sampler_makes_what_generate_makes(model, examples, name):
    """Of the first images too: the noise of an image does not depend on how many follow."""
    conditions = examples["condition"]
    sampler = model_sampler(model, 2, seed=3, sampler=name)
    images, latents = sampler(conditions)
    assert images.shape == (COUNT, S, S, 3) and latents.shape == (COUNT, 4, 4, 4)
    count = COUNT if name == "ddim" else BATCH  # the noise on the way is drawn for a batch
    expected = model.generate((conditions[:count] + 1) / 2, steps=2, seed=3, sampler=name)
    np.testing.assert_allclose(to_uint8((images[:count] + 1) / 2).astype(int), expected, atol=1)
    np.testing.assert_allclose(np.clip(model.base.decode(latents), -1, 1), images, atol=1e-5)
    first, _ = sampler(conditions[:3])
    np.testing.assert_allclose(first, images[:3], atol=1e-5)


def test_samplers_differ(model, examples):
    conditions = examples["condition"][:2]
    sampled = [model_sampler(model, 4, sampler=name)(conditions)[0] for name in ("ddim", "dpm++", "stochastic")]
    for i in range(3):
        assert np.abs(sampled[i] - sampled[i - 1]).max() > 1e-3


def test_batches_draw_noise_of_their_own():
    seeds = {_seed_of_batch(seed, batch) for seed in range(3) for batch in range(20)}
    assert len(seeds) == 60 and all(0 <= seed < 2**63 for seed in seeds)
    assert _seed_of_batch(7, 0) == 7


@pytest.mark.parametrize("name", ["ddim", "stochastic"])
def test_a_process_ends_with_the_samplers_image(model, examples, name, monkeypatch):
    conditions = examples["condition"]
    denoise, sizes = model.generator.denoise, []
    monkeypatch.setattr(model.generator, "denoise", lambda z_t, *rest: (sizes.append(len(z_t)), denoise(z_t, *rest))[1])
    way = model_process(model, conditions[5], 5, 3, seed=2, sampler=name)
    assert way.shape == (3, S, S, 3) and sizes == [1, 1, 1]  # a whole batch for one image took a third of the time
    image = model_sampler(model, 3, seed=2, sampler=name)(conditions[:6])[0][5]
    np.testing.assert_allclose(way[-1], image, atol=1e-5)
    one = model_sampler(model, 1, seed=2)(conditions[:6])[0][5]
    np.testing.assert_allclose(way[0], one, atol=1e-5)  # every sampler starts with the same evaluation
    assert np.abs(way[1] - way[2]).max() > 1e-3


def test_a_process_is_finished(painter):
    condition = examples_of("inpainting", 1)["condition"][0]
    known = np.broadcast_to(condition[..., 3:] == 0, (S, S, 3))
    for image in model_process(painter, condition, 0, 2):
        np.testing.assert_array_equal(image[known], condition[..., :3][known])


def test_model_sampler_refuses(model):
    for steps in (0, 1001):
        with pytest.raises(UserError, match=f"--steps has {steps}: it must be from 1 to 1000"):
            model_sampler(model, steps)
    with pytest.raises(UserError, match="unknown sampler 'euler'"):
        model_sampler(model, 2, sampler="euler")
    with pytest.raises(UserError, match="guidance is 2.0: this model was trained without"):
        model_sampler(model, 2, guidance=2.0)
    with pytest.raises(UserError, match="no text encoder"):
        model_sampler(model, 2, prompt="a cat")


def test_no_network_is_trained_to_evaluate(monkeypatch, tmp_path):
    """FD-photos has a network that comes with codi_tf: training one took longer than all else, and scikit-image."""
    monkeypatch.setattr("codi_tf.evaluation.features.train_feature_network", None)
    (tmp_path / "codi.json").write_text("{}")
    arguments = metric_arguments(parse([str(tmp_path), "--out", str(tmp_path / "report")], "codi evaluate"))
    metrics = loading.load_metrics(arguments, image_size=16, prompted=False)
    assert list(metrics)[:3] == ["psnr", "ssim", "frechet_photos"]
    assert [key for key, argument in arguments.items() if argument is not None] == ["features"]  # the report names it


def test_what_is_measured_is_kept_and_found_by_the_same_evaluation_alone(tmp_path):
    """An evaluation that goes on must not mix in figures of other settings or images, or of a damaged file."""
    values, images = {"psnr": np.arange(3.0)}, np.zeros((3, 4, 4, 3), "float32")
    kept = Kept(tmp_path / "kept", {"seed": 0}, [images])
    assert kept.read("a", values) is None
    kept.write("a", values)
    np.testing.assert_array_equal(kept.read("a", values)["psnr"], values["psnr"])
    assert kept.read("b", values) is None and kept.read("a", ["psnr", "ssim"]) is None
    for other in (Kept(kept.folder, {"seed": 1}, [images]), Kept(kept.folder, {"seed": 0}, [images + 1])):
        assert other.read("a", values) is None
    (file,) = kept.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-10])
    assert kept.read("a", values) is None
    kept.remove()
    assert not kept.folder.exists()
