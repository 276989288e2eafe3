"""The tables of the study as Markdown; "" if there are no results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from codi_tf.evaluation.tables import column
from studies.paper import claims, costs, pieces
from studies.paper.measures import FD, SATURATION
from studies.paper.plan import BY_NAME, TASKS, TRIALS
from studies.paper.results import Results, Sample, read
from studies.paper.tuning import of_trial

MEASURES = (FD, "sharpness", "latent_error", "psnr", "ssim")
SAMPLERS = {
    "ddim": "DDIM",
    "dpm": "DPM-Solver-2",
    "dpm++": "DPM-Solver++(2M)",
    "consistency": "consistency",
    "stochastic": "stochastic",
}
TITLES = {"super_resolution": "super-resolution", "inpainting": "inpainting", "base": "both"}
BEYOND = ("gd_2_stochastic", "gd_2_longer")  # not among the paper's systems
TABLE_2 = ("ldm", "adapter", "codi", "pe_codi", "gd_2", "gd_1", "cm_2", "cm_2_frozen", *BEYOND)
TABLE_3 = (
    "ldm_half",
    "controlnet",
    "pe_codi_half",
    "codi_half",
    "codi_t2i",
    "codi_frozen_ode",
    "codi_predicted",
    "codi_no_consistency",
)
REFERENCE_TITLES = {"condition": "condition", "autoencoder": "autoencoder (the ceiling)", "original": "original"}
NOTHING = "-"


def markdown(titles: tuple[str, ...], lines: Iterable[tuple[str, ...]], *, words: int = 1) -> str:
    """A Markdown table with the first `words` columns left-aligned and the others right-aligned; "" without lines."""
    rule = tuple("---" if i < words else "---:" for i in range(len(titles)))
    lines = list(lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in (titles, rule, *lines)) if lines else ""


def table_2(results: Results, task: str, *, steps: tuple[int, ...] | None = None) -> str:
    """Table 2: every method with every sampler, or only some numbers of steps, and the references."""
    samples = [sample for row in TABLE_2 for sample in results.of_row(task, row)]
    lines = [_quality(sample) for sample in samples if steps is None or sample.steps in steps]
    if not lines:
        return ""
    references = results.references.get(task)
    for name, row in {} if references is None else references.rows.items():
        lines.append((REFERENCE_TITLES[name], NOTHING, NOTHING, *(_cell(row, m) for m in MEASURES), NOTHING))
    return markdown(_QUALITY, lines, words=2)


def table_3(results: Results) -> str:
    """Table 3: architecture and process, CoDi with one change, at 4 evaluations."""
    samples = [results.samples.get((TASKS[0], row, "ddim-4")) for row in TABLE_3]
    return markdown(_QUALITY, (_quality(sample) for sample in samples if sample is not None), words=2)


def cost_table(results: Results, task: str) -> str:
    """The training cost of the rows of Table 2, all stages."""
    lines = []
    for row in (BY_NAME[name] for name in TABLE_2):
        if (task, row.name) in results.about:
            seconds = costs.cpu_seconds(results.about, row, task)
            lines.append(
                (
                    row.title,
                    " + ".join(f"{stage.updates:,}" for stage in reversed(costs.chain(row))),
                    f"{costs.updates(row):,}",
                    f"{costs.evaluations_per_example(row):.1f}",
                    f"{costs.evaluations(row):,}",
                    NOTHING if seconds is None else f"{seconds:,.0f}",
                    str(len(results.about[task, row.name])),
                )
            )
    titles = ("", "updates of the stages", "updates", "evaluations an example", "evaluations", "CPU seconds", "seeds")
    return markdown(titles, lines)


def budgets(results: Results, task: str) -> dict[str, dict[int, Sample]]:
    """Label -> {updates: sample}: the same training with other numbers of updates."""
    wanted = {
        "LDM, 4 evaluations": (("ldm_quarter", "ldm_half", "ldm"), "ddim-4"),
        "LDM, 50 evaluations": (("ldm_quarter", "ldm_half", "ldm"), "ddim-50"),
        "CoDi, 4 evaluations": (("codi_quarter", "codi_half", "codi"), "ddim-4"),
    }
    found = {
        label: {costs.updates(BY_NAME[row]): results.samples.get((task, row, sample)) for row in rows}
        for label, (rows, sample) in wanted.items()
    }
    found = {label: {n: one for n, one in series.items() if one is not None} for label, series in found.items()}
    return {label: series for label, series in found.items() if series}


def budget_table(results: Results, task: str) -> str:
    """The FD-photos of `budgets`."""
    series = budgets(results, task)
    counts = sorted({count for samples in series.values() for count in samples})
    lines = (
        (label, *(_figures(samples[count], FD) if count in samples else NOTHING for count in counts))
        for label, samples in series.items()
    )
    return markdown(("FD-photos", *(f"{count:,} updates" for count in counts)), lines)


DECISIVE = {"ldm": 50, "adapter": 50}  # numbers of evaluations at which settings were chosen, if not 4


def trials(metrics: Path) -> Results:
    """The results of the trials, as rows."""
    return read(metrics, rows=tuple(map(of_trial, TRIALS)), seeds=(0,))


def tuning_table(metrics: Path) -> str:
    """The trials on the validation photo, with marks on the best and the used setting of each method.

    The best one has the lowest FD-photos at 4 evaluations, or at 50 for methods that are not distilled.
    """
    methods = {of_trial(trial).name: trial.row for trial in TRIALS}
    results = trials(metrics)
    best = {}
    for (_, name, _), sample in results.samples.items():
        method = methods[name]
        if sample.steps == DECISIVE.get(method, 4) and (method not in best or sample.mean(FD) < best[method].mean(FD)):
            best[method] = sample
    lines = []
    for (task, name, _), sample in results.samples.items():
        row, setting = BY_NAME[methods[name]], _setting(results.about[task, name][0]["stages"][-1])
        marks = ["**best**"] if best.get(row.name) is sample else []
        marks += ["used"] if setting == _setting(pieces.experiment_of(row, task, 0).as_dict()) else []
        figures = (_cell(sample.figures[0], measure) for measure in MEASURES[:3])
        lines.append((row.title, setting, _sampling(sample), _evaluations(sample), *figures, ", ".join(marks)))
    titles = ("", "setting", "sampler", "evaluations", *(column(measure).title for measure in MEASURES[:3]), "")
    return markdown(titles, lines, words=3)


def claims_table(judgments: dict[str, list[claims.Judgment]]) -> str:
    """A line for each claim: for each task its verdict, and the difference that supports the claim least."""
    lines = []
    for claim in claims.CLAIMS:
        of_claim = judgments[claim.letter]
        by_task = ([one for one in of_claim if one.task == task] for task in TASKS)
        lines.append((f"({claim.letter})", claim.text, *(_verdict(one) if one else NOTHING for one in by_task)))
    return markdown(("", "claim", *(TITLES[task] for task in TASKS)), lines, words=4)


def comparisons_table(judgments: dict[str, list[claims.Judgment]]) -> str:
    """A line for each comparison: both sides, the difference and its interval, and the additional measures."""
    lines = [
        (
            f"({letter})",
            TITLES[one.task],
            f"{_side(one.comparison.left)} {_SIGNS[one.comparison.side]} {_side(one.comparison.right)}",
            _measure(one.comparison.measure),
            *_difference(one.comparison.measure, one),
            *_difference("latent_error", one)[1:],
            _two("sharpness", one),
            str(one.seeds),
            (f"**{one.verdict}**" if one.comparison.counts else one.verdict) + (" (grain)" if one.grain else ""),
        )
        for letter, of_claim in judgments.items()
        for one in of_claim
        if one.figures
    ]
    titles = (
        "",
        "task",
        "claimed",
        "by",
        "left, right",
        "difference",
        "latent error: difference",
        "sharpness: left, right",
    )
    return markdown((*titles, "seeds", "verdict"), lines, words=4)


def _verdict(judgments: list[claims.Judgment]) -> str:
    hardest = claims.hardest(judgments)
    if hardest is None:
        return f"**{claims.summary(judgments)}**"
    sides = f"{_side(hardest.comparison.left)} - {_side(hardest.comparison.right)}"
    return f"**{claims.summary(judgments)}**: {_difference(FD, hardest)[1]}, {sides}"


_QUALITY = ("", "sampler", "evaluations", *(column(measure).title for measure in MEASURES), "FD-photos of the seeds")
_SIGNS = {claims.LOWER: "below", claims.HIGHER: "above", claims.NOT_HIGHER: "not above"}


def _quality(sample: Sample) -> tuple[str, ...]:
    figures = sample.row_of_figures(MEASURES)
    low, high = (_figure(FD, figure) for figure in sample.range(FD))
    seeds = f"{low} to {high}" if len(sample.figures) > 1 else "1 seed"
    cells = (_cell(figures, measure) for measure in MEASURES)
    return sample.row.title, _sampling(sample), _evaluations(sample), *cells, seeds


def _sampling(sample: Sample) -> str:
    return _sampler_title(sample.sampler, sample.guidance)


def _evaluations(sample: Sample) -> str:
    return str(costs.evaluations_of_sampling(sample.row, sample.steps, sample.guidance))


def _sampler_title(sampler: str, guidance: float | None) -> str:
    return SAMPLERS[sampler] + ("" if guidance is None else f", guidance {guidance:g}")


def _side(side: tuple[str, str]) -> str:
    row, name = BY_NAME[side[0]], side[1]
    sampler, steps, guidance = next(one for one in row.samples if pieces.sample_name(*one) == name)
    evaluations = costs.evaluations_of_sampling(row, steps, guidance)
    return f"{row.title} ({_sampler_title(sampler, guidance)}, {evaluations})"


def _setting(config: dict) -> str:
    """The settings of an experiment that trials vary, as text."""
    method, train = config["method"], config["train"]
    parts = [f"rate {train['learning_rate']:g}", f"EMA {train['ema_decay']:g}"]
    parts += ["error of the signal"] if method.get("space") == "signal" else []
    parts += [f"delta {method['delta']}"] if "delta" in method else []
    steps = method.get("steps")  # of guided distillation those of its phases, of CoDi those that it is made for
    if steps is not None:
        parts.append(f"phases of {' '.join(map(str, steps))} steps" if isinstance(steps, list) else f"{steps} steps")
    return ", ".join(parts)


def _measure(name: str) -> str:
    return name if name == SATURATION else column(name).title


def _difference(measure: str, one: claims.Judgment) -> tuple[str, str]:
    low, high = one.figures[measure]["interval"]
    difference = one.figures[measure]["difference"]
    signed = f"{_signed(measure, difference)} [{_signed(measure, low)}, {_signed(measure, high)}]"
    return _two(measure, one), signed


def _two(measure: str, one: claims.Judgment) -> str:
    return ", ".join(_figure(measure, one.figures[measure][side]) for side in ("left", "right"))


def _figures(sample: Sample, measure: str) -> str:
    return _cell(sample.row_of_figures((measure,)), measure)


def _cell(row: dict, measure: str) -> str:
    if row.get(measure) is None:
        return NOTHING
    figure = _figure(measure, row[measure])
    bounds = [_figure(measure, bound) for bound in row.get(f"{measure}_interval") or ()]
    return figure if set(bounds) <= {figure} else f"{figure} [{', '.join(bounds)}]"


def _signed(measure: str, value: float) -> str:
    return ("+" if value > 0 else "") + _figure(measure, value)


def _figure(measure: str, value: float) -> str:
    figure = "{:.4f}" if measure == SATURATION else column(measure).format
    text = figure.format(value)
    return f"{value:.0f}" if "e" in text else text
