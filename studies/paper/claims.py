"""The paper's claims as data, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from studies.common.measures import SATURATION
from studies.paper.plan import ABLATED, BY_NAME, SEEDS, TASKS, world_of
from studies.paper.results import Results

REPRODUCED, CONTRARY, NOT_REPRODUCED, OPEN = "reproduced", "contrary", "not reproduced", "open"
LOWER, HIGHER, NOT_HIGHER = "lower", "higher", "not higher"
Side = tuple[str, str]  # (name of a row, name of a sample)


@dataclass(frozen=True)
class Comparison:
    """Two samples, and the claimed relation of a measure of both.

    Attributes:
        left, right: the samples.
        measure: what decides; None: the decisive measure of the task's world.
        side: the claim about the left one: LOWER, HIGHER, or NOT_HIGHER, which also holds without a difference.
        counts: whether the verdict on the claim depends on it; other comparisons are only shown.
    """

    left: Side
    right: Side
    measure: str | None = None
    side: str = LOWER
    counts: bool = True

    def measured_by(self, task: str) -> str:
        """The measure that decides for a task."""
        return self.measure or world_of(task).measures[0]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: it holds if all of its comparisons that count hold, for all of its tasks."""

    letter: str
    text: str
    comparisons: tuple[Comparison, ...]
    tasks: tuple[str, ...] = tuple(TASKS)


@dataclass(frozen=True)
class Judgment:
    """The verdict on one comparison, for one task.

    Attributes:
        task, comparison: what was compared.
        verdict: REPRODUCED, CONTRARY, NOT_REPRODUCED or OPEN.
        seeds: the number of seeds that both sides have.
        figures: measure -> {"left", "right", "difference", "interval"}, the measure that decides first.
        grain: whether the side with the better decisive measure has the higher latent error and is sharper than the
            autoencoder, so that its sharpness is no true detail.
    """

    task: str
    comparison: Comparison
    verdict: str
    seeds: int = 0
    figures: dict[str, dict] = field(default_factory=dict)
    grain: bool = False


def _of(row: str, sample: str = "ddim-4") -> Side:
    return row, sample


def _ahead(left: Side, *others: Side, counts: bool = True) -> tuple[Comparison, ...]:
    return tuple(Comparison(left, right, counts=counts) for right in others)


def _not_behind(left: Side, *others: Side, counts: bool = True) -> tuple[Comparison, ...]:
    return tuple(Comparison(left, right, side=NOT_HIGHER, counts=counts) for right in others)


CODI, PE_CODI, LITERAL, HALF = _of("codi"), _of("pe_codi"), _of("codi_paper"), _of("codi_half")
LDM, LDM_COMPUTE = _of("ldm", "ddim-50"), _of("ldm_compute", "ddim-50")
DISTILLED = (_of("gd_2"), _of("gd_1"), _of("cm_2", "consistency-4"), _of("cm_2_frozen", "consistency-4"))
OTHERWISE = (_of("gd_2", "ddim-4-guidance-1.5"), _of("cm_2", "ddim-2"), _of("cm_2"), _of("cm_2_frozen"))
SOLVERS = (_of("ldm"), _of("ldm", "dpm-4"), _of("ldm", "dpm++-4"))
STOCHASTIC = _of("gd_2_stochastic", "stochastic-4")

CLAIMS = (
    Claim(
        "a",
        "CoDi at 4 evaluations is not behind the fine-tuned LDM at 50",
        (
            *_not_behind(CODI, LDM, LDM_COMPUTE),  # equal updates, equal compute
            *_not_behind(PE_CODI, _of("adapter", "ddim-50"), _of("adapter_compute", "ddim-50"), counts=False),
            *_not_behind(LITERAL, LDM, counts=False),
        ),
    ),
    Claim(
        "b",
        "CoDi at 4 is better than the LDM at 4 with DDIM, DPM-Solver and DPM-Solver++",
        (
            *_ahead(CODI, *SOLVERS, _of("ldm_compute")),
            *_ahead(LITERAL, *SOLVERS, counts=False),
        ),
    ),
    Claim(
        "c",
        "CoDi at 4 is better than GD-II, GD-I, CM-II and CM-II (frozen) at 4",
        (
            *_ahead(CODI, *DISTILLED),
            *_ahead(CODI, *OTHERWISE, counts=False),
            *_ahead(LITERAL, *DISTILLED, counts=False),
        ),
    ),
    Claim(
        "d",
        "PE-CoDi at 4 lies between CoDi and the others",
        (
            *_ahead(CODI, PE_CODI),
            *_ahead(PE_CODI, _of("ldm"), _of("adapter"), *DISTILLED),
            *_ahead(PE_CODI, *OTHERWISE, counts=False),
        ),
    ),
    Claim(
        "e",
        "One t for the whole batch is better than one for each sample",
        (*_ahead(HALF, _of("codi_per_sample")), *_ahead(HALF, _of("codi_per_sample_n8"), counts=False)),
        ABLATED,
    ),
    Claim(
        "f",
        "Without consistency it is worse; without guidance worse, and over-saturated",
        (
            *_ahead(HALF, _of("codi_no_consistency"), _of("codi_no_guidance")),
            Comparison(_of("codi_no_guidance"), HALF, measure=SATURATION, side=HIGHER),
        ),
        ABLATED,
    ),
    Claim(
        "g",
        "The student's own ODE is better than the frozen network's, at equal horizons",
        (
            *_ahead(HALF, _of("codi_frozen_ode")),
            *(
                Comparison(_of("codi_half", name), _of("codi_frozen_ode", name), counts=False)
                for name in ("ddim-2", "ddim-8")
            ),
        ),
        ABLATED,
    ),
    Claim("h", "Pre-training is better than random initialization", _ahead(HALF, _of("codi_random")), ABLATED),
    Claim(
        "i",
        "Latent L2 guidance is the best of four at 4 steps",
        _ahead(HALF, _of("codi_encoded"), _of("codi_pixel"), _of("codi_perceptual")),
        ABLATED,
    ),
    Claim(
        "j",
        "The stochastic sampler is better than the deterministic one at 4 (GD, unguided: Meng et al., Table 1)",
        (
            *_ahead(STOCHASTIC, _of("gd_2_longer")),
            *_ahead(STOCHASTIC, _of("gd_2"), _of("gd_2_stochastic"), counts=False),
            *_ahead(_of("gd_2", "stochastic-4"), _of("gd_2"), counts=False),
            *_ahead(_of("codi", "stochastic-4"), CODI, counts=False),
        ),
    ),
)
OURS = (  # what is claimed here of the horizon, beyond the paper
    Claim(
        "N",
        "A model made for N evaluations is the best of 1, 2, 4 and 8 at N",
        tuple(
            Comparison(_of(own, f"ddim-{steps}"), _of(other, f"ddim-{steps}"))
            for own, steps in {"codi_n1": 1, "codi_n2": 2, "codi_half": 4, "codi_n8": 8}.items()
            for other in ("codi_n1", "codi_n2", "codi_half", "codi_n8")
            if other != own
        ),
    ),
    Claim(
        "S",
        "Consistency in the signal is better than in the noise, with the same weight, and than the paper's loss",
        (*_ahead(HALF, _of("codi_noise"), _of("codi_0_1_0")), *_ahead(CODI, LITERAL)),
        ABLATED,
    ),
    Claim(
        "B",
        "From a poor base, too, CoDi at 4 is not behind the LDM at 50",
        _not_behind(_of("codi_early"), _of("ldm_early", "ddim-50")),
        ABLATED,
    ),
)


