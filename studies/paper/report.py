"""The report of the study: tables and claims in docs/results.md, curves and images in docs/images/study.

It shows the results that exist, so it can be written at any time. It replaces the text between the two marks of the
page; the rest is written by hand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from codi_tf.core.errors import UserError
from codi_tf.evaluation.measuring import Evaluator
from codi_tf.evaluation.tables import legend
from studies.paper import bootstrap, claims, figures, pieces, tables
from studies.paper.plan import BY_NAME, SEEDS, TASKS
from studies.paper.references import make_references
from studies.paper.results import Results, Sample, read

BEGIN, END = "<!-- study: begin -->", "<!-- study: end -->"
PAGE = Path("docs/results.md")
SHOWN_STEPS = (4, 50)  # on the page; all others are in table.md
PERCENT = f"{100 * bootstrap.LEVEL:g} %"

FAMILIES = {  # row -> family; rows of one family share a color
    "ldm": "fine-tuned",
    "adapter": "fine-tuned",
    "codi": "CoDi",
    "pe_codi": "CoDi",
    "gd_2": "GD",
    "gd_1": "GD",
    "cm_2": "CM",
    "cm_2_frozen": "CM",
}
TRAINED = """CoDi and the fine-tuned model have the same adapter and train 3.5 M weights. PE-CoDi trains 1.1 M of them,
a model with a ControlNet 3.6 M, one with a T2I-Adapter 2.7 M."""
NOTES = {
    "fig_2": """All four distances have the same weight, 2, although their scales differ. The perceptual one uses the
network of FD-photos. So these curves compare the distances untuned.

"""
}
FIG_2 = {
    "latent (CoDi)": "codi_half",
    "encoded": "codi_encoded",
    "pixels": "codi_pixel",
    "perceptual": "codi_perceptual",
}
FIG_7 = {
    "CoDi": "codi_half",
    "random initialization": "codi_random",
    "t per sample": "codi_per_sample",
    "no guidance": "codi_no_guidance",
}
COMPARED = {
    "LDM, 4": ("ldm", "ddim-4"),
    "LDM, 50": ("ldm", "ddim-50"),
    "GD-I, 4": ("gd_1", "ddim-4"),
    "GD-II, 4": ("gd_2", "ddim-4"),
    "CM-II, 4": ("cm_2", "ddim-4"),
    "CM-II (frozen), 4": ("cm_2_frozen", "ddim-4"),
    "PE-CoDi, 4": ("pe_codi", "ddim-4"),
    "CoDi, 4": ("codi", "ddim-4"),
}
ABLATED = {
    "CoDi": ("codi_half", "ddim-4"),
    "t per sample": ("codi_per_sample", "ddim-4"),
    "no consistency": ("codi_no_consistency", "ddim-4"),
    "no guidance": ("codi_no_guidance", "ddim-4"),
    "frozen ODE": ("codi_frozen_ode", "ddim-4"),
    "random init": ("codi_random", "ddim-4"),
    "encoded guidance": ("codi_encoded", "ddim-4"),
    "pixel guidance": ("codi_pixel", "ddim-4"),
    "perceptual": ("codi_perceptual", "ddim-4"),
    "T2I-Adapter": ("codi_t2i", "ddim-4"),
}


def write(
    metrics: Path = pieces.METRICS,
    page: Path = PAGE,
    shown: Path = pieces.SHOWN_FOLDER,
    *,
    seeds: tuple[int, ...] = SEEDS,
    evaluator: Callable[[str, str], Evaluator] = pieces.evaluator,
) -> None:
    """Write the page's part between the marks, claims.json, and the files of every task that has results.

    Args:
        metrics: the folder of the results; claims.json is written there.
        page: Markdown with BEGIN and END.
        shown: the folder of the tables and images that the page links.
        seeds: the seeds to read; a claim gets a verdict when all of them exist.
        evaluator: (task, split) -> `Evaluator`, to measure missing references.

    Raises:
        UserError: the page lacks one of its two marks.
    """
    before, after = _around(page)
    for task in _without_references(read(metrics, seeds=seeds)):
        make_references(metrics, task, evaluator(task, "test"))
    results = read(metrics, seeds=seeds)
    judgments = claims.judge_all(results, seeds=len(seeds))
    text = _page(results, judgments, metrics, shown, Path(os.path.relpath(shown, page.parent)))
    _write(metrics / "claims.json", json.dumps(claims.as_data(judgments), indent=1) + "\n")
    _write(page, f"{before}{BEGIN}\n{text}\n{END}{after}")


def _page(results: Results, judgments: dict, metrics: Path, shown: Path, link: Path) -> str:
    parts = [_claims(judgments)]
    parts += [_task(results, task, shown, link) for task in TASKS]
    parts += [_ablations(results, shown, link), _tuning(metrics), _origin(results, metrics)]
    return "\n".join(part for part in parts if part)


def _claims(judgments: dict) -> str:
    comparisons = tables.comparisons_table(judgments)
    counting = sum(one.comparison.counts for of_claim in judgments.values() for one in of_claim)
    detail = f"""
