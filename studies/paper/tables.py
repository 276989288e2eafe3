"""The tables of the study as Markdown; "" if there are no results."""

from __future__ import annotations

from collections.abc import Iterable

from studies.common.measures import column_of
from studies.common.results import sample_name
from studies.common.tables import NOTHING, cell, figure_text, markdown
from studies.paper import claims, costs, pieces
from studies.paper.pieces import Piece
from studies.paper.plan import BY_NAME, SEEDS, TASKS, chain, updates_of, world_of
from studies.paper.results import Results, Sample

SAMPLERS = {
    "ddim": "DDIM",
    "dpm": "DPM-Solver-2",
    "dpm++": "DPM-Solver++(2M)",
    "consistency": "consistency",
    "stochastic": "stochastic",
}
TITLES = {
    "super_resolution": "super-resolution of photos",
    "inpainting": "inpainting of photos",
    "depth": "depth to scene",
}
REFERENCES = {
    "condition": "condition",
    "autoencoder": "autoencoder (the ceiling)",
    "original": "original",
    "other": "other true images",
}


def quality(results: Results, task: str, rows: Iterable[str], *, steps: tuple[int, ...] | None = None) -> str:
    """Every sample of some rows, or those with some numbers of steps, with all measures; and the references."""
    measures = world_of(task).measures
    samples = [sample for row in rows for sample in results.of_row(task, row)]
    lines = [_quality(sample, measures) for sample in samples if steps is None or sample.steps in steps]
    if not lines:
        return ""
    for name, row in results.references.get(task, {}).items():
        cells = (cell(row, measure) for measure in measures)
        lines.append((REFERENCES[name], NOTHING, NOTHING, *cells, NOTHING))
    decisive = column_of(measures[0]).title
    titles = ("", "sampler", "evaluations", *(column_of(one).title for one in measures), f"{decisive} of the seeds")
    return markdown(titles, lines, words=2)


def by_steps(results: Results, task: str, rows: Iterable[str]) -> str:
    """The decisive measure of some rows against the number of evaluations, with DDIM."""
    measure = world_of(task).measures[0]
    found = {row: {one.steps: one for one in results.of_row(task, row) if is_plain(one)} for row in rows}
    counts = sorted({count for samples in found.values() for count in samples})
    lines = (
        (
            BY_NAME[row].title,
            f"{sum(updates_of(stage, task) for stage in chain(BY_NAME[row]) if stage.method is not None):,}",
            *(cell(samples[n].row_of_figures((measure,)), measure) if n in samples else NOTHING for n in counts),
        )
        for row, samples in found.items()
        if samples
    )
    return markdown((column_of(measure).title, "updates", *(f"at {n}" for n in counts)), lines)


def is_plain(sample: Sample) -> bool:
    """Whether a sample is a point of its row's curve over the numbers of evaluations."""
    return (sample.sampler, sample.guidance) == ("ddim", None)


def cost(results: Results, task: str, rows: Iterable[str]) -> str:
    """The training cost of some rows, all stages: equal updates and equal compute can be told from it."""
    lines = []
    for row in (BY_NAME[name] for name in rows):
        if (task, row.name) in results.about:
            stages = [stage for stage in reversed(chain(row)) if stage.method is not None]
            updates, passes = (round(share * world_of(task).updates) for share in costs.budget_of(row))
            seconds = costs.cpu_seconds(results.about, row, task)
            lines.append(
                (
                    row.title,
                    " + ".join(f"{updates_of(stage, task):,}" for stage in stages),
                    f"{updates:,}",
                    f"{passes:,}",
                    NOTHING if seconds is None else f"{seconds:,.0f}",
                    str(len(results.about[task, row.name])),
                )
            )
    titles = ("", "updates of the stages", "updates", "network passes", "CPU seconds", "seeds")
    return markdown(titles, lines, words=2)


def tuning(results: Results) -> str:
    """The trials of every system: the decisive measure with each rate, and the rate that is used."""
    lines = []
    for (task, _), trials in results.trials.items():
        row = next(iter(trials.values()))["settings"][-1]["row"]
        used = pieces.rate_of(Piece(BY_NAME[row], task, SEEDS[0]))
        measure, rates = world_of(task).measures[0], world_of(task).rates
        figures = (_trial(trials.get(rate), measure) for rate in rates)
        cells = (f"{rate:g}: {figure}" for rate, figure in zip(rates, figures, strict=True))
        sampler, steps, guidance = BY_NAME[row].judged or ("", 0, None)
        judged = f"{_sampler_title(sampler, guidance)}, {steps}"
        lines.append((BY_NAME[row].title, TITLES[task], judged, *cells, NOTHING if used is None else f"{used:g}"))
    return markdown(("", "task", "judged by", "", "", "", "used"), lines, words=3)