def judge_all(results: Results, claims: tuple[Claim, ...] = (*CLAIMS, *OURS)) -> dict[str, list[Judgment]]:
    """Letter -> judgments of every comparison, task by task."""
    return {claim.letter: list(_judged(claim, results)) for claim in claims}


def judge(comparison: Comparison, task: str, results: Results, *, seeds: int = len(SEEDS)) -> Judgment:
    """The verdict on a comparison: OPEN if the sides share fewer than `seeds` seeds."""
    left, right = (results.samples.get((task, *side)) for side in (comparison.left, comparison.right))
    if left is None or right is None:
        return Judgment(task, comparison, OPEN)
    world, figures, shared = world_of(task), {}, 0
    for measure in dict.fromkeys((comparison.measured_by(task), world.measures[0], *world.also)):
        sides = left.spread(measure), right.spread(measure)
        if sides[0] is None or sides[1] is None:
            return Judgment(task, comparison, OPEN)
        difference = sides[0] - sides[1]
        shared = len(difference.seeds)
        if not shared:
            return Judgment(task, comparison, OPEN)
        figures[measure] = {
            "left": sides[0].mean(),
            "right": sides[1].mean(),
            "difference": difference.mean(),
            "interval": difference.interval(),
        }
    interval = figures[comparison.measured_by(task)]["interval"]
    verdict = verdict_of(comparison.side, *interval) if shared >= seeds else OPEN
    ceiling = results.references.get(task, {}).get("autoencoder")
    return Judgment(task, comparison, verdict, shared, figures, ceiling is not None and _grain(figures, task, ceiling))


def verdict_of(side: str, low: float, high: float) -> str:
    """REPRODUCED, CONTRARY or NOT_REPRODUCED, by the interval (low, high) of left - right."""
    if side == HIGHER:
        low, high = -high, -low
    if low > 0:
        return CONTRARY
    return REPRODUCED if high < 0 or side == NOT_HIGHER else NOT_REPRODUCED


def summary(judgments: list[Judgment]) -> str:
    """The verdict on a whole claim; if the comparisons that count differ, the number of each verdict."""
    verdicts = [judgment.verdict for judgment in judgments if judgment.comparison.counts]
    if len(set(verdicts)) == 1:
        return verdicts[0]
    counts = {word: verdicts.count(word) for word in (REPRODUCED, NOT_REPRODUCED, CONTRARY, OPEN)}
    return ", ".join(f"{word} {count} of {len(verdicts)}" for word, count in counts.items() if count)


def hardest(judgments: list[Judgment]) -> Judgment | None:
    """Among the comparisons by the decisive measure that count, the one whose left side is worst; None without one."""
    made = [one for one in judgments if one.figures and one.comparison.measure is None and one.comparison.counts]
    return max(made, key=lambda one: one.figures[world_of(one.task).measures[0]]["difference"], default=None)


def _judged(claim: Claim, results: Results) -> Iterator[Judgment]:
    for task in claim.tasks:
        for one in claim.comparisons:
            if all(task in BY_NAME[row].tasks for row, _ in (one.left, one.right)):
                yield judge(one, task, results)


def _grain(figures: dict[str, dict], task: str, ceiling: dict) -> bool:
    decisive = figures[world_of(task).measures[0]]
    better, other = ("left", "right") if decisive["difference"] < 0 else ("right", "left")
    error = figures["latent_error"]
    return figures["sharpness"][better] > ceiling["sharpness"] and error[better] > error[other]
