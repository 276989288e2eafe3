"""The notebooks run from top to bottom in a real kernel, in a short form; what is committed is what the full gave."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from codi_tf import config

ROOT = Path(__file__).parents[1]
TASKS = ("real_world", "inpainting", "depth", "editing")
each_notebook = pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)


def outputs(notebook) -> list:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def output_of(notebook) -> str:
    return "".join(output.get("text", "") for output in outputs(notebook) if output.get("name") != "stderr")


def source(notebook) -> str:
    return "\n".join(cell.source for cell in notebook.cells)


def count_images(notebook) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def full_steps(notebook) -> int:
    """The steps of a training, where the test suite takes fewer."""
    return int(re.search(r'"CODI_NOTEBOOK_STEPS", "(\d+)"', source(notebook))[1])


def check_quickstart(notebook, out):
    difference = float(output_of(notebook).split("ONNX Runtime and Keras:")[1].split()[0])
    assert difference <= 0.5 / 255 + 1e-3  # half a level of 8 bits, and the export's threshold
    assert (out / "bundle" / "codi.json").is_file()


def check_real_world(notebook, out):
    pieces, difference = re.search(r"(\d+) tiles; mean difference ([\d.]+)", output_of(notebook)).groups()
    assert int(pieces) > 1 and float(difference) < 10  # levels of 255


def check_inpainting(notebook, out):
    known, pixels = re.search(r"([\d,]+) of ([\d,]+) pixels were known, and all", output_of(notebook)).groups()
    assert 0 < int(known.replace(",", "")) < int(pixels.replace(",", "")) == 128 * 128


def check_depth(notebook, out):
    assert float(output_of(notebook).split("the two conditions:")[1].split()[0]) < 2 / 65535


def check_editing(notebook, out):
    assert "'tokens': (16, 77)" in output_of(notebook)


CHECKS = {
    "quickstart": check_quickstart,
    "real_world": check_real_world,
    "inpainting": check_inpainting,
    "depth": check_depth,
    "editing": check_editing,
}


@pytest.mark.slow
@each_notebook
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("CODI_NOTEBOOK_STEPS", "8")
    monkeypatch.setenv("CODI_NOTEBOOK_OUT", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    assert count_images(notebook) >= 2
    CHECKS[path.stem](notebook, tmp_path)


@each_notebook
def test_committed_outputs_are_of_the_full_form(path):
    notebook = nbformat.read(path, as_version=4)
    assert count_images(notebook) >= 2
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # from top to bottom
    epoch = full_steps(notebook) // 4
    assert f"{epoch}/{epoch} - " in output_of(notebook)  # Keras' line of an epoch
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs(notebook))
    assert not re.search(r"/(home|root|tmp|work)/", output_of(notebook))  # of the machine that it ran on
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize("task", TASKS)
def test_text_says_how_long_it_trained(task):
    notebook = nbformat.read(ROOT / "notebooks" / f"{task}.ipynb", as_version=4)
    text = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").replace("\n", " ")
    trained = re.search(r"trains for ([\d,]+) steps of (\d+) crops", text)
    assert int(trained[1].replace(",", "")) == full_steps(notebook)
    assert f"batch_size={trained[2]}" in source(notebook) or f'"batch_size": {trained[2]}' in source(notebook)
    recipe = config.load(ROOT / "configs" / f"photos_{task}.yaml").train
    assert f"configs/photos_{task}.yaml` trains for {recipe.steps:,} of {recipe.batch_size}" in text
