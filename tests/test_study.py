"""The study: its plan, the bootstrap, and the verdicts from whatever results are there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import study_results
from scipy import stats
from study_results import D, N, S, put

from codi_tf.evaluation.numerics import frechet_distance, frechet_interval
from studies.paper import bootstrap, claims, costs, pieces, plan, report
from studies.paper.bootstrap import REPLICATES, Spread, frechet_to, ratio_to
from studies.paper.claims import CLAIMS, CONTRARY, HIGHER, LOWER, NOT_HIGHER, NOT_REPRODUCED, OPEN, REPRODUCED
from studies.paper.measures import FD, figures_of, saturation
from studies.paper.plan import BY_NAME, ROWS, SEEDS, TASKS, TRIALS
from studies.paper.references import REFERENCES, make_references, read_references
from studies.paper.results import read
from studies.paper.strips import IMAGES, read_strip, write_strip
from studies.paper.tables import BEYOND, TABLE_2, TABLE_3
from studies.paper.tuning import of_trial


def features(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# --- the plan


def test_names_are_unique_and_parents_come_first():
    seen = set()
    for row in ROWS:
        assert row.name not in seen
        assert row.parent is None or row.parent in seen
        seen.add(row.name)


def test_a_parent_is_trained_for_every_task_of_its_rows():
    for row in (row for row in ROWS if row.parent is not None):
        parent = BY_NAME[row.parent]
        assert parent.on_base or set(row.tasks) <= set(parent.tasks)


@pytest.mark.parametrize(
    "row", [*ROWS, *map(of_trial, TRIALS)], ids=[row.name for row in [*ROWS, *map(of_trial, TRIALS)]]
)
def test_every_row_is_a_valid_experiment(row):
    """Phases of distillation fill the updates but for a remainder."""
    for task in row.tasks:
        experiment = pieces.experiment_of(row, task, 1)
        assert experiment.train.steps == row.updates and experiment.train.seed == 1
        if "steps" in row.method:
            phases = row.method["updates"] * len(row.method["steps"])
            assert row.updates - len(row.method["steps"]) < phases <= row.updates


def test_every_system_of_table_2_has_the_same_budget():
    """All stages together; what is trained beyond it says so."""
    budgets = {name: costs.updates(BY_NAME[name]) for name in TABLE_2}
    longer = {budgets.pop(name) for name in ("gd_2_stochastic", "gd_2_longer")}
    assert len(longer) == 1 and longer.pop() > plan.UPDATES
    assert set(budgets.values()) == {plan.UPDATES}


def test_every_method_has_as_many_trials():
    counts = [sum(trial.row == row for trial in TRIALS) for row in dict.fromkeys(trial.row for trial in TRIALS)]
    assert len(set(counts)) == 1
    assert {trial.row for trial in TRIALS} == set(TABLE_2) - set(BEYOND)


def test_claims_and_tables_name_samples_of_the_plan():
    for claim in CLAIMS:
        for row, sample in (side for one in claim.comparisons for side in (one.left, one.right)):
            assert sample in {pieces.sample_name(*way) for way in BY_NAME[row].samples}
        for task in claim.tasks:
            assert {one for one in claim.comparisons if one.counts} <= set(claim.comparisons_of(task))
    assert {claim.letter for claim in CLAIMS} == set("abcdefghij")
    shown = {*report.COMPARED.values(), *report.ABLATED.values()}
    assert all(name in {pieces.sample_name(*way) for way in BY_NAME[row].samples} for row, name in shown)
    assert {*TABLE_3, *report.FIG_2.values(), *report.FIG_7.values(), *report.FAMILIES} <= set(BY_NAME)


def test_costs_add_the_stages():
    """GD-II: 500 updates of fine-tuning, 100 of stage one and 400 of stage two, these with two further evaluations."""
    row = BY_NAME["gd_2"]
    assert [stage.name for stage in costs.chain(row)] == ["gd_2", "guided_1", "ldm_half"]
    assert costs.evaluations(row) == pieces.BATCH * (500 * 1 + 100 * 3 + 400 * 3)
    assert costs.evaluations_per_example(row) == pytest.approx(2.0)
    about = {("inpainting", stage.name): {0: {"cpu_seconds": 10}, 1: {"cpu_seconds": 20}} for stage in costs.chain(row)}
    assert costs.cpu_seconds(about, row, "inpainting") == 45
    assert costs.cpu_seconds(about, row, "super_resolution") is None


def test_guidance_takes_two_evaluations_unless_it_was_learned():
    assert costs.evaluations_of_sampling(BY_NAME["ldm"], 4, 1.5) == 8
    assert costs.evaluations_of_sampling(BY_NAME["gd_2"], 4, 1.5) == 4
    assert costs.evaluations_of_sampling(BY_NAME["codi"], 4, None) == 4
    assert costs.evaluations_of_sampling(BY_NAME["codi_pixel"], 4, 1.5) == 8  # another kind of guidance


# --- the bootstrap


def spread(seeds, values, statistic, *, replicates: int = REPLICATES) -> Spread:
    """Of values [K, N, ...]: a line of figures for every seed, each of its own replicates."""
    everything = np.arange(values.shape[1])
    drawn = [bootstrap.replicates(own, statistic, count=replicates) for own in values]
    return Spread(tuple(seeds), np.array([statistic(own, everything) for own in values]), np.stack(drawn, axis=1))


def test_identical_samples_do_not_differ():
    own, reference = features(0, 3, N, D), features(1, N, D)
    difference = spread(SEEDS, own, frechet_to(reference)) - spread(SEEDS, own.copy(), frechet_to(reference))
    assert difference.mean() == 0 and difference.interval() == (0, 0)


def test_a_shift_of_features_is_its_square():
    """FD(a + c, a) = |c|^2 on any images, so that the interval has no width."""
    own, shift = features(0, N, D), np.array([1.0, -2.0, 0.5])
    left = spread((0, 1), np.stack([own + shift, own - shift]), frechet_to(own), replicates=20)
    right = spread((0, 1), np.stack([own, own]), frechet_to(own), replicates=20)
    np.testing.assert_allclose([(left - right).mean(), *(left - right).interval()], 5.25, rtol=1e-9)


def test_what_both_sides_share_cancels():
    """Values that differ by a constant differ by it surely, although each side alone is unsure."""
    noisy = features(0, 2, N)
    left, right = (spread((0, 1), values, bootstrap.mean) for values in (noisy + 0.25, noisy))
    np.testing.assert_allclose((left - right).interval(), 0.25, rtol=1e-9)
    low, high = right.interval()
    assert high - low > 0.1


def test_of_seeds_alone_it_is_students_interval():
    """Images that agree leave the seeds: the mean of 0, 1 and 2, against SciPy's interval."""
    values = np.repeat(np.arange(3.0)[:, np.newaxis], N, axis=1)
    expected = stats.t.interval(0.9, 2, loc=1.0, scale=stats.sem([0.0, 1.0, 2.0]))
    np.testing.assert_allclose(spread(SEEDS, values, bootstrap.mean).interval(), expected, rtol=1e-9)
    assert expected == pytest.approx((-0.686, 2.686), abs=1e-3)