After each verdict comes the difference in FD-photos, with its {PERCENT} interval, of the comparison that supports the
claim least, among the {counting} that count. All comparisons are below. Verdicts in plain type do not count: their
systems are sampled in another way than they were trained for, or were trained for longer.

An interval combines Student's t over the seeds, whose pairs share data and noise, with a bootstrap of
{bootstrap.REPLICATES} replicates over the images, the same ones for both sides. *Reproduced*: the interval is on the
claimed side of 0; *contrary*: on the other side; *not reproduced*: it contains 0, which (a) allows. *Open*: results are
missing. Without any true difference, one interval in ten would still exclude 0, so an interval close to 0 is weak
evidence. No interval says anything about photos unlike these.

FD-photos decides the verdicts, but grain can improve it. So the table also shows the latent error, which grain raises
and softness lowers, and the sharpness. "(grain)" means that the side that is better in FD-photos has the higher latent
error and is sharper than the autoencoder's reconstructions of the originals.

<details><summary>All comparisons</summary>

{comparisons}
</details>
"""
    return f"""## The claims

{tables.claims_table(judgments)}{detail if comparisons else ""}"""


def _task(results: Results, task: str, shown: Path, link: Path) -> str:
    """Table 2 of a task with its curves and images. The whole table is written to table.md."""
    whole = tables.table_2(results, task)
    if not whole:
        return ""
    title = tables.TITLES[task]
    short = tables.table_2(results, task, steps=SHOWN_STEPS) or whole
    notes = _notes(results, task)
    _write(shown / task / "table.md", f"# {title.capitalize()}: every sample\n\n{whole}\n{notes}\n")
    text = f"""## Table 2: {title}

{short}
{notes}
With other numbers of evaluations: [{task}/table.md]({link}/{task}/table.md).

The next table has the cost of training, all stages together. An evaluation is one forward pass of the UNet on one
example; the student's forward and backward pass count as one. The CPU seconds come from more than one machine:

{tables.cost_table(results, task)}"""
    rows = {BY_NAME[name].title: name for name in FAMILIES}
    families = {BY_NAME[name].title: family for name, family in FAMILIES.items()}
    if figures.curves(shown / task / "methods.png", results, task, rows, families=families):
        text += f"\n![Quality against evaluations, every method]({link}/{task}/methods.png)\n"
    series = {title: [one for one in results.of_row(task, row) if _plain(one)] for title, row in rows.items()}
    if figures.tradeoff(shown / task / "tradeoff.png", series, families):
        text += f"""
An image can look like a photo, or be close to the original. These are two goals, and a setting, above all delta, trades
one for the other along a method's line. Lower and further left is better; the numbers are evaluations:

![FD-photos against latent error, every method]({link}/{task}/tradeoff.png)
"""
    if figures.image_grid(shown / task / "images.png", results, task, COMPARED):
        text += f"\nThe same inputs and noise, training seed {pieces.SHOWN_SEED}, DDIM with 4 or 50 evaluations:\n"
        text += f"\n![Images of every method]({link}/{task}/images.png)\n"
    table = tables.budget_table(results, task)
    text += f"\n### Budgets: {title}\n\n{table}" if table else ""
    if figures.budget_curves(shown / task / "budgets.png", tables.budgets(results, task)):
        text += f"\n![FD-photos against updates]({link}/{task}/budgets.png)\n"
    return text


def _plain(sample: Sample) -> bool:
    """Whether a sample is a point of its row's curve over the numbers of evaluations."""
    return (sample.sampler, sample.guidance) == ("ddim", None)


