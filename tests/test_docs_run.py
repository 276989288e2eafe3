"""The code of README.md, CONTRIBUTING.md and docs/ runs.

Each test catches a page that shows a call or a command which fails: an argument that was renamed, a name that a block
does not make, an option or a setting that is refused, a file that is not there.

What cannot run here has a marker above it in the page, `<!-- not run: REASON -->`. Work is shortened by replacing
numbers, see SHORTER and SHORTER_COMMANDS; names that a page leaves to the reader stand in NAMES and WORDS.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import importlib
import inspect
import json
import os
import re
import shutil
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from chromium import require
from commands import run_here
from conftest import SCHEDULER, make_base, make_model
from doc_blocks import ALL, PAGES, ROOT, Block, commands, inline_code, of_language
from doc_commands import parsed, parser_of, required, subcommand
from lora_cases import ATTENTION, random_pairs, write_lora
from tiny import UNET, randomize, tiny_base, tiny_photos, tiny_text

import codi_tf
from codi_tf import config, data
from codi_tf.adapters import ADAPTERS
from codi_tf.adapters.concat import Concat
from codi_tf.checkpoints.base import Base, make_network, make_unet
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import save_stable_diffusion, with_text
from codi_tf.cli import program
from codi_tf.companions import COMPANIONS
from codi_tf.diffusion.samplers import SAMPLERS
from codi_tf.evaluation import METRICS
from codi_tf.io.images import write_png
from codi_tf.methods import METHODS
from codi_tf.models.pixels import PixelFolding
from codi_tf.models.scene_reader import SceneReader
from codi_tf.scenes.reading import VOCABULARY, save_reader
from codi_tf.tasks import TASKS, make_task
from export.formats import FORMATS
from export.formats.runtimes import RUNTIMES

SHORTER = {  # pattern -> its replacement: the work of a block, never what it does
    r"steps_per_epoch=\d+": "steps_per_epoch=1",
    r"epochs=\d+": "epochs=1",
    r"batch_size=\d+": "batch_size=2",
    r"image_size=\d+": "image_size=16",
    r"\bsteps=\d+, guidance": "steps=2, guidance",
}
SHORTER_COMMANDS = {  # words after a command's own
    "train": ["train.steps=1", "train.batch_size=2", "train.warmup_steps=0", "data.encode_once=0"],
    "evaluate": ["--steps", "1", "--count", "4"],
    "text2image": ["--steps", "2"],
    "init": ["new"],  # where nothing is yet: configs/ and assets/ are in the folder itself
}
NOT_RUN = {  # pages whose commands are read and checked, but not run
    "CONTRIBUTING.md": "make and git",
    "docs/bundles.md": "trainings of hours, on a base that takes longer",
    "docs/command_line.md": "a list of options, with brackets",
    "docs/methods.md": "trainings of days",
    "docs/pretraining.md": "trainings of hours",
    "docs/photos.md": "fetches packages",
    "docs/results.md": "trainings of minutes; the other pages run the same commands",
    "docs/tpu.md": "needs a TPU",
}
MARKED = {  # page -> the blocks that it says cannot run
    "docs/android.md": 5,
    "docs/architecture.md": 3,
    "docs/data.md": 3,
    "docs/index.md": 1,
    "docs/noise.md": 3,
    "docs/serving.md": 6,
    "docs/tpu.md": 12,
}
WORDS = {  # what a reader puts in place of a word, below the folder that commands run in
    **dict.fromkeys(("BUNDLE", "photos-base/undistilled"), "models/bundle"),  # the latter comes along, but takes longer
    "BUNDLE_A": "models/a",
    "BUNDLE_B": "models/b",
    "LOW:HIGH": "low:high",
    "RESULTS": "high",
    "STABLE_DIFFUSION": "models/sd",
    "stable-diffusion-v1-5": "models/sd",
    "stable-diffusion-inpainting": "models/inpainting",
    "instruct-pix2pix": "models/pix2pix",
    "ddpm-cat-256": "models/pixels",
}
INPUTS = ("in.png", "mask.png", "in.ppm")
EXAMPLE = {"method": {"name": "codi"}, "base": "base", "task": {"name": "super_resolution"}, "train": {"steps": 1}}
REGISTRIES = (TASKS, COMPANIONS, METHODS, ADAPTERS, SAMPLERS, METRICS, FORMATS, RUNTIMES)


@pytest.fixture
def registries(monkeypatch):
    """What a page registers is forgotten afterwards."""
    monkeypatch.setitem(sys.modules, "page", types.ModuleType("page"))  # dataclasses look for the module of a class
    yield
    for registry in REGISTRIES:
        for name in [name for name, entry in registry._entries.items() if entry.__module__ == "page"]:
            del registry._entries[name]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small models in place of those that a reader has."""
    folder = tmp_path_factory.mktemp("models")
    base = make_base()
    make_model(base).save(folder / "bundle")
    (folder / "sd").mkdir()
    save_base(base, folder / "sd")
    unet = folder / "sd" / "unet" / "config.json"
    unet.write_text(json.dumps({**json.loads(unet.read_text("utf-8")), "sample_size": 4}), "utf-8")
    tiny_text(folder / "sd", 8)
    for name, channels in (("inpainting", 4), ("pix2pix", 3)):
        prompted = with_text(base, folder / "sd")
        save_stable_diffusion(Concat.for_base(prompted, channels).merged(prompted), folder / name)
    unet = make_unet({**UNET, "in_channels": 3, "out_channels": 3, "cross_attention_dim": None, "sample_size": 16})
    randomize(unet.variables)
    save_stable_diffusion(Base(unet, PixelFolding(name="vae"), dict(SCHEDULER)), folder / "pixels")
    for name in ("style", "light"):
        write_lora(folder / f"{name}.safetensors", random_pairs(base.unet, ATTENTION))
    reader = make_network(
        SceneReader, {**VOCABULARY, "stem": 4, "widths": [8, 8, 8], "blocks": 1, "groups": 4}, "reader"
    )
    save_reader(reader, folder / "reader", image_size=16)
    (folder / "tiny").mkdir()
    save_base(tiny_base(), folder / "tiny")
    for seed, name in enumerate("ab"):
        model = make_model(codi_tf.load_stable_diffusion(folder / "sd"), train="adapter", seed=seed)
        model.save(folder / name)
    return folder