def test_nine_intervals_of_ten_hold_the_truth():
    """Three seeds of 64 images, whose effects are as wide in the mean: 90 % of 400 worlds, within chance."""
    held = 0
    for world in np.random.default_rng(0).spawn(400):
        images = world.normal(size=64) * 8  # 1 in the mean of 64
        values = images + world.normal(size=(3, 1)) * np.sqrt(3.0)  # 1 in the mean of 3
        low, high = spread(SEEDS, values, bootstrap.mean, replicates=100).interval()
        held += low <= 0 <= high
    assert 0.87 < held / 400 < 0.96


def test_one_seed_has_the_interval_of_the_metrics():
    own, reference = features(0, N, D), features(1, N, D)
    one = spread((0,), own[np.newaxis], frechet_to(reference), replicates=20)
    assert one.mean() == frechet_distance(own, reference)
    np.testing.assert_allclose(one.interval(), frechet_interval(own, reference, replicates=20), rtol=1e-9)


def test_the_ratio_is_to_the_originals_of_the_same_images():
    """Twice the originals' energy is 2 on any images."""
    originals = np.random.default_rng(0).uniform(0.5, 1.5, N)
    values = np.stack([2 * originals, 2 * originals])
    np.testing.assert_allclose(spread((0, 1), values, ratio_to(originals)).interval(), 2, rtol=1e-9)


