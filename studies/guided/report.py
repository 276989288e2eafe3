"""The report of the study: docs/guided.md with its tables, and images in docs/images/guided.

It is made of the results in the repository alone, shows those that exist, and can be written at any time. It replaces
the text between the two marks of the page; the rest is written by hand.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from codi_tf.evaluation.curves import write_curves
from codi_tf.evaluation.tables import legend
from codi_tf.io.images import grid, write_png
from studies.common.intervals import GROUPS, LEVEL
from studies.common.measures import column_of
from studies.common.pages import around, write_part
from studies.common.plots import write_lines
from studies.common.results import read_strip
from studies.common.tables import NOTHING, cell, markdown
from studies.guided.plan import BATCH, STUDENTS, SYSTEMS, WORLDS, World
from studies.guided.results import Results, Sample, read, strip_of

PAGE, SHOWN = Path("docs/guided.md"), Path("docs/images/guided")
REFERENCES = {
    "condition": "The images of noon as they are",
    "autoencoder": "Autoencoder",
    "other": "Other true images",
    "original": "Originals",
}
AT_4 = 4  # steps of the trade-off between quality and variety
PERCENT = f"{100 * LEVEL:g} %"
INPUTS = 6  # rows of a grid of images, at most


def write() -> None:
    """Write the page's part between the marks, and the files that it links.

    Raises:
        UserError: the page lacks one of its two marks; a file of results is damaged.
    """
    around(PAGE)
    found = [read(world) for world in WORLDS.values()]
    write_part(PAGE, "\n".join([*map(_part, found), _origin(found)]).rstrip())


def _part(results: Results) -> str:
    """The part of a world: what was made, its tables, curves and images; or that it is not made yet."""
    world = results.world
    heading = f"## {world.title}\n\n{_rule(world)}\n"
    if not results.samples:
        return f"{heading}\nNot made yet.\n"
    link, folder = Path(os.path.relpath(SHOWN, PAGE.parent)) / world.name, SHOWN / world.name
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{heading}\n{_first_table(results)}\n{_all(results)}\n{_notes(world)}\n"
    weights = sorted({sample.w for sample in results.samples})
    for w in weights:
        name = f"curves-w{w:g}.png"
        if _curves(folder / name, results, w):
            text += f"\n![Figures against network evaluations, w = {w:g}]({link}/{name})\n"
    if _tradeoff(folder / "tradeoff.png", results):
        first, second = (column_of(measure).title for measure in world.measures[:2])
        text += f"\nEach line is one system at {AT_4} steps, or the teacher; its points are the guidance weights w:\n"
        text += f"\n![{first} against {second} over w]({link}/tradeoff.png)\n"
    for w in weights:
        name = f"images-w{w:g}.png"
        if _images(folder / name, results, w):
            text += f"\nThe same inputs and noise, w = {w:g}:\n\n![Images, w = {w:g}]({link}/{name})\n"
    return text


def _rule(world: World) -> str:
    """How the world's rows are trained."""
    lines = [
        (
            row.name,
            f"`{row.config}`",
            ", ".join(row.models) or NOTHING,
            f"{row.updates:,}",
            ", ".join(f"`{key}={json.dumps(value)}`" for key, value in row.changes.items()) or NOTHING,
        )
        for row in world.rows
        if row.config is not None
    ]
    rows = markdown(("row", "config", "starts from", "updates", "changes"), lines, words=5)
    return f"""{world.count} test images of {world.image_size} pixels; batches of {BATCH}, of students {STUDENTS}.

<details><summary>The trainings</summary>

{rows}
</details>
"""