def claims_table(judgments: dict[str, list[claims.Judgment]], of: tuple[claims.Claim, ...] = claims.CLAIMS) -> str:
    """A line for each claim: for each task its verdict, and the difference that supports the claim least."""
    lines = []
    for claim in of:
        by_task = ([one for one in judgments[claim.letter] if one.task == task] for task in TASKS)
        lines.append((f"({claim.letter})", claim.text, *(_verdict(one) if one else NOTHING for one in by_task)))
    return markdown(("", "claim", *(TITLES[task] for task in TASKS)), lines, words=2 + len(TASKS))


def comparisons_table(judgments: dict[str, list[claims.Judgment]]) -> str:
    """A line for each comparison: both sides, the difference and its interval, and further measures of both."""
    lines = []
    for letter, of_claim in judgments.items():
        for one in (judgment for judgment in of_claim if judgment.figures):
            measure = one.comparison.measured_by(one.task)
            also = "; ".join(f"{column_of(name).title} {_two(name, one)}" for name in one.figures if name != measure)
            verdict = f"**{one.verdict}**" if one.comparison.counts else one.verdict
            lines.append(
                (
                    f"({letter})",
                    TITLES[one.task],
                    f"{_side(one.comparison.left)} {_SIGNS[one.comparison.side]} {_side(one.comparison.right)}",
                    f"{column_of(measure).title} {_two(measure, one)}",
                    _difference(measure, one),
                    also,
                    str(one.seeds),
                    verdict + (" (grain)" if one.grain else ""),
                )
            )
    titles = ("", "task", "claimed", "left, right", "difference", "also: left, right", "seeds", "verdict")
    return markdown(titles, lines, words=6)


_SIGNS = {claims.LOWER: "below", claims.HIGHER: "above", claims.NOT_HIGHER: "not above"}


def _verdict(judgments: list[claims.Judgment]) -> str:
    hardest = claims.hardest(judgments)
    if hardest is None:
        return f"**{claims.summary(judgments)}**"
    sides = f"{_side(hardest.comparison.left)} - {_side(hardest.comparison.right)}"
    return f"**{claims.summary(judgments)}**: {_difference(world_of(hardest.task).measures[0], hardest)}, {sides}"


def _quality(sample: Sample, measures: tuple[str, ...]) -> tuple[str, ...]:
    figures, span = sample.row_of_figures(measures), sample.range(measures[0])
    seeds = NOTHING if span is None else " to ".join(figure_text(measures[0], end) for end in span)
    if sample.diverged:
        seeds += f", {sample.diverged} diverged"
    cells = (cell(figures, measure) for measure in measures)
    count = str(costs.evaluations(sample.row, sample.steps, sample.guidance))
    return sample.row.title, _sampler_title(sample.sampler, sample.guidance), count, *cells, seeds


def _trial(about: dict | None, measure: str) -> str:
    if about is None:
        return NOTHING
    (figures,) = about["samples"].values()
    return "diverged" if figures is None else figure_text(measure, figures[measure][0])


def _sampler_title(sampler: str, guidance: float | None) -> str:
    return SAMPLERS[sampler] + ("" if guidance is None else f", guidance {guidance:g}")


def _side(side: claims.Side) -> str:
    row, name = BY_NAME[side[0]], side[1]
    sampler, steps, guidance = next(one for one in row.samples if sample_name(*one) == name)
    return f"{row.title} ({_sampler_title(sampler, guidance)}, {costs.evaluations(row, steps, guidance)})"


def _difference(measure: str, one: claims.Judgment) -> str:
    figures = one.figures[measure]
    difference, low, high = (_signed(measure, value) for value in (figures["difference"], *figures["interval"]))
    return f"{difference} [{low}, {high}]"


def _two(measure: str, one: claims.Judgment) -> str:
    return ", ".join(figure_text(measure, one.figures[measure][side]) for side in ("left", "right"))


def _signed(measure: str, value: float) -> str:
    return ("+" if value > 0 else "") + figure_text(measure, value)