@pytest.fixture
def here(models, tmp_path, monkeypatch):
    """The folder that code runs in: configs/ and assets/ with small models, and some images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(models)
    shutil.copytree(ROOT / "configs", "configs")
    shutil.copytree(models / "tiny", Path("assets", "photos-base"))
    shutil.copytree(models / "reader", Path("assets", "scenes-reader"))
    (tmp_path / "node_modules").symlink_to(ROOT / "node_modules")
    for name in ("in.png", "mask.png"):
        write_png(name, np.random.default_rng(0).integers(0, 256, (16, 16, 3), "uint8"))
    tiny_photos(Path("folder"))
    for name in ("style.safetensors", "light.safetensors"):
        shutil.copy(models / name, name)
    for name in ("low", "high"):
        for i in range(4):
            write_png(f"{name}/{i}.png", np.random.default_rng(i).integers(0, 256, (16, 16, 3), "uint8"))
    return tmp_path


def test_every_block_is_of_a_kind_that_is_checked_or_says_why_it_is_not():
    """A block of another language, or a drawing, has a marker."""
    unknown = [b.name for b in ALL if b.language not in ("python", "sh", "yaml", "ini") and b.reason is None]
    assert not unknown
    counts = {}
    for block in ALL:
        if block.reason is not None:
            counts[block.page] = counts.get(block.page, 0) + 1
    assert counts == MARKED
    assert {block.language for block in of_language("python")} and len(of_language("python")) >= 12


# Python


def names_for(page: str, here: Path) -> dict:
    """The names that a page's blocks use and that its text leaves to the reader."""
    names = {"codi_tf": codi_tf, "keras": keras, "tf": tf}
    image, seed = tf.zeros([16, 16, 3]), tf.zeros([2], tf.int32)
    if page == "docs/tasks.md":
        return {**names, "image": image, "seed": seed}
    if page == "docs/data.md":
        return {**names, "task": make_task("super_resolution")}
    if page == "docs/lora.md":
        return {**names, "path": "models/sd", "bundle": "models/bundle"}
    if page in ("docs/python.md", "docs/stable_diffusion.md"):
        task = make_task("super_resolution")
        source = data.load_source("folder", split="train", task=task)
        names |= {
            "path": "models/sd",
            "base": codi_tf.load_stable_diffusion("models/sd"),
            "bundle": here / "bundle",
            "dataset": data.batches(source, task, image_size=16, batch_size=2, seed=0),
            "condition": np.zeros([1, 16, 16, 3], "uint8"),
            "prompts": ["a cat", "a dog"],
            "photos": tf.zeros([1, 16, 16, 3]),
            "latents": tf.zeros([1, 4, 4, 4]),
            "z_t": tf.zeros([1, 4, 4, 4]),
            "t": tf.constant([5]),
            "context": tf.zeros([1, 77, 8]),
            "ids": tf.zeros([1, 77], tf.int32),
            "file": "style.safetensors",
        }
    return names


