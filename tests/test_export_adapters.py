"""Plugging the adapter of one bundle into the package of another."""

from __future__ import annotations

import numpy as np
import pytest
from commands import run_here
from conftest import make_base, make_model
from tiny import randomize

from codi_tf.core.errors import UserError
from export import __main__ as export
from export import build as making
from export.package import adapters
from export.package import manifest as package
from export.runtime import run


def test_an_adapter_is_plugged_in_bit_by_bit(tmp_path):
    """Two PE-CoDi models of one base: with the second's adapter, the first's package is the second's."""
    base = make_base()
    models = [make_model(base, train="adapter") for _ in range(2)]
    randomize(models[1].student.adapter.variables)
    condition = np.random.default_rng(0).random((16, 16, 3)).astype("float32")
    images = {}
    for name, model in zip("ab", models, strict=True):
        model.save(tmp_path / f"bundle-{name}")
        options = {"format": "onnx", "layout": "parts", "steps": 2, "sizes": [(16, 16)], "report": False}
        making.make_package(tmp_path / f"bundle-{name}", tmp_path / name, **options)
        images[name] = run.generate(run.load(package.read_package(tmp_path / name)), condition, seed=1)
    done = run_here(export.main, tmp_path / "bundle-b", "--adapter-of", tmp_path / "a", "--out", tmp_path / "plug")
    assert done.returncode == 0, done.stderr
    plugged = adapters.with_adapter(package.read_package(tmp_path / "a"), tmp_path / "plug")
    assert np.abs(images["a"] - images["b"]).max() > 1e-2
    np.testing.assert_array_equal(run.generate(run.load(plugged), condition, seed=1), images["b"])
    whole, plug = (sum(f.stat().st_size for f in (tmp_path / name).iterdir()) for name in ("b", "plug"))
    assert plug < 0.7 * whole
    with pytest.raises(UserError, match="no exported adapter"):
        adapters.with_adapter(package.read_package(tmp_path / "a"), tmp_path / "b")


def test_the_adapter_of_another_base_is_refused(tmp_path):
    options = {"format": "onnx", "layout": "parts", "steps": 1, "sizes": [(16, 16)], "report": False}
    for name in "ab":
        make_model(make_base(seed=ord(name)), train="adapter").save(tmp_path / f"bundle-{name}")
    making.make_package(tmp_path / "bundle-a", tmp_path / "a", **options)
    with pytest.raises(UserError, match=r"is of another base than .*a \(decoder.onnx differs\)"):
        making.make_adapter(tmp_path / "bundle-b", tmp_path / "plug", package=tmp_path / "a", report=False)
    assert not (tmp_path / "plug").exists() and not list(tmp_path.glob(".*"))
