"""The study of guided distillation: its plan, its report, and tiny worlds made from training to figures."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import run_here
from test_class_labels import CLASSES
from test_scene_reader import TINY as READER_NETWORK
from test_scene_reader import tiny_reader
from tiny import UNET, tiny_base, tiny_text

from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import with_text
from codi_tf.core.errors import UserError
from codi_tf.scenes.reading import save_reader
from studies.common.intervals import GROUPS
from studies.common.pages import BEGIN, END
from studies.common.results import read_json, sample_name, write_json, write_strip
from studies.guided import __main__ as study
from studies.guided import making, pieces, report
from studies.guided.pieces import Piece
from studies.guided.plan import RANGE, SEEDS, STEPS, SYSTEMS, TEACHER, WEIGHTS, WORLDS, Row, World
from studies.guided.results import read, references_of, strip_of

ROOT = Path(__file__).parent.parent
NIGHT = 6  # core-hours of a night: three hours of two cores


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """The study's files lie below the working folder, beside the configs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    return tmp_path


def left(world: str, *rows: str, seeds=SEEDS) -> list[str]:
    return [piece.name for piece in pieces.left(pieces.pieces_of([WORLDS[world]], rows or None, seeds))]


# --- the plan


@pytest.mark.parametrize("world", WORLDS.values(), ids=list(WORLDS))
def test_every_row_is_a_valid_experiment_and_comes_after_what_it_needs(world):
    """Catches an option that no config takes, phases that do not fit, and a teacher of other steps or guidance."""
    seen: dict[str, Row] = {}
    for row in world.rows:
        assert row.name not in seen and set(row.models) <= set(seen) and set(row.samples) <= set(SYSTEMS)
        seen[row.name] = row
        piece = Piece(world, row, 1)
        if row.config is None:
            assert (row.samples or row.folder) and row.updates == 0
            continue
        experiment = pieces.experiment_of(piece)
        assert (experiment.train.steps, experiment.train.seed) == (row.updates, 1)
        numbers = row.changes.get("method.steps")
        if numbers is not None:
            assert sum(experiment.method.phase_lengths(row.updates)) == row.updates
            before = seen[row.models[0]].changes.get("method.steps")
            assert before is None or before[-1] == 2 * numbers[0]  # the parent's result is the teacher
            trained = seen[row.models[0]].changes.get("method.guidance")
            assert trained == row.changes.get("method.guidance")


def test_the_table_has_the_papers_lines():
    """D, S and a single w at 16, 8, 4 and 1 steps, DDIM and the teacher, for each of the four w."""
    found = {
        (system, steps, round(guidance - 1, 6))
        for row in WORLDS["pixels"].rows
        for system, ways in row.samples.items()
        for _, steps, guidance in ways
    }
    wanted = {(system, n) for system in ("deterministic", "stochastic", "single") for n in STEPS}
    wanted |= {("ddim", n) for n in (16, 32)} | {("teacher", TEACHER)}
    assert {(system, n, w) for system, n in wanted for w in WEIGHTS} <= found
    assert [1.0 + min(WEIGHTS), 1.0 + max(WEIGHTS)] == RANGE


def test_the_study_of_classes_fits_into_a_night():
    """Catches a row or a sample that nobody can afford."""
    classes = pieces.left(pieces.pieces_of([WORLDS["pixels"], WORLDS["latents"]]))
    assert len({piece.key for piece in classes}) == len(classes)
    seconds = sum(sum(pieces.seconds_of(piece)) for piece in classes) + sum(pieces.encoding_of(classes).values())
    assert seconds < NIGHT * 3600


def test_guidance_takes_two_evaluations_unless_it_was_learned():
    """A transfer's way there is without guidance."""

    def evaluations(world: str, row: str, steps: int, guidance: float) -> int:
        return pieces.evaluations(Piece(WORLDS[world], WORLDS[world].row(row), 0), ("ddim", steps, guidance))

    assert [evaluations("pixels", "undistilled", 8, g) for g in (1.0, 2.0)] == [8, 16]
    assert [evaluations("pixels", "d_8", 8, g) for g in (1.0, 2.0)] == [8, 8]
    assert [evaluations("transfer", "undistilled", 8, g) for g in (1.0, 2.0)] == [16, 24]
    assert evaluations("transfer", "transfer_8", 8, 2.0) == 16