def shortened(text: str) -> str:
    for pattern, replacement in SHORTER.items():
        text = re.sub(pattern, replacement, text)
    return text


PYTHON_PAGES = sorted({block.page for block in of_language("python")})


def page_case(page: str):
    return pytest.param(page, marks=pytest.mark.slow if page == "docs/python.md" else ())


@pytest.mark.parametrize("page", map(page_case, PYTHON_PAGES))
def test_python_runs(page, here, registries):
    """The blocks of a page, one after the other, with the names that the ones before made."""
    names = names_for(page, here)
    for block in of_language("python"):
        if block.page == page:
            lines = "\n" * (block.line - 1) + shortened(block.text)
            exec(compile(lines, page, "exec"), {**names, "__name__": "page"} if "register(" in block.text else names)


def test_shortening_changes_numbers_alone():
    for block in of_language("python"):
        assert re.sub(r"\d+", "", shortened(block.text)) == re.sub(r"\d+", "", block.text)


def calls_of_pages() -> list[tuple[str, str]]:
    """(page, call) of each `codi_tf.name(...)` within a page's text."""
    spans = [(page.name, span) for page in PAGES for span in inline_code(page)]
    return [
        (page, span) for page, span in spans if re.match(r"(?:codi_tf\.[\w.]+|CoDi|load_stable_diffusion)\(.", span)
    ]


@pytest.mark.parametrize(("page", "span"), calls_of_pages())
def test_calls_within_the_text_fit_what_they_call(page, span):
    """Names exist, and keywords are arguments."""
    span = re.sub(r"\.\.\.|=(?=[,)])", lambda found: "" if found[0] == "..." else "=0", span.replace("..., ", ""))
    for node in ast.walk(ast.parse(span)):
        text = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if text.removeprefix("codi_tf.").split(".")[0] in codi_tf.__all__ or text.startswith("codi_tf."):
            *module, name = text.removeprefix("codi_tf.").split(".")
            called = getattr(importlib.import_module(".".join(["codi_tf", *module])), name)
            given = {keyword.arg: None for keyword in node.keywords}
            inspect.signature(called).bind_partial(*([None] * len(node.args)), **given)


# Commands


def check_paths(options: argparse.Namespace, made: set[str]) -> None:
    """What a command reads is there, was made by a line before, or is left to the reader."""
    for key, values in vars(options).items():
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, Path) or key in ("out", "target"):
                continue
            text = str(value)
            left_to_the_reader = re.search(r"\b[A-Z][A-Z_]{2,}\b|[A-Z]{4}", text) or text in (*INPUTS, *WORDS)
            of_a_config = re.fullmatch(r"runs/(\w+)/result", text)
            is_there = (ROOT / text).exists() or (of_a_config and (ROOT / f"configs/{of_a_config[1]}.yaml").is_file())
            comes_along = (ROOT / "assets" / text).exists()
            is_made = text in made or any(text.startswith(f"{folder}/") for folder in made)
            assert left_to_the_reader or is_made or is_there or comes_along or text == ".", f"{key}: {text}"


def register_of(page: str) -> None:
    """What the page's examples register."""
    for block in of_language("python"):
        if block.page == page and ".register(" in block.text:
            exec(compile(block.text, page, "exec"), {"__name__": "page"})


SHELL_PAGES = sorted({block.page for block in of_language("sh")})


