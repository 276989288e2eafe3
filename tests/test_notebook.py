"""The notebooks run from top to bottom in a real kernel, in a short form."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs_and_exports(path, tmp_path, monkeypatch):
    monkeypatch.setenv("CODI_NOTEBOOK_STEPS", "8")
    monkeypatch.setenv("CODI_NOTEBOOK_OUT", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 2
    said = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    difference = float(said.split("ONNX Runtime and Keras:")[1].split()[0])
    assert difference <= 0.5 / 255 + 1e-3  # half a level of 8 bits, and the export's threshold
    assert (tmp_path / "bundle" / "codi.json").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_notebook_shows_its_pictures(path):
    notebook = nbformat.read(path, as_version=4)
    kinds = [kind for cell in notebook.cells for o in cell.get("outputs", []) for kind in o.get("data", {})]
    assert kinds.count("image/png") >= 2