def test_what_a_piece_needs_comes_first(workplace):
    """The chain of stages, the reader of the world, one teacher for all seeds."""
    assert left("pixels", "d_8", seeds=(1,)) == [
        "teacher-seed0",
        "d_stage_1-seed1",
        "reader-seed0",
        "d_16-seed1",
        "d_8-seed1",
    ]
    assert left("transfer", "transfer_16", seeds=(0,)) == [
        *("noon-seed0", "noon_16-seed0", "night-seed0", "night_stage_1-seed0", "night_16-seed0", "transfer_16-seed0")
    ]


def test_a_piece_that_was_measured_elsewhere_is_not_made_again(workplace, monkeypatch):
    """Unless a config of its chain is another now."""
    piece = Piece(WORLDS["pixels"], WORLDS["pixels"].row("d_16"), 0)
    put(piece, 1.0)
    assert pieces.is_measured(piece) and "d_16-seed0" not in left("pixels", "d_16")
    own, teacher = pieces._hash_of, "configs/scenes_classes.yaml"
    monkeypatch.setattr(pieces, "_hash_of", lambda path: "another" if path == teacher else own(path))
    assert left("pixels", "d_16", seeds=(0,))[-1] == "d_16-seed0"


def test_the_plan_is_printed(workplace):
    done = run_here(study._main, "plan", "--worlds", "pixels", "--rows", "d_16")
    assert done.returncode == 0 and done.stderr == ""
    assert [line.split()[:5] for line in done.stdout.splitlines()[1:]][-2] == ["pixels", "d_16", "150", "5", "3"]
    assert "core-hours: " in done.stdout


@pytest.mark.parametrize(("option", "known"), [("--rows", "d_16"), ("--worlds", "transfer")])
def test_an_unknown_name_is_one_line(option, known):
    done = run_here(study._main, "plan", option, "nothing")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{option} has nothing: use names of" in done.stderr and known in done.stderr


# --- the report


def put(piece: Piece, value: float) -> None:
    """Figures of a piece, made up: the first measure is `value` more for each w, whatever group is left out."""
    samples = {}
    for way in piece.samples:
        own = dict.fromkeys(piece.world.measures, 0.5) | {piece.world.measures[0]: value + way[2] - 1}
        samples[sample_name(*way)] = {name: [one, [one] * GROUPS] for name, one in own.items()}
        write_strip(strip_of(piece.world, piece.row.name, sample_name(*way)), IMAGES, 2)
    about = {"settings": pieces.settings_of(piece), "commit": "Some commit", "cpu_seconds": 7, "samples": samples}
    write_json(piece.figures, about)


IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3))


@pytest.fixture
def page(workplace):
    """A page in a folder of the test's own."""
    report.PAGE.parent.mkdir()
    report.PAGE.write_text(f"above\n{BEGIN}\nan earlier study\n{END}\nbelow\n")
    return report.PAGE


def test_a_report_of_nothing_says_so(page):
    done = run_here(study._main, "report")
    text = page.read_text()
    assert done.returncode == 0 and text.count("Not made yet.") == len(WORLDS)
    assert text.startswith("above\n") and text.endswith("below\n") and "an earlier study" not in text
    assert "| d_16 | `configs/scenes_guided_2.yaml` | d_stage_1 | 150 | `data.image_size=64`, " in text


@pytest.mark.slow
def test_a_report_of_results(page):
    """Tables with a line for each system and steps, curves, images."""
    world = WORLDS["pixels"]
    for row, value in (("d_4", 4.0), ("w1_4", 5.0), ("undistilled", 3.0)):
        for piece in pieces.pieces_of([world], [row]):
            put(piece, value + piece.seed)
    write_strip(strip_of(world, "original"), IMAGES, 2)
    write_json(references_of(world), {"other": {"frechet_scenes": 0.25, "frechet_scenes_interval": [0.25, 0.25]}})
    report.write()
    text = page.read_text()
    assert text.count("Not made yet.") == 2
    assert "|  | steps | FD-scenes, w = 0 | IS-scenes, w = 0 | FD-scenes, w = 0.3 |" in text
    lines = [line for line in text.splitlines() if line.startswith("| Distilled")]
    assert lines[0].startswith("| Distilled, deterministic (D) | 4 | 5 [3.31, 6.69] | 0.5 | 5.3 [3.61, 6.99] |")
    assert lines[1].startswith("| Distilled for a single w | 4 | - | - | - | - | 7 [5.31, 8.69] | 0.5 | - | - |")
    assert "| Teacher (DDIM) | 64 | 3 | 0.5 |" in text and "| Other true images | - | 0.25 | - |" in text
    for name in ("curves-w1", "tradeoff", "images-w1"):
        assert f"(images/guided/pixels/{name}.png)" in text
        assert (report.SHOWN / "pixels" / f"{name}.png").stat().st_size > 1000
    assert '"Some commit"' in text and "other settings than" not in text