def test_only_shared_seeds_are_compared():
    left = spread((0, 1, 2), np.array([[5.0], [7.0], [9.0]]) + np.zeros((3, N)), bootstrap.mean)
    right = spread((2, 0), np.array([[1.0], [2.0]]) + np.zeros((2, N)), bootstrap.mean)
    difference = left - right
    assert difference.seeds == (0, 2)
    np.testing.assert_allclose(difference.figures, [5 - 2, 9 - 1])


def test_saturation_of_known_colors():
    images = np.zeros((2, 4, 4, 3)) + np.array([[1, -1, -1], [0.3, 0.3, 0.3]]).reshape(2, 1, 1, 3)
    np.testing.assert_allclose(saturation(images), [1, 0], atol=1e-12)


# --- verdicts


@pytest.mark.parametrize(
    ("side", "interval", "expected"),
    [
        (LOWER, (-2, -1), REPRODUCED),
        (LOWER, (-2, 1), NOT_REPRODUCED),
        (LOWER, (1, 2), CONTRARY),
        (HIGHER, (-2, -1), CONTRARY),
        (HIGHER, (-2, 1), NOT_REPRODUCED),
        (HIGHER, (1, 2), REPRODUCED),
        (NOT_HIGHER, (-2, -1), REPRODUCED),
        (NOT_HIGHER, (-2, 1), REPRODUCED),
        (NOT_HIGHER, (1, 2), CONTRARY),
    ],
)
def test_verdicts(side, interval, expected):
    assert claims.verdict_of(side, *interval) == expected


# --- results in a folder


evaluator, folder = study_results.evaluator, study_results.folder


def judged(folder, comparison, **options):
    return claims.judge(comparison, TASKS[0], read(folder), **options)


CODI_AHEAD = claims.Comparison(("codi", "ddim-4"), ("ldm", "ddim-4"))


def test_references_are_read_as_they_were_made(folder, evaluator):
    assert read_references(folder, TASKS[0]) is None
    make_references(folder, TASKS[0], evaluator)
    references = read_references(folder, TASKS[0])
    assert tuple(references.rows) == REFERENCES == tuple(references.images)
    assert references.rows["autoencoder"][FD] == pytest.approx(0, abs=1e-6)
    assert references.rows["original"]["psnr"] is None and references.rows["original"]["sharpness"] == pytest.approx(1)
    assert references.rows["condition"]["latent_error"] > 0
    np.testing.assert_allclose(references.images["original"], (evaluator.images[:IMAGES] + 1) / 2, atol=0.5 / 255)


def test_a_known_difference_is_judged(folder, evaluator):
    """2 * 1^2 against 2 * 3^2, whatever is drawn."""
    make_references(folder, TASKS[0], evaluator)
    put(folder, "codi", 1.0, evaluator)
    put(folder, "ldm", 3.0, evaluator)
    judgment = judged(folder, CODI_AHEAD)
    assert judgment.verdict == REPRODUCED and judgment.seeds == 3 and not judgment.grain
    figures = judgment.figures[FD]
    np.testing.assert_allclose([figures["left"], figures["right"]], [2, 18], rtol=1e-4)
    np.testing.assert_allclose([figures["difference"], *figures["interval"]], -16, rtol=1e-4)
    assert set(judgment.figures) == {FD, "latent_error", "sharpness"}
    swapped = claims.Comparison(CODI_AHEAD.right, CODI_AHEAD.left)
    assert judged(folder, swapped).verdict == CONTRARY


def test_missing_results_leave_a_claim_open(folder, evaluator):
    make_references(folder, TASKS[0], evaluator)
    put(folder, "codi", 1.0, evaluator)
    assert judged(folder, CODI_AHEAD).verdict == OPEN
    put(folder, "ldm", 3.0, evaluator, seeds=(0, 1))
    early = judged(folder, CODI_AHEAD)
    assert (early.verdict, early.seeds) == (OPEN, 2) and early.figures  # what is known so far is shown
    assert judged(folder, CODI_AHEAD, seeds=2).verdict == REPRODUCED
    path = pieces.metrics_of(BY_NAME["ldm"], TASKS[0], 1, folder)
    about = json.loads(path.read_text())
    about["samples"]["ddim-4"].pop("replicates")
    path.write_text(json.dumps(about))
    assert judged(folder, CODI_AHEAD, seeds=1).verdict == OPEN  # the table's mean would be of other seeds


