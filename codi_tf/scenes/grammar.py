"""The language of scenes, as data: words and their synonyms, phrasings of captions and of instructions.

In the tables of words and of phrasings, the first entry is the usual one. All are understood.
"""

from __future__ import annotations

from collections.abc import Mapping

from codi_tf.scenes.world import COLORS

OBJECT = ("size", "material", "color", "shape")  # the words of an object's name, in their order
WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "size": {"small": ("small", "little"), "large": ("large", "big")},
    "material": {"matte": ("matte", "dull"), "shiny": ("shiny", "glossy")},
    "color": {name: (name,) for name in COLORS},
    "shape": {
        "sphere": ("sphere", "ball"),
        "cube": ("cube", "block"),
        "cylinder": ("cylinder", "drum"),
        "cone": ("cone",),
    },
    "floor": {
        "wooden": ("on a wooden floor", "on wood"),
        "tiled": ("on a tiled floor", "on tiles"),
        "sandy": ("on a sandy floor", "on sand"),
        "grassy": ("on a grassy floor", "on grass"),
    },
    "light": {
        "noon": ("at noon", "in daylight"),
        "sunset": ("at sunset", "in the evening"),
        "night": ("at night", "in the dark"),
    },
}
TABLES = {kind: tuple(words) for kind, words in WORDS.items()}

# How captions name the objects, by their number. {0}, {1}, {2}: their whole names, from left to right. {stands}: where
# the first one stands, seen from the second. {shared}: what all have in common, such as "red cubes"; {a}, {b}, {c}:
# what each is apart from that, such as "a large matte one".
PHRASINGS = (
    ("{0}", "there is {0}", "nothing but {0}"),
    (
        "{0} and {1}",
        "{0} left of {1}",
        "{0} to the left of {1}",
        "{1} right of {0}",
        "{1} to the right of {0}",
        "{0} {stands} {1}",
        "two {shared}: {a} and {b}",
    ),
    (
        "{0}, {1} and {2}",
        "from left to right {0}, {1} and {2}",
        "{1} between {0} and {2}",
        "{0} left of {1} and {2}",
        "{0} {stands} {1}, and {2}",
        "three {shared}: {a}, {b} and {c}",
    ),
)
ALIKE = ("nothing but {0}", "two {shared}", "three {shared}")  # the last phrasing of objects that are all the same
PLACES = (
    "{objects} {floor} {light}",
    "{floor} {light}, {objects}",
    "{light}, {objects} {floor}",
    "{floor}, {objects} {light}",
)
NUMBERS = {"two": 2, "three": 3}
RELATIONS: Mapping[str, tuple[str, ...]] = {  # longer ones before those that they contain
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "front": ("in front of",),
    "behind": ("behind",),
    "beside": ("next to", "beside"),
    "between": ("between",),
}
THINGS, ONE = "objects", "one"  # the nouns of what has no shape in common, and of what the shape is known of
FILLERS = ("a", "an", "the", "and", "with", "there", "is", "are", "nothing", "but", "from", "to", "left", "right")

SIDES = ("on the left", "in the middle", "on the right")
# {name}: an object's name, as short as is unique; {value}: another value of the attribute; {side}: one of SIDES.
INSTRUCTIONS: Mapping[str, tuple[str, ...]] = {
    "color": ("make the {name} {value}", "paint the {name} {value}"),
    "shape": ("turn the {name} into a {value}", "replace the {name} by a {value}"),
    "size": ("make the {name} {value}",),
    "material": ("make the {name} {value}",),
    "remove": ("remove the {name}", "take the {name} away"),
    "add": ("add a {name} {side}", "put a {name} {side}"),
    "floor": ("make the floor {value}", "change the floor to {value}"),
    "light": ("make it {value}", "change the light to {value}"),
}
VALUES: Mapping[str, Mapping[str, tuple[str, ...]]] = {  # the words of {value}; for an object's attributes, WORDS
    "floor": {name: (name,) for name in WORDS["floor"]},
    "light": {"noon": ("day", "noon"), "sunset": ("sunset",), "night": ("night",)},
}
