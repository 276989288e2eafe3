"""The registry: names from sources, entries imported when used, one-line errors. No TensorFlow."""

from __future__ import annotations

import sys

import pytest

from codi_tf.core import registry
from codi_tf.core.errors import UserError
from codi_tf.core.registry import Registry


@pytest.fixture
def fruits(tmp_path, monkeypatch):
    """A registry of a package with two modules, the second of which cannot be imported."""
    (tmp_path / "basket").mkdir()
    (tmp_path / "basket" / "__init__.py").write_text("from codi_tf.core.registry import Registry\n")
    register = "from fruits import FRUITS\n\n@FRUITS.register('{}')\ndef grow(): ...\n"
    (tmp_path / "basket" / "apple.py").write_text(register.format("apple"))
    rotten = register.format("pear") + "\nraise ImportError('rotten')\n"
    (tmp_path / "basket" / "pear.py").write_text(rotten)
    (tmp_path / "fruits.py").write_text(
        "from codi_tf.core.registry import Registry\nFRUITS = Registry('fruit', 'FRUITS', 'basket')\n"
    )
    (tmp_path / "orchard.py").write_text(register.format("cherry"))
    monkeypatch.syspath_prepend(tmp_path)
    registry._import_plugins.cache_clear()
    yield __import__("fruits").FRUITS
    for name in [name for name in sys.modules if name.split(".")[0] in ("basket", "fruits", "orchard")]:
        del sys.modules[name]
    registry._import_plugins.cache_clear()


def test_names_are_known_before_anything_is_imported(fruits):
    assert list(fruits) == ["apple", "pear"] and "pear" in fruits
    assert not {"basket.apple", "basket.pear"} & sys.modules.keys()
    assert fruits["apple"].__module__ == "basket.apple" and "basket.pear" not in sys.modules
    assert fruits.name_of(fruits["apple"]) == "apple"


def test_modules_from_outside_are_named_by_the_environment(fruits, monkeypatch):
    monkeypatch.setenv(registry.PLUGINS, "orchard, none_such")
    with pytest.raises(UserError, match="CODI_TF_PLUGINS names 'none_such', which cannot be imported"):
        list(fruits)
    monkeypatch.setenv(registry.PLUGINS, "orchard")
    assert list(fruits) == ["apple", "pear", "cherry"]


def test_errors_name_what_is_known(fruits):
    with pytest.raises(UserError, match="unknown fruit 'aple': did you mean 'apple'. known are apple, pear; others"):
        fruits["aple"]
    fruits.register("plum")(Registry)
    with pytest.raises(UserError, match="fruit 'plum' is registered already: choose another name"):
        fruits.register("plum")(int)
    with pytest.raises(UserError, match="fruit int is not registered: decorate it with FRUITS.register"):
        fruits.name_of(int)