def test_a_damaged_file_and_a_page_without_marks_are_named(page):
    piece = Piece(WORLDS["pixels"], WORLDS["pixels"].row("d_16"), 0)
    piece.figures.parent.mkdir(parents=True)
    piece.figures.write_text("{")
    with pytest.raises(UserError, match="d_16-seed0.json: is no JSON; get it back from the repository"):
        report.write()
    page.write_text("by hand\n")
    with pytest.raises(UserError, match="guided.md: has no <!-- study: begin -->"):
        report.write()
    assert page.read_text() == "by hand\n"


def test_the_page_of_the_repository_is_that_of_its_results(page):
    """Catches results or a plan that changed without the report."""
    expected = (ROOT / report.PAGE).read_text("utf-8")
    page.write_text(expected, "utf-8")
    if (ROOT / pieces.RESULTS).is_dir():
        shutil.copytree(ROOT / pieces.RESULTS, pieces.RESULTS)
    report.write()
    assert page.read_text("utf-8") == expected


# --- on tiny networks

SIDE, COUNT = 16, GROUPS  # of the images; one image a group
TRAIN = {"train.batch_size": 2, "train.warmup_steps": 0, "train.log_every": 2, "train.ema_decay": 0.5}
TRAIN["memory.compute"] = "float32"
STAGE = {**TRAIN, "data.image_size": SIDE, "method.guidance": RANGE}


@pytest.fixture
def made(workplace, monkeypatch):
    """Puts a tiny world into the plan."""
    monkeypatch.setattr(making, "commit", lambda: "Some commit")

    def put_world(world: World) -> World:
        monkeypatch.setitem(WORLDS, world.name, world)
        return world

    yield put_world
    making.evaluator.cache_clear()
    making.examples.cache_clear()


def reader() -> Row:
    changes = {"data.image_size": SIDE, "method.network": READER_NETWORK, "train.batch_size": 2, "train.log_every": 2}
    return Row("reader", "configs/scenes_reader.yaml", changes, 2, once=True)


