"""The paper's claims as data, and the verdicts on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from studies.paper.measures import FD, SATURATION
from studies.paper.plan import BY_NAME, SEEDS, TASKS
from studies.paper.results import Results, Sample

REPRODUCED, CONTRARY, NOT_REPRODUCED, OPEN = "reproduced", "contrary", "not reproduced", "open"
LOWER, HIGHER, NOT_HIGHER = "lower", "higher", "not higher"
ALSO = ("latent_error", "sharpness")  # shown in addition, because grain can improve FD-photos


@dataclass(frozen=True)
class Comparison:
    """Two samples, and the claimed relation of a measure of both.

    Attributes:
        left, right: (name of a row, name of a sample).
        measure: the measure that decides.
        side: the claim about the left one: LOWER, HIGHER, or NOT_HIGHER, which also holds without a difference.
        counts: whether the verdict on the claim depends on it; other comparisons are only shown.
    """

    left: tuple[str, str]
    right: tuple[str, str]
    measure: str = FD
    side: str = LOWER
    counts: bool = True


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: it holds if all of its comparisons that count hold, for all of its tasks."""

    letter: str
    text: str
    comparisons: tuple[Comparison, ...]
    tasks: tuple[str, ...] = TASKS

    def comparisons_of(self, task: str) -> list[Comparison]:
        """The comparisons whose rows the plan has for a task."""
        return [one for one in self.comparisons if all(task in BY_NAME[row].tasks for row, _ in (one.left, one.right))]


@dataclass(frozen=True)
class Judgment:
    """The verdict on one comparison, for one task.

    Attributes:
        task, comparison: what was compared.
        verdict: REPRODUCED, CONTRARY, NOT_REPRODUCED or OPEN.
        seeds: the number of seeds that both sides have.
        figures: measure -> {"left", "right", "difference", "interval"}, the measure that decides first.
        grain: whether the side with the better FD-photos has the higher latent error and is sharper than the
            autoencoder, so that its sharpness is no true detail.
    """

    task: str
    comparison: Comparison
    verdict: str
    seeds: int = 0
    figures: dict[str, dict] = dataclasses.field(default_factory=dict)
    grain: bool = False


HALF_CODI = ("codi_half", "ddim-4")
CODI, PE_CODI, LDM = ("codi", "ddim-4"), ("pe_codi", "ddim-4"), ("ldm", "ddim-4")
TRAINED_STOCHASTIC = ("gd_2_stochastic", "stochastic-4")
LDM_AT_50 = ("ldm", "ddim-50")
DISTILLED = (  # each with the sampler that it was trained for
    ("gd_2", "ddim-4"),
    ("gd_1", "ddim-4"),
    ("cm_2", "consistency-4"),
    ("cm_2_frozen", "consistency-4"),
)
OTHERWISE = (  # the same, sampled or trained in another way
    ("gd_2", "ddim-4-guidance-1.5"),
    ("cm_2", "ddim-2"),
    ("cm_2", "ddim-4"),
    ("cm_2_frozen", "ddim-4"),
)


def _ahead(left: tuple[str, str], *others: tuple[str, str], counts: bool = True) -> tuple[Comparison, ...]:
    return tuple(Comparison(left, right, counts=counts) for right in others)


def _ahead_of_rows(*rows: str) -> tuple[Comparison, ...]:
    """CoDi against itself with one thing changed, both at half of the budget."""
    return _ahead(HALF_CODI, *((row, "ddim-4") for row in rows))