def test_grain_is_marked(folder, evaluator):
    """Better in FD-photos, worse in the latent error, sharper than the autoencoder: all three."""
    make_references(folder, TASKS[0], evaluator)
    ceiling = read_references(folder, TASKS[0]).rows["autoencoder"]["sharpness"]
    put(folder, "ldm", 3.0, evaluator)
    for error, sharpness, expected in ((0.2, 2.0, True), (0.05, 2.0, False), (0.2, 0.5, False)):
        put(folder, "codi", 1.0, evaluator, error=error, sharpness=sharpness * ceiling)
        assert judged(folder, CODI_AHEAD).grain is expected


def test_a_claim_with_differing_comparisons_says_so():
    def one(verdict):
        return claims.Judgment(TASKS[0], CODI_AHEAD, verdict)

    assert claims.summary([one(REPRODUCED), one(REPRODUCED)]) == "reproduced"
    mixed = claims.summary([one(CONTRARY), one(REPRODUCED), one(CONTRARY)])
    assert mixed == "reproduced 1 of 3, contrary 2 of 3"
    beside = claims.Comparison(CODI_AHEAD.left, CODI_AHEAD.right, counts=False)
    assert claims.summary([one(REPRODUCED), claims.Judgment(TASKS[0], beside, CONTRARY)]) == "reproduced"


def test_the_hardest_comparison_is_the_one_the_furthest_above():
    def one(difference):
        return claims.Judgment(TASKS[0], CODI_AHEAD, OPEN, 3, {FD: {"difference": difference}})

    assert claims.hardest([one(-3.0), one(2.0), one(1.0)]).figures[FD]["difference"] == 2.0
    assert claims.hardest([claims.Judgment(TASKS[0], CODI_AHEAD, OPEN)]) is None


def test_what_is_kept_is_what_the_sample_was_measured_by(evaluator):
    """The replicates of a sample, read back from JSON, against the features and values themselves."""
    images, latents = evaluator.images[::-1].copy(), evaluator.latents[::-1]
    measured = evaluator.measure(images, latents)
    kept = json.loads(pieces.as_json(figures_of(measured, images)))
    assert kept[FD] == pytest.approx(frechet_distance(measured.values[FD], measured.references[FD]))
    assert kept["saturation"] == pytest.approx(saturation(images).mean())
    assert set(kept["replicates"]) == {FD, "psnr", "ssim", "sharpness", "latent_error", "saturation"}
    places = bootstrap.drawn(N, REPLICATES)[7]
    expected = frechet_distance(measured.values[FD][places], measured.references[FD][places])
    assert kept["replicates"][FD][7] == pytest.approx(expected, rel=1e-5)
    expected = measured.values["latent_error"][places].mean()
    assert kept["replicates"]["latent_error"][7] == pytest.approx(expected, rel=1e-5)


def test_measures_that_are_infinite_have_no_replicates(evaluator):
    assert (
        "psnr" not in figures_of(evaluator.measure(evaluator.images, evaluator.latents), evaluator.images)["replicates"]
    )


def test_strips_are_read_as_they_were_written(tmp_path):
    images = np.random.default_rng(0).uniform(-1, 1, (IMAGES + 2, S, S, 3))
    write_strip(tmp_path / "a" / "strip.png", images)
    np.testing.assert_allclose(read_strip(tmp_path / "a" / "strip.png"), (images[:-2] + 1) / 2, atol=0.51 / 255)


def test_lists_of_numbers_are_lines_of_json():
    about = {"a": [1.5, -2e-05, 3], "b": {"c": [["ddim", 4, None]], "d": "[1,\n2]"}}
    text = pieces.as_json(about)
    assert json.loads(text) == about and ' "a": [ 1.5, -2e-05, 3 ],\n' in text
