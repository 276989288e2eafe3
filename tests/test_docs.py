"""The pages say what is there: links, paths, commands, the image of imports, the examples of docs/extending.md.

Each test catches a page that was left behind by a change: a file that moved, an option that was renamed, a new row in
the import contract, a base class whose methods have other arguments.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from doc_commands import parsed, parser_of, required

from codi_tf.cli.program import COMMANDS
from codi_tf.core.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/api/*.md")])
FIRST_PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
TREES = ("codi_tf", "export", "tests", "docs", "configs", "assets", "benchmarks", "studies", "notebooks", "examples")
HISTORY = {"CHANGELOG.md": "## 0.1.0", "glossary.md": "## Names of 0.1.0"}  # page -> where it begins to name the past


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    """A page without the part that names what is no longer there."""
    return page.read_text("utf-8").split(HISTORY.get(page.name, "\0"))[0]


def code_of(page: Path) -> list[str]:
    """Indented and fenced lines of a page."""
    fenced, lines = False, []
    for line in text_of(page).splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line.split("  #")[0])
        else:
            lines.append("")
    return lines


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page):
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in anchors_of(there)):
            lost.append(target)
    assert not lost


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_paths_are_there(page):
    named = re.findall(rf"`((?:{'|'.join(TREES)})/[\w./*-]+)(?::[\w.]+)?`", text_of(page))
    assert not [path for path in named if not any(ROOT.glob(path.rstrip("/")))]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_configs_are_there(page):
    named = re.findall(r"\b(?:photos|sd15|sd)_\w+\.yaml", text_of(page))
    assert not [name for name in named if not (ROOT / "configs" / name).is_file() and "NAME" not in name]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_modules_are_there(page):
    modules = set(re.findall(r"python -m ((?:codi_tf|export|benchmarks|studies)[\w.]*\w)", text_of(page)))
    files = {name: ROOT.joinpath(*name.split(".")) for name in modules}
    assert not [
        name
        for name, file in files.items()
        if not any(map(Path.is_file, (file.with_suffix(".py"), file / "__main__.py")))
    ]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_rows_of_tables_have_the_columns_of_their_head(page):
    """A table whose head and rule differ is shown as text."""
    lines = [re.sub(r"\\\||`[^`]*`", "", line) for line in page.read_text("utf-8").splitlines()]
    for head, rule in zip(lines, lines[1:], strict=False):
        if re.fullmatch(r"\|[\s:|-]+\|", rule) and head.startswith("|"):
            assert head.count("|") == rule.count("|"), head


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_tables_are_whole(page):
    """A row below an empty line belongs to no table, and is shown as text."""
    lines = ["", *page.read_text("utf-8").splitlines(), ""]
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if line.startswith("|") and not before.startswith("|"):
            assert re.fullmatch(r"\|[\s:|-]+\|", after), line


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120


def test_targets_of_make_are_there():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for page in FIRST_PAGES:
        for line in re.findall(r"(?:^    |`)make ([a-z -]+?)(?:  |`|$)", page.read_text("utf-8"), re.MULTILINE):
            for target in line.split():
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def commands() -> dict[str, set[str]]:
    """Subcommand of `codi` -> the options that pages give it."""
    found: dict[str, set[str]] = {}
    for page in PAGES:
        name = ""
        for line in code_of(page):
            begins = re.match(r"\s*codi (\w+)", line)
            if begins or not line.startswith("        "):  # a line that is indented further continues a command
                name = begins.group(1) if begins else ""
            if name:
                found.setdefault(name, set()).update(re.findall(r"--[a-z][a-z0-9-]*", line))
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_commands_have_their_options(name, capsys):
    program = importlib.import_module("codi_tf.cli.program")
    with pytest.raises(SystemExit) as ended:
        program.main([name, "--help"])
    assert ended.value.code in (0, None)
    known = set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out))
    assert commands()[name] <= known


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_option_is_on_a_page(name):
    """docs/command_line.md is said to list every option."""
    parser = parser_of(importlib.import_module(COMMANDS[name].module).main).parser
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    options = {option for action in shown for option in action.option_strings}
    assert options <= commands()[name]


@pytest.mark.parametrize("name", sorted(commands()))
def test_the_example_of_a_help_is_read_by_its_command(name):
    """Catches an example that a change of options left behind, and a help that does not say what the command does."""
    parser = parser_of(importlib.import_module(COMMANDS[name].module).main).parser
    assert re.match(r"[A-Z][^\n]*[a-z]\b", parser.description)
    example = re.match(r"example: (.*)", parser.epilog or "")
    if example:
        words = required(shlex.split(example.group(1)))
        assert words[:2] == ["codi", name]
        parsed(name, words[2:])


def test_every_command_is_on_its_page():
    assert set(COMMANDS) == set(commands())


def test_the_diagram_of_imports_is_the_contract():
    contract = configparser.ConfigParser()
    contract.read(ROOT / "setup.cfg")
    rows = contract["importlinter:contract:layers"]["layers"].strip().splitlines()
    section = text_of(ROOT / "docs" / "architecture.md").split("## Imports go downwards only")[1].split("\n## ")[0]
    assert [line.strip() for line in section.splitlines() if line.startswith("    ")] == rows
    assert len(rows) <= 12


def test_public_names_of_the_reference_are_those_of_the_package():
    import codi_tf

    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    assert {"__version__", *hooks.public_names()} == set(codi_tf.__all__)


def examples() -> dict[str, str]:
    """Name that an example of docs/extending.md registers -> its source."""
    page = (ROOT / "docs" / "extending.md").read_text("utf-8")
    blocks = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if ".register(" in block]
    return {re.search(r'(\w+)\.register\("(\w+)"\)', block).group(2): block for block in blocks}


REGISTRIES = {
    "TASKS": "codi_tf.tasks",
    "COMPANIONS": "codi_tf.companions",
    "METHODS": "codi_tf.methods",
    "ADAPTERS": "codi_tf.adapters",
    "SAMPLERS": "codi_tf.diffusion.samplers",
    "METRICS": "codi_tf.evaluation",
    "FORMATS": "export.formats",
}


def test_there_is_an_example_of_each_kind():
    kinds = [re.search(r"@(\w+)\.register", source).group(1) for source in examples().values()]
    assert sorted(kinds) == sorted(REGISTRIES)


@pytest.mark.parametrize("name", sorted(examples()))
def test_examples_fit_their_base_class(name, tmp_path, monkeypatch):
    """An example is registered from outside, is short, and overrides only what its base class has."""
    source = examples()[name]
    assert len(source.splitlines()) <= 40
    variable = re.search(r"@(\w+)\.register", source).group(1)
    registry = getattr(importlib.import_module(REGISTRIES[variable]), variable)
    list(registry)  # what comes from plug-ins
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    (tmp_path / f"outside_{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module(f"outside_{name}")
    entry = registry[name]
    with pytest.raises(UserError, match="registered already"):
        registry.register(name)(object())
    if isinstance(entry, type):
        own = {n.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)}
        public = {method for method in own if not method.startswith("_")} & set(vars(entry))
        inherited = set().union(*(dir(base) for base in entry.__mro__[1:]))
        assert public <= inherited
