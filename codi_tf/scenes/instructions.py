"""Instructions of edits: what they ask for, and what is true of a scene after them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from codi_tf.core.errors import UserError
from codi_tf.scenes.captions import Statements
from codi_tf.scenes.grammar import INSTRUCTIONS, OBJECT, SIDES, VALUES, WORDS
from codi_tf.scenes.world import MOST_OBJECTS


@dataclass(frozen=True)
class Change:
    """What an instruction asks for.

    Attributes:
        kind: one of `edits.KINDS`.
        object: what is said of the object, attribute -> value; empty for "floor" and "light".
        side: one of SIDES, or None where the instruction names none.
        value: the new value of the attribute, or None for "remove" and "add".
    """

    kind: str
    object: dict[str, str]
    side: str | None
    value: str | None


def parse_instruction(text: str) -> Change:
    """What an instruction asks for. Raises UserError for one that the grammar does not have."""
    plain = " ".join(re.findall(r"[^\s,.;:!?]+", text.lower()))
    for kind, phrasings in INSTRUCTIONS.items():
        for phrasing in phrasings:
            pattern = phrasing.replace(" a ", " an? ").replace("{side}", f"(?P<side>{'|'.join(SIDES)})")
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>.+)", pattern)
            found = re.fullmatch(pattern, plain)
            change = None if found is None else _change(kind, found.groupdict())
            if change is not None:
                return change
    raise UserError(f'{text!r} is no instruction for scenes; one is "make the red cube blue"')


def _change(kind: str, slots: dict[str, str]) -> Change | None:
    """The change of a phrasing's slots, or None if they hold words that do not belong there."""
    value, side, name, said = None, slots.get("side"), slots.get("name", ""), {}
    if "value" in slots:
        table = VALUES.get(kind) or WORDS[kind]
        value = next((value for value, words in table.items() if slots["value"] in words), None)
        if value is None:
            return None
    for place in SIDES:
        if name.endswith(f" {place}"):
            name, side = name.removesuffix(f" {place}"), place
    for word in name.split():
        kinds = {attribute: v for attribute in OBJECT for v, words in WORDS[attribute].items() if word in words}
        if not kinds:
            return None
        said |= kinds
    if "name" in slots and "shape" not in said:
        return None
    return Change(kind, said, side, value)


def changed(before: Statements, change: Change) -> Statements:
    """What is true of a scene after a change.

    Raises:
        UserError: the change names no object of the scene, several, or a fourth one.
    """
    if change.kind in ("floor", "light"):
        return replace(before, **{change.kind: change.value})
    objects = list(before.objects)
    if change.kind == "add":
        if len(objects) == MOST_OBJECTS:
            raise UserError(f"a scene has at most {MOST_OBJECTS} objects")
        at = {"on the left": 0, "in the middle": 1}.get(change.side or "", len(objects))
        objects.insert(at, change.object)
        return replace(before, objects=tuple(objects))
    index = _named(before.objects, change)
    if change.kind == "remove":
        del objects[index]
    else:
        objects[index] = objects[index] | {change.kind: str(change.value)}
    return replace(before, objects=tuple(objects))


def _named(objects: tuple[dict[str, str], ...], change: Change) -> int:
    """The index of the object that a change names."""
    places = [SIDES[0], *[SIDES[1]] * (len(objects) - 2), SIDES[2]] if len(objects) > 1 else [change.side]
    fits = [
        i
        for i, (one, place) in enumerate(zip(objects, places, strict=True))
        if change.object.items() <= one.items() and change.side in (None, place)
    ]
    if len(fits) != 1:
        name = " ".join(change.object.values())
        raise UserError(f'the scene has {len(fits)} objects that are "{name}": the edit must name one')
    return fits[0]
