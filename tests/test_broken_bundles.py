"""Bundles on disk: every way in which they can be broken, and what saving replaces."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import bundles
import numpy as np
import pytest
from bundles import ADAPTER, refusal
from safetensors.numpy import load_file, save_file

import codi_tf
from codi_tf import bundle
from codi_tf.core.errors import UserError
from codi_tf.io.weights import WEIGHTS

CONDITION, model, saved = bundles.CONDITION, bundles.model, bundles.saved
pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture
def broken(saved, tmp_path):
    """A copy of the bundle that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "broken"))


def _edit(path, change):
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def _shorter(path):
    path.write_bytes(path.read_bytes()[:-100])


def _weights(change):
    def spoil(path):
        weights = load_file(path)
        change(weights)
        save_file(weights, path)

    return spoil


BREAKS = [
    (ADAPTER, Path.unlink, "no such weight file"),
    (f"vae/{WEIGHTS}", Path.unlink, "no such weight file"),
    (ADAPTER, _shorter, "truncated or no safetensors file"),
    (f"unet/{WEIGHTS}", _shorter, "truncated or no safetensors file"),
    (ADAPTER, lambda p: p.write_bytes(b""), "truncated or no safetensors file"),
    (ADAPTER, lambda p: p.write_bytes(pickle.dumps({"mu": 1})), "truncated or no safetensors file"),
    (ADAPTER, _weights(lambda w: w.update(extra=np.zeros(1, "float32"))), "1 weights left over: extra"),
    (ADAPTER, _weights(lambda w: w.pop("mu")), "1 weights missing: mu"),
    (ADAPTER, _weights(lambda w: w.update(mu=np.zeros(7, "float32"))), "mu (7,), wanted (3,)"),
    ("codi.json", Path.unlink, "no such file"),
    ("codi.json", lambda p: p.write_text("{"), "not readable as JSON"),
    ("codi.json", lambda p: p.write_bytes(b"\xff\xfe\x00"), "not readable as JSON"),
    ("codi.json", lambda p: p.write_text("[]"), "holds no JSON object"),
    ("codi.json", lambda p: p.write_text("{}"), "format"),
    ("codi.json", lambda p: _edit(p, lambda a: a.update(format=2)), "format 2 is not known; update codi_tf"),
    ("codi.json", lambda p: _edit(p, lambda a: a.pop("method")), "method is missing"),
    ("codi.json", lambda p: _edit(p, lambda a: a.update(method="codi")), "codi.json"),
    ("codi.json", lambda p: _edit(p, lambda a: a.update(task="super_resolution")), "codi.json"),
    ("codi.json", lambda p: _edit(p, lambda a: a["method"].update(bogus=1)), "bogus"),
    ("codi.json", lambda p: _edit(p, lambda a: a["method"].update(name="bogus")), "bogus"),
    ("codi.json", lambda p: _edit(p, lambda a: a["method"].update(delta="one")), "codi.json"),
    ("codi.json", lambda p: _edit(p, lambda a: a["task"].update(name="bogus")), "unknown task 'bogus'"),
    ("unet/config.json", Path.unlink, "no such file"),
    ("vae", shutil.rmtree, "no such file"),
    ("unet", shutil.rmtree, "no UNet"),
    ("unet/config.json", lambda p: _edit(p, lambda a: a.update(bogus=1)), "bogus"),
    ("unet/config.json", lambda p: _edit(p, lambda a: a.update(norm_num_groups=3)), "3 groups"),
    ("unet/config.json", lambda p: _edit(p, lambda a: a.update(norm_num_groups=0)), "norm_num_groups is 0"),
    ("unet/config.json", lambda p: _edit(p, lambda a: a.update(block_out_channels="wide")), "unet"),
    ("scheduler/scheduler_config.json", lambda p: _edit(p, lambda a: a.update(beta_schedule="x")), "beta_schedule 'x'"),
    ("scheduler/scheduler_config.json", lambda p: _edit(p, lambda a: a.update(prediction_type="x")), "'x'"),
]


@pytest.mark.parametrize(("part", "spoil", "said"), BREAKS)
def test_a_broken_bundle_is_refused_in_one_line(broken, part, spoil, said):
    spoil(broken / part)
    line = refusal(broken)
    assert said in line
    if said not in ("no UNet", "unknown task 'bogus'"):
        assert Path(part).parts[0] in line


def test_what_is_no_bundle_is_refused(tmp_path, base_folder):
    assert "no such bundle" in refusal(tmp_path / "nothing")
    assert "codi.json: no such file" in refusal(base_folder)
    (tmp_path / "file").write_text("")
    assert "no such bundle" in refusal(tmp_path / "file")


class Trap:
    """Unpickling it leaves a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_code_in_a_bundle_is_never_run(broken, tmp_path, model):
    mark = tmp_path / "mark"
    for part in ("", "unet", "vae", "adapter"):
        (broken / part / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap(mark)))
        (broken / part / "__init__.py").write_text(f"import os; os.mkdir({str(mark)!r})")
    np.testing.assert_array_equal(codi_tf.load(broken).generate(CONDITION, steps=1), model.generate(CONDITION, steps=1))
    (broken / ADAPTER).write_bytes(pickle.dumps(Trap(mark)))
    refusal(broken)
    _edit(broken / "unet/config.json", lambda a: a.update(module="os", registered_name="system", class_name="system"))
    refusal(broken)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()  # the trap works


def test_a_failing_save_keeps_what_was_there(broken, model, monkeypatch):
    """Catches a save that removes what it replaces before the new bundle is whole."""

    def fails(*_):
        raise TypeError("in the middle")

    def contents(folder):
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    before = contents(broken.parent)
    with pytest.raises(UserError, match="not JSON is .*, which cannot be saved"):
        model.save(broken, provenance={"not JSON": object()})
    monkeypatch.setattr(bundle, "write_json", fails)  # the last of its files
    for path in (broken, broken.parent / "new"):
        with pytest.raises(TypeError):
            model.save(path)
        assert contents(broken.parent) == before
    assert contents(broken.parent) == before and sorted(os.listdir(broken.parent)) == ["broken"]


def test_saving_replaces_a_bundle_and_nothing_else(broken, model, tmp_path):
    (broken / "vae" / "config.json").write_text("old")
    model.save(broken)
    assert (broken / "vae" / "config.json").read_text() != "old" and (broken / "codi.json").is_file()
    assert sorted(os.listdir(broken.parent)) == ["broken"]
    with pytest.raises(UserError, match="exists; allow overwriting"):
        model.save(broken, overwrite=False)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("precious")
    with pytest.raises(UserError, match="exists and is no bundle"):
        model.save(tmp_path / "thesis")
    assert (tmp_path / "thesis/chapter.txt").read_text() == "precious"
    with pytest.raises(UserError, match="float8"):
        model.save(tmp_path / "new", dtype="float8")
    assert not (tmp_path / "new").exists()
