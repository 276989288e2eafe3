"""Pieces of a study: one training with its figures each, the order they are made in, and the files they leave.

Needs no TensorFlow. A piece's figures are a small file that belongs to the repository; what was trained lies below
runs/. A piece whose figures exist, made with today's settings, is not made again, unless another one starts from it.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from codi_tf.io.locks import Locked, only_one
from studies.common.results import read_json

PAUSE = 10  # seconds until a process looks again, while others work on what it waits for


class Piece(ABC):
    """One training with its figures."""

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """What tells pieces apart."""

    @property
    @abstractmethod
    def title(self) -> str:
        """For people."""

    @property
    @abstractmethod
    def figures(self) -> Path:
        """The file of its figures."""

    @property
    @abstractmethod
    def run(self) -> Path:
        """The folder of its training."""

    @property
    def result(self) -> Path:
        """The folder of what was trained."""
        return self.run / "result"

    @property
    def state(self) -> Path:
        """The file that says with which settings it is or was trained here, for how long, and whether to the end."""
        return self.run.with_name(f"{self.run.name}.json")

    @property
    def lock(self) -> Path:
        """The file that the process which works on it holds; pieces that share what is compiled have one."""
        return self.state.with_suffix(".lock")


P = TypeVar("P", bound=Piece)


def is_trained(piece: Piece, settings: Any) -> bool:
    """Whether it has been trained here, with these settings, and its result is still there."""
    state = read_json(piece.state)
    return state is not None and state["trained"] and piece.result.is_dir() and state["settings"] == settings


def is_measured(piece: Piece, settings: Any, samples: Iterable[str]) -> bool:
    """Whether the figures of all these samples exist, made with these settings, here or elsewhere."""
    about = read_json(piece.figures)
    if about is None or set(samples) - set(about["samples"]):
        return False
    return about["settings"] == settings


def in_order(wanted: Iterable[P], missing: Callable[[P], Iterable[P]]) -> list[P]:
    """The wanted pieces, each once and after what is missing for it; those with one lock follow one another.

    Args:
        wanted: pieces to make.
        missing: piece -> the pieces that it needs and that are still to be made.
    """
    found: dict[Hashable, P] = {}

    def add(piece: P) -> None:
        if piece.key not in found:
            for one in missing(piece):
                add(one)
            found[piece.key] = piece

    for piece in wanted:
        add(piece)
    places: dict[Path, int] = {}
    for place, piece in enumerate(found.values()):
        places.setdefault(piece.lock, place)
    return sorted(found.values(), key=lambda piece: places[piece.lock])


@contextlib.contextmanager
def claimed(piece: Piece) -> Iterator[bool]:
    """Lock a piece for this process; yield whether it has the lock."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(only_one(piece.lock, f"works on {piece.title}"))
            mine = True
        except Locked:
            mine = False
        yield mine


def work(left: Callable[[], list[P]], is_ready: Callable[[P], bool], make: Callable[[P], None]) -> None:
    """Make pieces until none is left, in any number of processes: one at a time works on a piece.

    Args:
        left: the pieces that are still to be made, in their order.
        is_ready: whether what a piece starts from is there.
        make: makes a piece.
    """

    def made(piece: P) -> bool:
        """Make it, unless another process works on it or has made it meanwhile; return whether it is made."""
        with claimed(piece) as mine:
            if mine and piece.key in {one.key for one in left()}:
                make(piece)
            return mine

    while remaining := left():
        if not any(made(piece) for piece in remaining if is_ready(piece)):
            time.sleep(PAUSE)