def class_world() -> World:
    """Pixels, folded by 2: the teacher, stage 1, and the student at 2 steps."""
    network = {**UNET, "num_class_embeds": CLASSES + 1, "sample_size": SIDE // 2}
    teacher = {**TRAIN, "data.image_size": SIDE, "method.network": network, "method.autoencoder": {"patch_size": 2}}
    shared = {**STAGE, "data.prompts": False, "data.classes": True, "data.encode_once": 0, "method.space": "signal"}
    shared["train.learning_rate"] = 0.03  # two updates have to make a difference
    second = {**shared, "method.steps": [4, 2], "method.updates": 1}
    rows = (
        reader(),
        Row("teacher", "configs/scenes_classes.yaml", teacher, 2, once=True),
        Row(
            "undistilled",
            None,
            models=("teacher",),
            samples={"teacher": (("ddim", 3, 2.0),), "ddpm": (("ddpm", 2, 1.0),)},
            once=True,
            doubled=True,
        ),
        Row("d_stage_1", "configs/scenes_guided_1.yaml", shared, 2, ("teacher",), encoded="scenes"),
        Row(
            "d_2",
            "configs/scenes_guided_2.yaml",
            second,
            2,
            ("d_stage_1",),
            {"deterministic": (("ddim", 2, 1.0), ("ddim", 2, 2.0))},
            encoded="scenes",
        ),
    )
    options = {"rows": rows, "image_size": SIDE, "examples": 8, "count": COUNT, "shown": 2}
    return dataclasses.replace(WORLDS["pixels"], **options)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_the_study_of_classes_is_made_from_its_trainings_to_its_page(made, page):
    """By the command, two seeds; a piece that was stopped while it was measured goes on with what is missing."""
    world = made(class_world())
    done = run_here(study._main, "train", "--worlds", "pixels", "--seeds", "0,1")
    assert done.returncode == 0 and "done" in done.stdout, done.stderr
    assert left("pixels", seeds=(0, 1)) == []
    results = read(world)
    assert not results.stale and {"original", "other", "autoencoder"} == set(results.references)
    seeds = {(one.system, one.w): set(one.figures) for one in results.samples}
    both = {("deterministic", 0.0), ("deterministic", 1.0)}
    assert seeds == {("teacher", 1.0): {0}, ("ddpm", 0.0): {0}, **dict.fromkeys(both, {0, 1})}
    first, second = (Piece(world, world.row("d_2"), seed) for seed in (0, 1))
    about = read_json(first.figures)
    assert about["samples"] != read_json(second.figures)["samples"] and about["cpu_seconds"] > 0
    names = list(about["samples"])
    assert about["samples"][names[0]] != about["samples"][names[1]]  # the guidance is taken
    assert set(about["samples"][names[0]]) == {*world.measures, "saturation"}
    assert first.result.is_dir() and not second.run.exists()  # what others do not start from is shown of one seed

    kept, lost = names[0], about["samples"][names[1]]
    cut = {**about, "samples": {kept: {"frechet_scenes": [9.0, [9.0] * GROUPS]}}}
    write_json(first.figures, cut)
    making.make(first)
    assert read_json(first.figures)["samples"] == {**cut["samples"], names[1]: lost}

    report.write()
    text = page.read_text()
    assert "| Teacher (DDIM) | 3 |" in text and "images/guided/pixels/images-w1.png" in text


def save_text_base(folder: Path) -> None:
    """A tiny text-to-image base, "text-base", and a reader, "a-reader"."""
    (folder / "text-base").mkdir()
    save_base(with_text(tiny_base(), tiny_text(folder, UNET["cross_attention_dim"])), folder / "text-base")
    save_reader(tiny_reader(), folder / "a-reader", image_size=SIDE)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_a_base_that_is_not_trained_here_makes_images_of_captions(made, workplace):
    """Catches a base that is looked for below runs/, or removed."""
    save_text_base(workplace)
    teacher = Row("teacher", None, folder="text-base", once=True)
    samples = {"teacher": (("ddim", 1, 1.0), ("ddim", 1, 2.0))}
    sampled = Row("undistilled", None, models=("teacher",), samples=samples, once=True, doubled=True)
    options = {"rows": (teacher, sampled), "image_size": SIDE, "count": COUNT, "shown": 2, "reader": "a-reader"}
    world = made(dataclasses.replace(WORLDS["latents"], **options))
    assert run_here(study._main, "train", "--worlds", "latents").returncode == 0
    first, second = (one.figures[0]["scene_accuracy"][0] for one in read(world).samples)
    assert min(first, second) >= 0 and (workplace / "text-base").is_dir()


def transfer_world(folder: Path) -> World:
    """A tiny text-to-image base in place of the shipped one; two steps each way."""
    save_text_base(folder)
    domain = {**TRAIN, "data.image_size": SIDE, "base": "text-base", "data.encode_once": 0}
    domain |= {"method.network": None, "method.text_encoder": None}
    halving = {"data.encode_once": 0, "data.prompts": True, "method.steps": [2], "method.updates": 2}
    there = {**TRAIN, **halving, "data.image_size": SIDE, "train.cycles": 0}

    def row(name: str, config: str, changes: dict, start: tuple = (), **options) -> Row:
        source = "scenes:noon" if name.startswith("noon") else "scenes:night"
        return Row(name, f"configs/{config}.yaml", changes, 2, start, encoded=source, **options)

    rows = (
        row("noon", "scenes_base", domain, once=True),
        row("night", "scenes_base", domain, once=True),
        row("noon_2", "scenes_reverse", there, ("noon",)),
        row("night_stage_1", "scenes_guided_1", {**STAGE, "data.encode_once": 0}, ("night",)),
        row("night_2", "scenes_guided_2", {**STAGE, **halving}, ("night_stage_1",)),
        Row(
            "undistilled",
            None,
            models=("noon", "night"),
            samples={"undistilled": (("ddim", 2, 2.0),)},
            once=True,
            doubled=True,
        ),
        Row("transfer_2", None, models=("noon_2", "night_2"), samples={"distilled": (("ddim", 2, 1.0),)}),
    )
    options = {"rows": rows, "image_size": SIDE, "examples": 8, "count": COUNT, "shown": 2, "reader": "a-reader"}
    return dataclasses.replace(WORLDS["transfer"], **options)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_the_transfer_is_made_from_its_trainings_to_its_figures(made, workplace):
    """Two models for each transfer, which no figures of their own have; beside what the images of noon are."""
    world = made(transfer_world(workplace))
    done = run_here(study._main, "train", "--worlds", "transfer", "--seeds", "0")
    assert done.returncode == 0, done.stderr
    results = read(world)
    assert {(one.system, one.evaluations) for one in results.samples} == {("distilled", 4), ("undistilled", 6)}
    assert "condition" in results.references and results.references["original"]["psnr"] is None
    psnr = [one.figures[0]["psnr"][0] for one in results.samples]
    assert all(np.isfinite(psnr)) and psnr[0] != psnr[1] and strip_of(world, "condition").is_file()