CLAIMS = (
    Claim(
        "a",
        "CoDi at 4 evaluations is not behind the fine-tuned LDM at 50",
        (
            Comparison(CODI, LDM_AT_50, side=NOT_HIGHER),
            Comparison(PE_CODI, ("adapter", "ddim-50"), side=NOT_HIGHER, counts=False),
        ),
    ),
    Claim(
        "b",
        "CoDi at 4 is better than the LDM at 4 with DDIM, DPM-Solver and DPM-Solver++",
        _ahead(CODI, LDM, ("ldm", "dpm-4"), ("ldm", "dpm++-4")),
    ),
    Claim(
        "c",
        "CoDi at 4 is better than GD-II, GD-I, CM-II and CM-II (frozen) at 4",
        (*_ahead(CODI, *DISTILLED), *_ahead(CODI, *OTHERWISE, counts=False)),
    ),
    Claim(
        "d",
        "PE-CoDi at 4 lies between CoDi and the others",
        (
            *_ahead(CODI, PE_CODI),
            *_ahead(PE_CODI, LDM, ("adapter", "ddim-4"), *DISTILLED),
            *_ahead(PE_CODI, *OTHERWISE, counts=False),
        ),
    ),
    Claim(
        "e",
        "One t for the whole batch is better than one for each sample",
        _ahead_of_rows("codi_per_sample"),
        TASKS[:1],
    ),
    Claim(
        "f",
        "Without noise consistency it is worse; without guidance worse, and over-saturated",
        (
            *_ahead_of_rows("codi_no_consistency", "codi_no_guidance"),
            Comparison(("codi_no_guidance", "ddim-4"), HALF_CODI, measure=SATURATION, side=HIGHER),
        ),
        TASKS[:1],
    ),
    Claim(
        "g",
        "The student's own ODE is better than the frozen network's",
        _ahead_of_rows("codi_frozen_ode"),
        TASKS[:1],
    ),
    Claim("h", "Pre-training is better than random initialization", _ahead_of_rows("codi_random"), TASKS[:1]),
    Claim(
        "i",
        "Latent L2 guidance is the best of four at 4 steps",
        _ahead_of_rows("codi_encoded", "codi_pixel", "codi_perceptual"),
        TASKS[:1],
    ),
    Claim(
        "j",
        "The stochastic sampler is better than the deterministic one at 4 (GD, unguided: Meng et al., Table 1)",
        (
            *_ahead(TRAINED_STOCHASTIC, ("gd_2_longer", "ddim-4")),
            *_ahead(TRAINED_STOCHASTIC, ("gd_2", "ddim-4"), ("gd_2_stochastic", "ddim-4"), counts=False),
            *_ahead(("gd_2", "stochastic-4"), ("gd_2", "ddim-4"), counts=False),
            *_ahead(("codi", "stochastic-4"), CODI, counts=False),
        ),
    ),
)


def judge_all(
    results: Results, *, claims: tuple[Claim, ...] = CLAIMS, seeds: int = len(SEEDS)
) -> dict[str, list[Judgment]]:
    """Letter -> judgments of every comparison, task by task. Both sides need at least `seeds` seeds."""
    return {claim.letter: list(_judged(claim, results, seeds)) for claim in claims}


def judge(comparison: Comparison, task: str, results: Results, *, seeds: int = len(SEEDS)) -> Judgment:
    """The verdict on a comparison: OPEN if the sides share fewer than `seeds` seeds."""
    left, right = (results.samples.get((task, *side)) for side in (comparison.left, comparison.right))
    if left is None or right is None:
        return Judgment(task, comparison, OPEN)
    figures = {}
    for measure in dict.fromkeys((comparison.measure, FD, *ALSO)):
        sides = left.spread(measure), right.spread(measure)
        if None in sides or left.references is None:
            return Judgment(task, comparison, OPEN)
        difference = sides[0] - sides[1]
        if not difference.seeds:
            return Judgment(task, comparison, OPEN)
        figures[measure] = {
            "left": sides[0].mean(),
            "right": sides[1].mean(),
            "difference": difference.mean(),
            "interval": difference.interval(),
        }
    shared = len(difference.seeds)
    verdict = verdict_of(comparison.side, *figures[comparison.measure]["interval"]) if shared >= seeds else OPEN
    return Judgment(task, comparison, verdict, shared, figures, _grain(figures, left))


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
    """Among comparisons of FD-photos that count, the one whose left side is worst; None if there is none."""
    made = [one for one in judgments if one.figures and one.comparison.measure == FD and one.comparison.counts]
    return max(made, key=_above, default=None)


def as_data(judgments: dict[str, list[Judgment]], claims: tuple[Claim, ...] = CLAIMS) -> dict[str, dict]:
    """Claims and judgments as plain data for JSON."""
    return {
        claim.letter: {
            "claim": claim.text,
            "verdict": summary(judgments[claim.letter]),
            "comparisons": [dataclasses.asdict(judgment) for judgment in judgments[claim.letter]],
        }
        for claim in claims
    }


def _above(judgment: Judgment) -> float:
    return judgment.figures[FD]["difference"]


def _judged(claim: Claim, results: Results, seeds: int) -> Iterator[Judgment]:
    for task in claim.tasks:
        for comparison in claim.comparisons_of(task):
            yield judge(comparison, task, results, seeds=seeds)


def _grain(figures: dict[str, dict], sample: Sample) -> bool:
    better, other = ("left", "right") if figures[FD]["difference"] < 0 else ("right", "left")
    ceiling = sample.references.rows["autoencoder"]["sharpness"]
    latent_error = figures["latent_error"]
    return figures["sharpness"][better] > ceiling and latent_error[better] > latent_error[other]
