"""The report of the study: docs/study.md with its tables and images in docs/images/study.

It is made of the results in the repository alone, shows those that exist, and can be written at any time. It replaces
the text between the two marks of the page; the rest is written by hand.
"""

from __future__ import annotations

import os
from pathlib import Path

from codi_tf.evaluation.tables import legend
from studies.common.intervals import GROUPS, LEVEL
from studies.common.measures import column_of
from studies.common.pages import around, write_part
from studies.common.results import sample_name
from studies.paper import claims, figures, tables
from studies.paper.pieces import SHOWN_SEED
from studies.paper.plan import (
    ABLATED,
    AT_4,
    BY_NAME,
    COMPUTE,
    TASKS,
    TRIAL,
    UNDISTILLED,
    WORLDS,
    World,
    world_of,
)
from studies.paper.results import Results, read
from studies.paper.tables import TITLES

PAGE, SHOWN = Path("docs/study.md"), Path("docs/images/study")
SHOWN_STEPS = (4, 50)  # on the page; all others are in table.md
PERCENT = f"{100 * LEVEL:g} %"

FAMILIES = {  # rows of Table 2 with DDIM at several numbers of evaluations; one family, one color
    "ldm": "fine-tuned",
    "adapter": "fine-tuned",
    "codi": "CoDi",
    "pe_codi": "CoDi",
    "codi_paper": "CoDi",
    "gd_2": "GD",
    "gd_1": "GD",
    "cm_2": "CM",
    "cm_2_frozen": "CM",
}
TABLE_2 = (*FAMILIES, "ldm_compute", "adapter_compute", "gd_2_stochastic", "gd_2_longer")
HORIZONS = ("codi_n1", "codi_n2", "codi_half", "codi_n8")
BASES = ("codi_half", "ldm_half", "codi_early", "ldm_early", "codi_random")
BUDGETS = ("codi_quarter", "codi_half", "codi", "ldm_quarter", "ldm_half", "ldm", "ldm_compute")
TABLE_3 = (
    "ldm_half",
    "controlnet",
    "pe_codi_half",
    "codi_half",
    "codi_t2i",
    "codi_per_sample",
    "codi_per_sample_n8",
    "codi_frozen_ode",
    "codi_noise",
    "codi_0_1_0",
    "codi_no_consistency",
    "codi_no_guidance",
    "codi_random",
    "codi_encoded",
    "codi_pixel",
    "codi_perceptual",
)
FIG_2 = ("codi_half", "codi_encoded", "codi_pixel", "codi_perceptual")
FIG_7 = ("codi_half", "codi_random", "codi_per_sample", "codi_no_guidance")


def write() -> None:
    """Write the page's part between the marks, and the files that it links.

    Raises:
        UserError: the page lacks one of its two marks; a file of results is damaged.
    """
    around(PAGE)
    results = read()
    judgments = claims.judge_all(results)
    parts = [_rule(), _claims(judgments)]
    for task in TASKS:
        parts += [_task(results, task), _ablations(results, task)]
    text = "\n".join(part for part in (*parts, _tuning(results), _origin(results)) if part)
    write_part(PAGE, text)


def _rule() -> str:
    worlds = "\n".join(f"- *{world.name}*: {_budget(world)}" for world in WORLDS.values())
    return f"""## How it is made

Every row of a world has the same updates, all stages together; ablations, horizons and bases have half of them.
Two rows have CoDi's compute in place of its updates: an update of CoDi takes four network passes (three for the
student, forward and backward, one for its target), an update of fine-tuning three. The systems of two stages take four
on average, so at equal updates they have equal compute, too.

{worlds}

**How settings are chosen.** Every system is trained with two learning rates for {TRIAL:.0%} of the updates, with
seed 0, in the first task of its world. The rate whose images of the validation set have the lowest decisive measure is
used. Undistilled systems are judged at 20 evaluations, a model made for N at N, all others at 4, each with its own
sampler. The rate of mu moves along: it is 30 times the learning rate. Systems that differ in their updates or their
base share their trials. The distilled base of GD-I has none, because it has no task: it gets the lower rate. Nothing
else is tuned: delta is that of the world, above, and the guidance weight follows from the number of evaluations.
Training and sampling are in {COMPUTE}.
"""


def _budget(world: World) -> str:
    tried = ", ".join(f"{rate:g}" for rate in world.rates)
    validation = f'crops of the photo "{world.validation}"' if world.validation else "other scenes"
    return (
        f"{world.updates:,} updates of batch {world.batch}; learning rates {tried}; delta {world.delta};\n"
        f"  {world.count} test images; {world.chosen_on} of validation, {validation};\n"
        f"  {column_of(world.measures[0]).title} decides"
    )


def _claims(judgments: dict[str, list[claims.Judgment]]) -> str:
    comparisons = tables.comparisons_table(judgments)
    counting = sum(one.comparison.counts for of_claim in judgments.values() for one in of_claim)
    detail = f"""
After each verdict comes the difference, with its {PERCENT} interval, of the comparison that supports the claim least,
among the {counting} that count. Verdicts in plain type do not count.

An interval combines Student's t over the seeds, whose pairs share data and noise, with a jackknife over {GROUPS} groups
of images, the same ones for both sides. *Reproduced*: the interval is on the claimed side of 0; *contrary*: on the
other side; *not reproduced*: it contains 0, which "not behind" allows. *Open*: results are missing, or a training
diverged. Without any true difference, one interval in ten would still exclude 0. No interval says anything about images
unlike these.

Grain can improve a Frechet distance. "(grain)" means that the side that is better by it has the higher latent error and
is sharper than the autoencoder's reconstructions of the originals.

<details><summary>All comparisons</summary>

{comparisons}
</details>
"""
    return f"""## The claims

{tables.claims_table(judgments)}
What this study adds to them:

{tables.claims_table(judgments, claims.OURS)}{detail if comparisons else ""}"""


