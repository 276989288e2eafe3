"""Captions and instructions of scenes: what is said parses back to what is true."""

import numpy as np
import pytest
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.scenes import captions, drawing, edits, grammar
from codi_tf.scenes.instructions import changed, parse_instruction
from codi_tf.scenes.world import MOST_OBJECTS, Scene

MANY = 240


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Scenes, in half of which some attributes of the objects are the same: rare else, and named in another way."""
    draw, drawn = tf.function(drawing.draw_scene), []
    for i in range(MANY):
        scene = draw(tf.constant([21, i]))
        same = [kind for k, kind in enumerate(grammar.OBJECT) if i % 2 and (i // 2) >> k & 1]
        drawn.append(scene._replace(**{kind: tf.fill([MOST_OBJECTS], getattr(scene, kind)[0]) for kind in same}))
    return drawn


def test_the_usual_caption_stays_as_it_is(scenes):
    """Catches a change of the captions that figures of held-out scenes were measured with."""
    draw = tf.function(captions.caption)
    for scene in scenes[:40]:
        said = captions.statements(scene)
        names = ["a {size} {material} {color} {shape}".format(**one) for one in said.objects]
        listed = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
        assert draw(scene).numpy().decode() == f"{listed} on a {said.floor} floor at {said.light}"


def test_every_phrasing_parses_back(scenes):
    """Catches a phrasing that the parser reads otherwise: order, shared attributes, who stands in front."""
    draw, texts, in_front = tf.function(captions.caption), [], 0
    for i, scene in enumerate(scenes):
        texts.append(draw(scene, tf.constant([1, i])).numpy().decode())
        parsed, true = captions.parse(texts[-1]), captions.statements(scene)
        assert parsed == true, texts[-1]
        assert set(parsed.in_front) <= set(true.in_front), texts[-1]
        in_front += len(parsed.in_front)
    assert in_front
    every = " | ".join(texts)
    relations = [phrases[0] for phrases in grammar.RELATIONS.values()]
    assert [said for said in (*relations, "two ", "three ", "objects:", "there is", " one") if said not in every] == []
    assert max(len(text.split()) for text in texts) < 35


@pytest.mark.parametrize(
    ("text", "shapes", "in_front"),
    [
        ("a blue ball right of a red cube", ["cube", "sphere"], []),
        ("a cone between a ball and a red drum", ["sphere", "cone", "cylinder"], []),
        ("a cone behind a cube", ["cone", "cube"], [(1, 0)]),
        ("two red cubes and an orange cone", ["cube", "cube", "cone"], []),
        ("three matte objects: a cone, a small cube and a ball", ["cone", "cube", "sphere"], []),
        ("two cubes: a red one and a blue one", ["cube", "cube"], []),
    ],
)
def test_what_captions_mean(text, shapes, in_front):
    """By hand, so that the parser does not merely agree with what writes captions."""
    parsed = captions.parse(text)
    assert [one["shape"] for one in parsed.objects] == shapes
    assert list(parsed.in_front) == in_front and not parsed.unknown


def test_unknown_words_are_named():
    assert captions.parse("a red dragon and a blue cube").unknown == ("dragon",)
    with pytest.raises(UserError, match="names 4 objects"):
        captions.parse("a cube, a cube, a cube and a cube")


def test_instructions_lead_from_what_is_true_before_to_what_is_true_after():
    """Catches a brief name that fits two objects, another side or value, a phrasing that is not read."""
    draw, brief, kinds = tf.function(edits.draw_edit), [], set()
    for i in range(MANY):
        edit = draw(tf.constant([3, i]))
        text = edit.instruction.numpy().decode()
        change = parse_instruction(text)
        kinds.add(change.kind)
        assert change.kind == edits.KINDS[int(edit.kind)], text
        assert changed(captions.statements(edit.before), change) == captions.statements(edit.after), text
        brief += [len(change.object) < len(grammar.OBJECT)] if change.kind not in ("add", "floor", "light") else []
    assert kinds == set(edits.KINDS)
    assert 0.5 < np.mean(brief) < 0.8


def test_twins_are_told_apart_by_their_side():
    """Two objects that are the same in all attributes: without the side no name would be unique."""
    scene = drawing.draw_scene(tf.constant([21, 1]))
    twins = {kind: tf.zeros([MOST_OBJECTS], tf.int32) for kind in grammar.OBJECT}
    names = [edits.name_of(scene._replace(count=2, **twins), tf.constant(i), tf.constant(True)) for i in range(2)]
    assert [name.numpy().decode() for name in names] == [
        f"small matte red sphere {side}" for side in ("on the left", "on the right")
    ]
    said = captions.statements(scene._replace(count=2, **twins))
    after = changed(said, parse_instruction("make the sphere on the right blue"))
    assert [one["color"] for one in after.objects] == ["red", "blue"]


@pytest.mark.parametrize("text", ["make the dragon blue", "remove", "make it red", "add a cube"])
def test_what_is_no_instruction_is_refused(text):
    with pytest.raises(UserError, match="no instruction for scenes"):
        parse_instruction(text)


def test_an_instruction_must_name_one_object():
    said = captions.parse("a red cube and a blue cube")
    with pytest.raises(UserError, match='2 objects that are "cube"'):
        changed(said, parse_instruction("remove the cube"))