def _notes(results: Results, task: str) -> str:
    first = next(sample for row in tables.TABLE_2 for sample in results.of_row(task, row))
    photos = ", ".join(f'"{name}"' for name in pieces.photos_of("test"))
    return f"""Brackets hold {PERCENT} intervals over seeds and images; for rows without seeds, over images. The figures
are for {pieces.COUNT} overlapping crops of the photos {photos}.
The intervals do not include the effect of other photos.

*LDM* is the fine-tuned model. *Adapter alone* is the paper's "ControlNet": the base is not trained. The paper's other
systems (StableSR, DiffIR, Palette, RePaint) are missing, because their weights are for other images. The paper's 6 and
250 evaluations are missing, too. The two longer trainings of GD-II are ours.

{legend({"": first.row_of_figures(tables.MEASURES)})}
"""


def _ablations(results: Results, shown: Path, link: Path) -> str:
    """Table 3, Fig. 2 and Fig. 7."""
    task, text = TASKS[0], ""
    table = tables.table_3(results)
    if table:
        about = f"{tables.TITLES[task]}, 4 evaluations, all at half of the budget"
        text += f"## Table 3: architecture and process ({about})\n\n{TRAINED}\n\n{table}"
    for name, title, rows in (
        ("fig_2", "Fig. 2: where guidance is measured", FIG_2),
        ("fig_7", "Fig. 7: pre-training, times and guidance", FIG_7),
    ):
        if figures.curves(shown / task / f"{name}.png", results, task, rows):
            text += f"\n## {title}\n\n{NOTES.get(name, '')}![{title}]({link}/{task}/{name}.png)\n"
    if figures.image_grid(shown / task / "ablations.png", results, task, ABLATED):
        text += f"\nThe same inputs and noise, 4 evaluations:\n\n![Ablations]({link}/{task}/ablations.png)\n"
    return text


def _tuning(metrics: Path) -> str:
    table = tables.tuning_table(metrics)
    return (
        f"""## How the settings were chosen

Every method had the same number of trials in super-resolution, with half of the updates of every stage and one seed, on
crops of the photo "{pieces.VALIDATION}", which is not in the test. Inpainting has the same settings. Brackets hold
{PERCENT} intervals over images. **best** has the lowest FD-photos at 4 evaluations, or at 50 for methods that are not
distilled; used is the setting of the plan, which the tables above use. CoDi's guidance weight, 2, comes from earlier
trials of single trainings on held-out photos, including those of the test; no other method had this advantage.

<details><summary>All trials</summary>

{table}
</details>
"""
        if table
        else ""
    )


def _origin(results: Results, metrics: Path) -> str:
    """The commands, the commits, and the rows that were trained with other settings than the plan's."""
    if not results.about:
        return ""
    made: dict[str, dict[str, dict]] = {}  # commit -> task -> titles of rows
    for (task, row), seeds in results.about.items():
        for one in seeds.values():
            made.setdefault(one["commit"], {}).setdefault(tables.TITLES[task], {})[BY_NAME[row].title] = None
    lines = "\n".join(
        f'- "{commit}": ' + "; ".join(f"{task}: {', '.join(rows)}" for task, rows in tasks.items())
        for commit, tasks in sorted(made.items())
    )
    tried = sorted({one["commit"] for seeds in tables.trials(metrics).about.values() for one in seeds.values()})
    lines += "".join(f'\n- "{commit}": trials' for commit in tried)
    stale = _stale(results)
    note = f"\nTrained with other settings than the plan has now: {', '.join(stale)}.\n" if stale else ""
    return f"""## Where this comes from

    python -m studies.paper tune
    python -m studies.paper train
    python -m studies.paper report

at the commits

{lines}
{note}"""


def _stale(results: Results) -> list[str]:
    """Rows whose results were made with other settings than the plan's, in any stage."""
    names = []
    for (task, row), seeds in results.about.items():
        for seed, one in seeds.items():
            if pieces.with_todays_defaults(one["stages"]) != pieces.chain_of(BY_NAME[row], task, seed):
                names.append(f"{task}/{row}, seed {seed}")
    return names


def _without_references(results: Results) -> list[str]:
    tasks = {task for task, _, _ in results.samples}
    return [task for task in TASKS if task in tasks and task not in results.references]


def _around(page: Path) -> tuple[str, str]:
    text = page.read_text("utf-8")
    if not 0 <= text.find(BEGIN) < text.find(END):
        raise UserError(f"{page}: has no {BEGIN} before {END}; put these two lines where the study belongs")
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