def _task(results: Results, task: str) -> str:
    """Table 2 of a task with its cost, horizons, curves and images. The whole table is written to table.md."""
    whole = tables.quality(results, task, TABLE_2)
    if not whole:
        return ""
    title, link, folder = TITLES[task], Path(os.path.relpath(SHOWN, PAGE.parent)) / task, SHOWN / task
    measures = world_of(task).measures
    notes = f"""Brackets hold {PERCENT} intervals over seeds and images. {world_of(task).note}

{legend({"": dict.fromkeys(measures, 0.0)})}
"""
    _write(folder / "table.md", f"# {title.capitalize()}: every sample\n\n{whole}\n{notes}\n")
    short = tables.quality(results, task, TABLE_2, steps=SHOWN_STEPS) or whole
    text = f"""## Table 2: {title}

{short}
{notes}
With other numbers of evaluations: [{task}/table.md]({link}/table.md). What training takes, in updates and in network
passes on a batch, all stages together. CPU seconds are those measured of the stages with figures, on more than one
machine:

{tables.cost(results, task, TABLE_2)}
"""
    rows = {BY_NAME[name].title: name for name in FAMILIES}
    families = {BY_NAME[name].title: family for name, family in FAMILIES.items()}
    if figures.curves(folder / "methods.png", results, task, rows, families=families):
        text += f"![Quality against evaluations, every method]({link}/methods.png)\n\n"
    if figures.tradeoff(folder / "tradeoff.png", results, task, rows, families):
        text += f"""Lower and further left is better; the numbers are evaluations:

![{column_of(measures[0]).title} against {column_of(world_of(task).also[0]).title}]({link}/tradeoff.png)

"""
    compared = {f"{BY_NAME[row].title}, 4": (row, _own_sample(row)) for row in TABLE_2}
    if figures.image_grid(folder / "images.png", results, task, {"LDM, 50": ("ldm", "ddim-50"), **compared}):
        text += f"The same inputs and noise, training seed {SHOWN_SEED}:\n\n"
        text += f"![Images of every method]({link}/images.png)\n\n"
    for heading, chosen in (("Horizons", HORIZONS), ("Bases", BASES), ("Budgets", BUDGETS)):
        table = tables.by_steps(results, task, chosen)
        text += f"### {heading}: {title}\n\n{table}\n" if table else ""
    if figures.curves(folder / "horizons.png", results, task, {BY_NAME[row].title: row for row in HORIZONS}):
        text += f"![Quality against evaluations, by the number that a model is made for]({link}/horizons.png)\n"
    shown = {BY_NAME[row].title: (row, _own_sample(row)) for row in (*HORIZONS, "codi_early", "codi_random")}
    shown |= {f"{BY_NAME[row].title}, 50": (row, "ddim-50") for row in ("ldm_half", "ldm_early")}
    if figures.image_grid(folder / "bases.png", results, task, shown):
        text += f"\nModels at the number that they are made for, and from other bases:\n\n![Images]({link}/bases.png)\n"
    return text


def _own_sample(row: str) -> str:
    """The name of the sample that a row is for; 4 evaluations of an undistilled one."""
    judged = BY_NAME[row].judged
    return sample_name(*(AT_4 if judged in (None, UNDISTILLED) else judged))


def _ablations(results: Results, task: str) -> str:
    """Table 3, Fig. 2 and Fig. 7."""
    table = tables.quality(results, task, TABLE_3, steps=(4,)) if task in ABLATED else ""
    if not table:
        return ""
    link, folder = Path(os.path.relpath(SHOWN, PAGE.parent)) / task, SHOWN / task
    text = f"## Table 3: {TITLES[task]}, 4 evaluations, half of the budget\n\n{table}"
    for name, title, rows in (
        ("fig_2", "Fig. 2: where guidance is measured, all with one weight", FIG_2),
        ("fig_7", "Fig. 7: pre-training, times and guidance", FIG_7),
    ):
        if figures.curves(folder / f"{name}.png", results, task, {BY_NAME[row].title: row for row in rows}):
            text += f"\n### {title}\n\n![{title}]({link}/{name}.png)\n"
    shown = {BY_NAME[row].title: (row, "ddim-4") for row in TABLE_3}
    if figures.image_grid(folder / "ablations.png", results, task, shown):
        text += f"\nThe same inputs and noise, 4 evaluations:\n\n![Ablations]({link}/ablations.png)\n"
    return text


def _tuning(results: Results) -> str:
    table = tables.tuning(results)
    return f"## The trials\n\n{table}" if table else ""


def _origin(results: Results) -> str:
    """The commands, the commits, and the rows that were trained with other settings than the plan's."""
    if not results.about:
        return ""
    trials = [one for of_system in results.trials.values() for one in of_system.values()]
    made = [one for seeds in results.about.values() for one in seeds.values()]
    lines = "\n".join(f'- "{commit}"' for commit in sorted({one["commit"] for one in (*made, *trials)}))
    stale = ", ".join(f"{piece.task}/{piece.name}" for piece in results.stale)
    note = f"\nMade with other settings than the plan has now: {stale}.\n" if stale else ""
    return f"""## Where this comes from

    python -m studies.paper train
    python -m studies.paper report

at the commits

{lines}
{note}"""


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