def _first_table(results: Results) -> str:
    """The table of the paper's form: a line for a system and its number of steps, two columns for each w."""
    measures = results.world.measures[:2]
    weights = sorted({sample.w for sample in results.samples})
    by_line: dict[tuple[str, int], dict[float, Sample]] = {}
    for sample in results.samples:
        by_line.setdefault((sample.system, sample.steps), {})[sample.w] = sample
    order = list(SYSTEMS)
    lines = []
    for (system, steps), of_w in sorted(by_line.items(), key=lambda item: (order.index(item[0][0]), item[0][1])):
        rows = {w: sample.row_of_figures(measures) for w, sample in of_w.items()}
        cells = (cell(rows.get(w, {}), measure) for w in weights for measure in measures)
        lines.append((SYSTEMS[system], str(steps), *cells))
    for name, title in REFERENCES.items():
        if name in results.references:
            shown = [cell(results.references[name], measure) for measure in measures]
            lines.append((title, NOTHING, *(shown * len(weights))))
    titles = (f"{column_of(measure).title}, w = {w:g}" for w in weights for measure in measures)
    return markdown(("", "steps", *titles), lines, words=1)


def _all(results: Results) -> str:
    """Every sample with all measures, folded."""
    measures = results.world.measures
    lines = [
        (
            SYSTEMS[sample.system],
            f"{sample.w:g}",
            str(sample.steps),
            str(sample.evaluations),
            *(cell(sample.row_of_figures(measures), measure) for measure in measures),
            str(len(sample.figures)),
        )
        for sample in results.samples
    ]
    titles = ("", "w", "steps", "evaluations", *(column_of(measure).title for measure in measures), "seeds")
    return f"<details><summary>All figures</summary>\n\n{markdown(titles, lines)}\n</details>\n"


def _notes(world: World) -> str:
    return f"""Brackets hold {PERCENT} intervals over the seeds of the distillation and over the images: Student's t
of the seeds with a jackknife over {GROUPS} groups of images. The teacher is one training: they say nothing of others.

{legend({"": dict.fromkeys(world.measures, 0.0)})}"""


def _curves(path: Path, results: Results, w: float) -> bool:
    """Write the curves over network evaluations for one w; return False if no system has two points."""
    measures, series = results.world.measures, {}
    for system, title in SYSTEMS.items():
        points = {one.evaluations: one.row_of_figures(measures) for one in results.of(system, w=w)}
        if len(points) > 1:
            series[title] = points
    if not series:
        return False
    levels = {SYSTEMS[one.system]: one.row_of_figures(measures) for one in results.of("teacher", w=w)}
    write_curves(path, series, levels)
    return True


def _tradeoff(path: Path, results: Results) -> bool:
    """Write the first measure against the second over w; return False if no system has two points."""
    first, second = results.world.measures[:2]
    series: dict[str, list[tuple[float, float, str]]] = {}
    for system, title in SYSTEMS.items():
        samples = results.of(system) if system == "teacher" else results.of(system, steps=AT_4)
        rows = {one.w: one.row_of_figures((first, second)) for one in samples}
        if len(rows) > 1:
            series[title] = [(row[second], row[first], f"{w:g}") for w, row in sorted(rows.items())]
    if not series:
        return False
    write_lines(path, series, column_of(second).title, column_of(first).title)
    return True


def _images(path: Path, results: Results, w: float) -> bool:
    """Write a grid of the images of one w with the originals; return False without images."""
    strips = {f"{_short(one)}, {one.steps}": one.strip for one in results.samples if one.w == w}
    for name in ("condition", "original"):
        strips[name] = strip_of(results.world, name)
    columns = {title: read_strip(strip) for title, strip in strips.items() if strip.is_file()}
    if set(columns) <= {"condition", "original"}:
        return False
    count = min(INPUTS, *(len(images) for images in columns.values()))
    rows = [[images[place] for images in columns.values()] for place in range(count)]
    write_png(path, grid(rows, list(columns), zoom=1))
    return True


def _short(sample: Sample) -> str:
    return {"deterministic": "D", "stochastic": "S", "single": "single w"}.get(sample.system, sample.system)


def _origin(found: list[Results]) -> str:
    """The commits, and the pieces that were made with other settings than the plan's."""
    commits = sorted({commit for results in found for commit in results.commits})
    if not commits:
        return ""
    lines = "\n".join(f'- "{commit}"' for commit in commits)
    stale = ", ".join(f"{piece.world.name}/{piece.name}" for results in found for piece in results.stale)
    note = f"\nMade with other settings than the plan has now: {stale}.\n" if stale else ""
    return f"## Where this comes from\n\nThe commands above, at the commits\n\n{lines}\n{note}"
