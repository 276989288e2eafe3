"""The study: its plan, its intervals, its figures, and the verdicts from whatever results are there."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_base
from scipy import stats
from study_results import FD, TASK, put, put_references

from codi_tf import data
from codi_tf.evaluation.loading import metrics_with
from codi_tf.evaluation.measuring import Evaluator
from codi_tf.evaluation.numerics import frechet_distance
from codi_tf.tasks import make_task
from studies.common.intervals import GROUPS, Spread, kept, leave_out
from studies.common.measures import SATURATION, figures_of, saturation
from studies.common.results import read_json, sample_name, write_json
from studies.paper import claims, costs, pieces, plan, report
from studies.paper.claims import CLAIMS, CONTRARY, HIGHER, LOWER, NOT_HIGHER, NOT_REPRODUCED, OPEN, OURS, REPRODUCED
from studies.paper.pieces import Piece
from studies.paper.plan import BY_NAME, ROWS, SEEDS, TASKS, WORLDS, updates_of
from studies.paper.results import read


def features(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# --- the plan


def test_parents_come_first_and_are_trained_for_every_task_of_their_rows():
    seen = set()
    for row in ROWS:
        assert row.name not in seen
        seen.add(row.name)
        if row.parent is not None:
            parent = BY_NAME[row.parent]
            assert row.parent in seen and (parent.on_base or set(row.tasks) <= set(parent.tasks))


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_every_row_and_every_trial_is_a_valid_experiment(row):
    """Catches an option that does not exist any more, and phases of halving that do not fit the updates."""
    for task in row.tasks:
        for piece in (Piece(row, task, 1), *pieces.trials_of(row, task)):
            settings, method = pieces.experiment_of(piece), piece.row.method
            if method is not None:
                assert settings.train.steps == updates_of(piece.row, task) and settings.train.seed == piece.seed
            if method is not None and method.get("stage") == 2:
                phases = settings.method.updates * len(method["steps"])
                assert settings.train.steps - len(method["steps"]) < phases <= settings.train.steps


def test_rows_have_equal_updates_and_those_of_equal_compute_equal_passes():
    """An update of CoDi takes four passes; the systems of two stages have four on average, so theirs are equal, too."""
    budgets = {name: costs.budget_of(BY_NAME[name]) for name in report.TABLE_2}
    for name in ("ldm_compute", "adapter_compute"):
        assert budgets.pop(name) == pytest.approx((4 / 3, 4))
    for name in ("gd_2_stochastic", "gd_2_longer"):
        assert budgets.pop(name)[0] == pytest.approx(1.1)
    assert [updates for updates, _ in budgets.values()] == pytest.approx([1.0] * len(budgets))
    assert {name for name, (_, passes) in budgets.items() if passes != pytest.approx(4)} == {"ldm", "adapter"}


def test_passes_are_the_networks_of_the_loss():
    expected = {"ldm": 3, "codi": 4, "codi_frozen_ode": 5, "codi_no_consistency": 3, "gd_2": 5, "cm_2": 5}
    assert {name: costs.passes(BY_NAME[name]) for name in expected} == expected


def test_guidance_takes_two_evaluations_unless_it_was_learned():
    assert costs.evaluations(BY_NAME["ldm"], 4, 1.5) == 8
    assert costs.evaluations(BY_NAME["gd_2"], 4, 1.5) == costs.evaluations(BY_NAME["codi"], 4, None) == 4


def test_every_system_has_the_same_trials():
    """Each rate of its world, as many updates, one seed, in the first task of the world."""
    for task, world in TASKS.items():
        for row in (row for row in ROWS if task in row.tasks):
            trials = pieces.trials_of(row, task)
            assert [trial.rate for trial in trials] == list(world.rates)
            assert {updates_of(trial.row, trial.task) for trial in trials} == {round(world.updates / 4)}
            assert {(trial.seed, TASKS[trial.task].name) for trial in trials} == {(0, world.name)}
            assert {trial.task for trial in trials} <= set(plan.ABLATED)
    assert {row.name for row in ROWS if row.judged is None} == {"base_halved", "base_early"}


def test_a_world_takes_less_than_six_hours_of_a_core():
    """Catches a row or a sample that nobody can afford."""
    for name, world in WORLDS.items():
        tasks = [task for task, own in TASKS.items() if own is world]
        left = pieces.left(pieces.pieces_of(tasks))
        assert len({piece.key for piece in left}) == len(left)
        assert sum(sum(costs.seconds_of(piece)) for piece in left) < 6 * 3600, name


def test_claims_and_tables_name_samples_of_the_plan():
    for claim in (*CLAIMS, *OURS):
        for row, sample in (side for one in claim.comparisons for side in (one.left, one.right)):
            assert sample in {sample_name(*way) for way in BY_NAME[row].samples}
            assert set(claim.tasks) <= set(BY_NAME[row].tasks)
    assert {claim.letter for claim in CLAIMS} == set("abcdefghij")
    chosen = (report.TABLE_2, report.TABLE_3, report.HORIZONS, report.BASES, report.BUDGETS, report.FIG_2, report.FIG_7)
    assert {name for names in chosen for name in names} <= set(BY_NAME)
    for row in (*report.FAMILIES, *report.HORIZONS, "gd_2_stochastic", "codi_early"):
        assert report._own_sample(row) in {sample_name(*way) for way in BY_NAME[row].samples}


# --- intervals


def spread(seeds, values, statistic) -> Spread:
    """Of values [K, N, ...]; the statistic is a function of values and places."""
    count = values.shape[1]
    everything = np.ones(count, bool)
    left_out = [leave_out(count, lambda places, own=own: statistic(own, places)) for own in values]
    return Spread(tuple(seeds), np.array([statistic(own, everything) for own in values]), np.array(left_out).T)


def mean(values, places):
    return values[places].mean()


def frechet_to(reference):
    return lambda values, places: frechet_distance(values[places], reference[places])


def test_groups_are_left_out_one_after_the_other():
    places = np.array(list(kept(40)))
    assert places.shape == (GROUPS, 40) and (~places).sum(axis=0).tolist() == [1] * 40


def test_of_a_mean_the_jackknife_is_the_variance_of_the_mean():
    """With an image a group it is s^2 / N: Student's interval of the mean, by SciPy."""
    values = features(0, 1, GROUPS)
    expected = stats.t.interval(0.9, GROUPS - 1, loc=values.mean(), scale=stats.sem(values[0]))
    np.testing.assert_allclose(spread((0,), values, mean).interval(), expected, rtol=1e-9)


