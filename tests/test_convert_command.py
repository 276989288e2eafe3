"""The command codi convert: what it writes, and its one-line errors."""

from __future__ import annotations

import json
import re
import shutil

import convert_cases
import pytest
from convert_cases import edited, load_file, torch

import codi_tf
from codi_tf.cli import convert as command
from codi_tf.core.command_line import run_command

pipeline, folder = convert_cases.pipeline, convert_cases.folder


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["convert", *map(str, arguments)])
    status = run_command(command.main)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_writes_a_folder(folder, tmp_path, monkeypatch, capsys):
    (folder / "tokenizer").rename(tmp_path / "words")
    edited(folder / "model_index.json", tokenizer=[None, None])
    target = tmp_path / "target"
    options = ("--tokenizer", tmp_path / "words", "--dtype", "bfloat16", "--prediction-type", "v_prediction")
    status, out, err = run(monkeypatch, capsys, folder, target, *options)
    assert status == 0 and out.splitlines()[-1] == str(target)
    assert re.search(r"Stable Diffusion 1\.x, 4 input channels, v_prediction prediction: UNet 0\.\dM, ", out)
    assert err.splitlines() == ["writing vae", "writing unet", "writing text_encoder"]
    base = codi_tf.load_stable_diffusion(target)
    assert base.prediction_type == "v_prediction"
    kept = load_file(target / "unet/diffusion_pytorch_model.safetensors").values()
    assert {value.dtype for value in kept} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda f: shutil.rmtree(f / "vae"), (), "the folder vae is missing"),
        (lambda f: None, ("--dtype", "int4"), "--dtype is int4: choose from "),
        (lambda f: None, ("--prediction-type", "noise"), "--prediction-type is noise: choose from "),
        (lambda f: None, ("--tokenizer", "/nowhere"), "/nowhere"),
        (lambda f: None, ("--format", "onnx"), "--format"),
    ],
)
def test_a_mistake_is_a_line_and_the_target_is_not_made(folder, tmp_path, monkeypatch, capsys, change, options, said):
    change(folder)
    status, out, err = run(monkeypatch, capsys, folder, tmp_path / "target", *options)
    assert status == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and said in err
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]
    before = json.dumps(sorted(p.name for p in folder.iterdir()))
    assert run(monkeypatch, capsys, folder, folder)[0] == 2
    assert json.dumps(sorted(p.name for p in folder.iterdir())) == before


def test_an_unwritable_target_and_a_missing_source_are_told_at_once(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    for source, target, said in (
        (folder, tmp_path / "file" / "x", "nothing can be written into"),
        (tmp_path / "no", "x", "no such"),
    ):
        status, out, err = run(monkeypatch, capsys, source, target)
        assert status == 2 and out == "" and err.startswith("error: ") and said in err and err.count("\n") == 1
