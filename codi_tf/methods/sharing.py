"""Which models use a network, and which of them trains it: if one model trains it, no other may freeze it."""

from __future__ import annotations

import gc
import weakref

import keras

# network -> {model: whether it trains the network}. Weak throughout: a model that is gone counts no more.
_users: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def note_use(network: keras.Model, model: keras.Model, *, trained: bool) -> None:
    """Note that a model uses a network, and whether it trains it."""
    _users.setdefault(network, weakref.WeakKeyDictionary())[model] = trained


def is_used(network: keras.Model) -> bool:
    """Whether a model uses a network."""
    return _found(network, lambda trained: True)


def is_trained(network: keras.Model) -> bool:
    """Whether a model trains a network."""
    return _found(network, lambda trained: trained)


def _found(network: keras.Model, wanted) -> bool:
    if not any(map(wanted, _uses(network))):
        return False
    gc.collect()  # Keras models are cycles: one that is gone may not be collected yet
    return any(map(wanted, _uses(network)))


def _uses(network: keras.Model) -> list[bool]:
    return list(_users.get(network, {}).values())