def test_of_seeds_alone_it_is_students_interval():
    """Images that agree leave the seeds: the mean of 0, 1 and 2, against SciPy's interval."""
    values = np.repeat(np.arange(3.0)[:, np.newaxis], 48, axis=1)
    expected = stats.t.interval(0.9, 2, loc=1.0, scale=stats.sem([0.0, 1.0, 2.0]))
    np.testing.assert_allclose(spread(SEEDS, values, mean).interval(), expected, rtol=1e-9)


def test_nine_intervals_of_ten_hold_the_truth():
    """Three seeds of 64 images, whose effects are as wide in the mean: 90 % of 400 worlds, within chance."""
    held = 0
    for world in np.random.default_rng(0).spawn(400):
        images = world.normal(size=64) * 8  # 1 in the mean of 64
        values = images + world.normal(size=(3, 1)) * np.sqrt(3.0)  # 1 in the mean of 3
        low, high = spread(SEEDS, values, mean).interval()
        held += low <= 0 <= high
    assert 0.87 < held / 400 < 0.96


def test_a_shift_of_features_is_its_square():
    """FD(a + c, a) = |c|^2 on any images, so that the interval has no width."""
    own, shift = features(0, 48, 3), np.array([1.0, -2.0, 0.5])
    left = spread((0, 1), np.stack([own + shift, own - shift]), frechet_to(own))
    right = spread((0, 1), np.stack([own, own]), frechet_to(own))
    np.testing.assert_allclose([(left - right).mean(), *(left - right).interval()], 5.25, rtol=1e-9)


def test_what_both_sides_share_cancels():
    """Values that differ by a constant differ by it surely, although each side alone is unsure."""
    noisy = features(0, 2, 48)
    left, right = (spread((0, 1), values, mean) for values in (noisy + 0.25, noisy))
    np.testing.assert_allclose((left - right).interval(), 0.25, rtol=1e-9)
    low, high = right.interval()
    assert high - low > 0.1


def test_only_shared_seeds_are_compared():
    left = spread((0, 1, 2), np.array([[5.0], [7.0], [9.0]]) + np.zeros((3, 48)), mean)
    right = spread((2, 0), np.array([[1.0], [2.0]]) + np.zeros((2, 48)), mean)
    difference = left - right
    assert difference.seeds == (0, 2)
    np.testing.assert_allclose(difference.figures, [5 - 2, 9 - 1])