def check_other(words: list[str]) -> None:
    """A line of another program: what of it is ours is there."""
    if words[:1] == ["make"]:
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets), words
    elif words[0].endswith("pip"):
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        for extras in re.findall(r"\.\[([\w,]+)\]", " ".join(words)):
            assert set(extras.split(",")) <= set(setup["options.extras_require"]), words
    elif words[:2] == ["python", "-m"]:
        module = words[2]
        assert module == "http.server" or module.split(".")[0] in ("benchmarks", "studies"), words
        if module.startswith("studies."):
            is_folder = (ROOT / Path(*module.split("."))).is_dir()
            parsed_by = parser_of(importlib.import_module(f"{module}.__main__" if is_folder else module)._main)
            parsed_by.parser.parse_args(words[3:])
    else:
        assert words[:2] == ["npm", "install"], f"{words}: mark the block, or teach this test the program"


@pytest.mark.parametrize("page", SHELL_PAGES)
def test_commands_are_what_their_programs_take(page, registries, monkeypatch):
    """The command's own parser reads every line, every config loads with the settings, and files are there."""
    monkeypatch.chdir(ROOT)
    register_of(page)
    made = set()
    for block in of_language("sh"):
        for words in commands(block) if block.page == page else ():
            if (found := subcommand(words)) is None:
                check_other(words)
            else:
                check_notation(*found)
                try:
                    options = parsed(found[0], required(found[1]))
                except SystemExit as ended:  # of an option that prints, and ends
                    assert not ended.code, words
                    continue
                check_paths(options, made)
                made.add(str(getattr(options, "out", None)))
                if "NAME" not in getattr(options, "config", "NAME"):
                    config.load(options.config, options.overrides)


def check_notation(name: str, words: list[str]) -> None:
    """Options in brackets exist, and alternatives (a|b) are choices."""
    actions = parser_of(importlib.import_module(program.COMMANDS[name].module).main).parser._option_string_actions
    text = " ".join(words)
    for option, value in re.findall(r"(--[a-z][\w-]*)(?: ([^\s\]]+))?", text):
        choices = actions[option].choices
        alternatives = [word for word in (value or "").split("|") if re.fullmatch(r"[a-z0-9_+]+", word)]
        if choices is not None and "|" in (value or ""):
            assert set(alternatives) <= set(choices), option


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "results.md"], ids=lambda page: page.name)
def test_options_within_the_text_exist(page):
    for span in inline_code(page):
        found = subcommand(span.split())
        if found is not None:
            main = importlib.import_module(program.COMMANDS[found[0]].module).main
            known = parser_of(main).parser._option_string_actions
            assert set(re.findall(r"(?<=\s)--[a-z][\w-]*", f" {span}")) <= set(known), span


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_within_the_text_exist(page):
    """`train.steps`, `data.source=DIR`: a section and its key."""
    fields = {name: inspect.get_annotations(getattr(config, name.capitalize())) for name in ("data", "train", "memory")}
    fields["adaptation"] = inspect.get_annotations(config.Adaptation)
    for span in inline_code(page):
        for section, key in re.findall(r"(?<![\w./])(data|train|memory|adaptation)\.([a-z_]+)(?=[=:]|$)", span):
            assert key in fields[section] or hasattr(data, key) or key == "py", span


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in SHELL_PAGES if page not in NOT_RUN])
def test_commands_run(page, here, registries, monkeypatch):
    """The lines of a page, one after the other, in a folder with small models; each ends with status 0."""
    register_of(page)
    if page == "docs/web.md":
        require("onnxruntime-web")
    for block in of_language("sh"):
        for words in commands(block) if block.page == page else ():
            found = subcommand(words)
            if found is None:
                continue
            name, rest = found
            rest = [WORDS.get(word, word) for word in required(rest)]
            main = importlib.import_module(program.COMMANDS[name].module).main
            done = run_here(main, *rest, *SHORTER_COMMANDS.get(name, []))
            assert done.returncode == 0, (words, done.stderr)
            made = parsed(name, rest).out if "--out" in rest else None
            assert made is None or os.path.exists(made), words


# Data


@pytest.mark.parametrize("block", of_language("yaml"), ids=lambda block: block.name)
def test_yaml_is_a_config(block: Block):
    """A block with some sections of one, with the rest of a small config."""
    config.from_dict({**EXAMPLE, **yaml.safe_load(block.text)})


@pytest.mark.parametrize("block", of_language("ini"), ids=lambda block: block.name)
def test_ini_names_the_group_that_is_read(block: Block):
    setup = configparser.ConfigParser()
    setup.read_string(block.text)
    assert set(setup["options.entry_points"]) == {"codi_tf.plugins"}
