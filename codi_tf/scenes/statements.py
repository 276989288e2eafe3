"""Comparing what a caption states of a scene with what is seen in an image."""

from __future__ import annotations

from codi_tf.scenes.captions import TABLES, Statements, parse

GROUPS = ("count", "attributes", "floor", "light")
SHARED = ("floor", "light", "color", "shape")  # the statements whose shares of a set of images are compared


def is_caption(text: str) -> bool:
    """Whether a text states something of a scene, in words of the grammar alone; an instruction to edit does not."""
    stated = parse(text)
    return not stated.unknown and bool(stated.objects or stated.floor or stated.light)


def agreement(stated: Statements, seen: Statements) -> dict[str, tuple[int, int]]:
    """How many statements are right, by group: group -> (right, total).

    - "count" is one statement, where objects are stated: as many are seen.
    - "attributes" are those that are stated of the objects. Stated and seen objects are paired from left to right, so
      that the most attributes are right; those of a stated object without a partner are wrong.
    - "floor" and "light" are one statement each, where they are stated.
    """
    total = sum(map(len, stated.objects))
    return {
        "count": (int(len(seen.objects) == len(stated.objects)), 1) if stated.objects else (0, 0),
        "attributes": (_best_pairing(stated.objects, seen.objects), total),
        "floor": (int(seen.floor == stated.floor), 1) if stated.floor else (0, 0),
        "light": (int(seen.light == stated.light), 1) if stated.light else (0, 0),
    }


def share_right(stated: Statements, seen: Statements, *groups: str) -> float:
    """The share of the statements of some groups that are right; 1 where there are none."""
    counts = agreement(stated, seen)
    right, total = (sum(counts[group][i] for group in groups or GROUPS) for i in range(2))
    return right / total if total else 1.0


def _best_pairing(stated: tuple[dict, ...], seen: tuple[dict, ...]) -> int:
    """The most attributes that are right when objects are paired in order; not all need a partner."""
    best = [0] * (len(seen) + 1)  # of the stated objects so far, with the first j that are seen
    for one in stated:
        last = best
        best = [0]
        for j, other in enumerate(seen, start=1):
            right = sum(other.get(name) == value for name, value in one.items())
            best.append(max(last[j], best[j - 1], last[j - 1] + right))
    return best[-1]


def occurrences(statements: Statements) -> list[int]:
    """How often each value of SHARED is stated: numbers in the order of `columns_of_shares`."""
    found = {kind: [one.get(kind) for one in statements.objects] for kind in ("color", "shape")}
    found |= {"floor": [statements.floor], "light": [statements.light]}
    return [found[kind].count(value) for kind in SHARED for value in TABLES[kind]]


def columns_of_shares() -> list[slice]:
    """The columns of `occurrences` that belong to each of SHARED."""
    ends = [sum(len(TABLES[kind]) for kind in SHARED[: i + 1]) for i in range(len(SHARED))]
    return [slice(end - len(TABLES[kind]), end) for kind, end in zip(SHARED, ends, strict=True)]