# --- figures


def test_figures_are_those_of_the_metrics_also_without_a_group():
    """Measured anew on the images that are left, where the originals' own energy varies, too."""
    examples = data.evaluation_set(data.load_photos("heldout"), make_task(TASK), image_size=16, count=20, seed=0)
    made = np.clip(examples["image"] + features(0, *examples["image"].shape) * 0.1, -1, 1).astype(np.float32)
    base = make_base()

    def measured(places):
        metrics = metrics_with(lambda images: images[:, 0, :2, 0])
        one = Evaluator(examples["image"][places], examples["condition"][places], base, metrics)
        return one.measure(made[places], one.encode(made[places]))

    found = figures_of(measured(np.ones(20, bool)), made)
    assert found is not None and set(found) == {"psnr", "ssim", "latent_error", "sharpness", FD, SATURATION}
    whole, without = (measured(places).row() for places in (np.ones(20, bool), next(kept(20))))
    for name in set(found) - {SATURATION}:
        assert found[name][0] == pytest.approx(whole[name], rel=1e-3)
        assert found[name][1][0] == pytest.approx(without[name], rel=1e-3), name


def test_images_that_are_not_finite_have_no_figures():
    assert figures_of(None, np.full((2, 4, 4, 3), np.nan)) is None


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


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """The study's files lie below the working folder."""
    monkeypatch.chdir(tmp_path)
    put_references()


AHEAD = claims.Comparison(("codi", "ddim-4"), ("ldm", "ddim-4"))


def judged(comparison=AHEAD, **options):
    return claims.judge(comparison, TASK, read(), **options)


def test_a_known_difference_is_judged(workplace):
    put("codi", 2.0)
    put("ldm", 18.0)
    judgment = judged()
    assert judgment.verdict == REPRODUCED and judgment.seeds == 3 and not judgment.grain
    figures = judgment.figures[FD]
    assert [figures["left"], figures["right"]] == pytest.approx([2.01, 18.01])
    assert [figures["difference"], *figures["interval"]] == pytest.approx([-16] * 3)
    assert set(judgment.figures) == {FD, "latent_error", "sharpness"}
    assert judged(claims.Comparison(AHEAD.right, AHEAD.left)).verdict == CONTRARY


def test_missing_results_leave_a_claim_open(workplace):
    put("codi", 2.0)
    assert judged().verdict == OPEN
    put("ldm", 18.0, seeds=(0, 1))
    early = judged()
    assert (early.verdict, early.seeds) == (OPEN, 2) and early.figures  # what is known so far is shown
    assert judged(seeds=2).verdict == REPRODUCED


def test_a_training_that_diverged_leaves_a_claim_open(workplace):
    """Its sample has no figures; the table counts it."""
    put("codi", 2.0)
    put("ldm", 18.0)
    path = Piece(BY_NAME["ldm"], TASK, 1).figures
    about = read_json(path)
    write_json(path, {**about, "samples": dict.fromkeys(about["samples"])})
    assert judged().verdict == OPEN and read().samples[TASK, "ldm", "ddim-4"].diverged == 1


def test_grain_is_marked(workplace):
    """Better in FD-photos, worse in the latent error, sharper than the autoencoder: all three."""
    put("ldm", 18.0)
    for error, sharpness, expected in ((0.2, 1.0, True), (0.05, 1.0, False), (0.2, 0.25, False)):
        put("codi", 2.0, error=error, sharpness=sharpness)
        assert judged().grain is expected


def test_a_claim_with_differing_comparisons_says_so():
    def one(verdict, counts=True):
        comparison = claims.Comparison(AHEAD.left, AHEAD.right, counts=counts)
        return claims.Judgment(TASK, comparison, verdict)

    mixed = claims.summary([one(CONTRARY), one(REPRODUCED), one(CONTRARY)])
    assert mixed == "reproduced 1 of 3, contrary 2 of 3"
    assert claims.summary([one(REPRODUCED), one(CONTRARY, counts=False)]) == "reproduced"


def test_the_hardest_comparison_is_the_one_the_furthest_above():
    def one(difference):
        return claims.Judgment(TASK, AHEAD, REPRODUCED, 3, {FD: {"difference": difference}})

    first, second = one(-3.0), one(1.0)
    assert claims.hardest([first, second]) is second and claims.hardest([]) is None
