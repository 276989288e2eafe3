"""Rendered scenes: a function of the seed, true to their captions, their depth and their edits."""

import numpy as np
import pytest
import tensorflow as tf
from commands import run_here

from codi_tf.cli import scenes as command
from codi_tf.core.errors import UserError
from codi_tf.data import crops, evaluation_set, load_source
from codi_tf.scenes import captions, classes, domains, drawing, edits, solids
from codi_tf.scenes.camera import camera_at, project, rays
from codi_tf.scenes.rendering import render
from codi_tf.scenes.surfaces import light_of
from codi_tf.scenes.vectors import Vector, plus
from codi_tf.scenes.windows import window_of
from codi_tf.scenes.world import COLORS, LIGHTS, MOST_OBJECTS, SHAPES, Scene
from codi_tf.tasks import make_task

MANY = 200
SIDE = 48


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    draw = tf.function(drawing.draw_scene)
    return [Scene(*(field.numpy() for field in draw(tf.constant([11, i])))) for i in range(MANY)]


def one(shape: str, **changes) -> Scene:
    """A scene of one large object in the middle."""
    three = {"shape": SHAPES.index(shape), "color": 0, "size": 1, "material": 0}
    fields = {name: tf.fill([MOST_OBJECTS], value) for name, value in three.items()}
    fields |= {name: tf.zeros([MOST_OBJECTS]) for name in ("x", "z")} | {"turn": tf.fill([MOST_OBJECTS], 0.4)}
    scalars = {"count": 1, "floor": 0, "light": 0, "yaw": 0.1, "height": 1.7, "distance": 3.3}
    fields |= {name: tf.constant(value) for name, value in scalars.items()} | {"offset": tf.zeros([2])}
    return Scene(**{**fields, **changes})


def is_inside(shape: str, scene: Scene, p: np.ndarray) -> np.ndarray:
    """Whether points [N, 3] lie in the object: from the shapes' own definitions, not from `solids`' formula."""
    r = solids.RADII[1]
    x, y, z = p.T
    across = np.hypot(x, z)
    if shape == "sphere":
        return x**2 + (y - r) ** 2 + z**2 < r**2
    if shape == "cylinder":
        return (across < 0.88 * r) & (y > 0) & (y < 1.75 * r)
    if shape == "cone":
        return (y > 0) & (across < r * (1 - y / (2 * r))) & (y < 2 * r)
    turn = float(scene.turn[0])
    u, w = np.cos(turn) * x - np.sin(turn) * z, np.sin(turn) * x + np.cos(turn) * z
    return (np.abs(u) < 0.85 * r) & (np.abs(w) < 0.85 * r) & (y > 0) & (y < 1.7 * r)


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_end_where_they_enter_the_shape(shape):
    """Catches a wrong root, a missing cap, a cone's second half: rays are marched through the shape's definition."""
    scene = one(shape)
    camera = camera_at(scene.yaw, scene.height, scene.distance)
    eye, d = np.array([c.numpy() for c in camera.eye]), np.stack([c.numpy() for c in rays(camera, 24)], -1)
    hits = solids.trace(solids.solids(scene), camera.eye, Vector(*(tf.constant(c) for c in d.T)))
    steps = np.arange(1.0, 7.0, 0.004)
    inside = np.stack([is_inside(shape, scene, eye + t * d) for t in steps])  # [steps, rays]
    marched = np.where(inside.any(0), steps[inside.argmax(0)], np.inf)
    on_object = hits.what.numpy() == 0
    assert 0.05 < on_object.mean() < 0.6
    grazing = inside.sum(0) < 8  # the march may step over what is so thin
    assert np.array_equal(on_object[~grazing], np.isfinite(marched)[~grazing])
    both = on_object & np.isfinite(marched)
    assert np.abs(hits.distance.numpy()[both] - marched[both]).max() < 0.006
    points = eye + hits.distance.numpy()[:, None] * d
    normal = np.stack([c.numpy() for c in hits.normal], -1)[on_object]
    out, into = points[on_object] + 0.01 * normal, points[on_object] - 0.01 * normal
    assert not is_inside(shape, scene, out).any()
    assert is_inside(shape, scene, into).mean() > 0.97  # edges and the cone's tip are thinner


def test_shadow_rays_meet_a_cone_from_below_its_tip():
    """Rays steeper than the cone's side (the sun at noon) meet its one half only."""
    cone = solids.solids(one("cone"))
    up = Vector(tf.constant([0.0, 0.1, 0.0]), tf.constant([1.0, 0.995, 1.0]), tf.zeros([3]))
    start = Vector(tf.constant([0.9, -0.5, 3.0]), tf.fill([3], 1e-3), tf.zeros([3]))
    beside = Vector(tf.constant([0.9]), tf.constant([2.5]), tf.constant([0.0]))  # above, where the other half would be
    assert not solids.blocked(cone, beside, Vector(*(tf.constant([v]) for v in (-0.05, 0.998, 0.0)))).numpy().any()
    assert not solids.blocked(cone, start, up).numpy()[[0, 2]].any()
    down = Vector(*(tf.constant([v]) for v in (0.0, -1.0, 0.0)))
    assert solids.blocked(cone, Vector(*(tf.constant([v]) for v in (0.1, 3.0, 0.1))), down).numpy().all()


def test_a_scene_is_a_function_of_the_seed():
    first, again, other = (drawing.draw_scene(tf.constant([4, i])) for i in (7, 7, 8))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.x, other.x)
    images = [render(scene, 32).image.numpy() for scene in (first, again)]
    assert np.array_equal(*images)
    assert images[0].min() >= -1 and images[0].max() <= 1


@tf.function
def shown(scene: Scene) -> tuple[tf.Tensor, tf.Tensor]:
    """What rays see, [SIDE^2], and where the objects stand in the image, [MOST_OBJECTS]."""
    camera = camera_at(scene.yaw, scene.height, scene.distance)
    what = solids.trace(solids.solids(scene), camera.eye, rays(camera, SIDE)).what
    return what, project(camera, scene.x, scene.z)[0]


def test_objects_fill_a_third_of_the_image_and_stand_from_left_to_right(scenes):
    """Catches a camera that is too far away, an object behind another, objects in another order, and a missing sky."""
    shares = []
    for scene in scenes[:100]:
        count = int(scene.count)
        what, place = shown(Scene(*map(tf.constant, scene)))
        assert np.all(np.diff(place.numpy()[:count]) > 0)
        seen = np.bincount(what.numpy(), minlength=MOST_OBJECTS + 2) / SIDE**2
        assert seen[:count].min() * 128**2 > 150
        assert not seen[count:MOST_OBJECTS].any() and seen[MOST_OBJECTS + 1] > 0.03
        shares.append(seen[:count].sum())
    assert 0.28 < np.mean(shares) < 0.38


def test_windows_leave_out_no_ray_that_meets_an_object(scenes):
    """Catches a window that cuts off a part of an object or of its shadow: all rays are tried on all objects, too."""

    @tf.function
    def both(scene: Scene) -> list[tf.Tensor]:
        camera = camera_at(scene.yaw, scene.height, scene.distance)
        objects, rays_of_pixels, sun = solids.solids(scene), rays(camera, SIDE), light_of(scene.light).toward
        once = Vector(*(tf.reshape(coordinate, [1]) for coordinate in sun))
        seen = [window_of(solids.around(one), camera, SIDE) for one in objects]
        shaded = [window_of(solids.around_shadow(one, once), camera, SIDE) for one in objects]
        plain, hits = (solids.trace(objects, camera.eye, rays_of_pixels, windows) for windows in (None, seen))
        distance = tf.minimum(plain.distance, 100.0)
        points = plus(plus(camera.eye, rays_of_pixels, distance), plain.normal, 0.01)
        sun = Vector(*(tf.fill(tf.shape(distance), coordinate) for coordinate in sun))
        shadows = [solids.blocked(objects, points, sun, windows) for windows in (None, shaded)]
        return [plain.what, hits.what, *(shadow & (plain.what != solids.SKY) for shadow in shadows)]

    for scene in scenes[:60]:
        what, what_in_windows, shadow, shadow_in_windows = both(Scene(*map(tf.constant, scene)))
        assert np.array_equal(what, what_in_windows)
        assert np.array_equal(shadow, shadow_in_windows)


def test_what_is_drawn_is_drawn_evenly(scenes):
    """Within four standard deviations; a table's entry that is never drawn fails."""
    for name, entries in (("floor", 4), ("light", 3)):
        shares = np.bincount([int(getattr(s, name)) for s in scenes], minlength=entries) / MANY
        assert np.abs(shares - 1 / entries).max() < 4 * np.sqrt(0.25 / MANY)
    for name, entries in (("shape", 4), ("color", 8), ("material", 2), ("size", 2)):
        values = [int(v) for s in scenes for v in getattr(s, name)[: int(s.count)]]
        assert (np.bincount(values, minlength=entries) > 0.4 * len(values) / entries).all()
    assert {int(s.count) for s in scenes} == {1, 2, 3}


def test_an_edit_changes_one_thing():
    draw, kinds = tf.function(edits.draw_edit), set()
    for i in range(80):
        edit = draw(tf.constant([2, i]))
        kind, where = edits.KINDS[int(edit.kind)], int(edit.object)
        kinds.add(kind)
        before, after = captions.statements(edit.before), captions.statements(edit.after)
        if kind in ("floor", "light"):
            assert getattr(before, kind) != getattr(after, kind) and before.objects == after.objects
        elif kind in ("remove", "add"):
            longer, shorter = (before, after) if kind == "remove" else (after, before)
            assert longer.objects[:where] + longer.objects[where + 1 :] == shorter.objects
        else:
            changed = [i for i, (a, b) in enumerate(zip(before.objects, after.objects, strict=True)) if a != b]
            assert changed == [where]
            a, b = before.objects[where], after.objects[where]
            assert [key for key in a if a[key] != b[key]] == [kind]
            assert b[kind] in edit.instruction.numpy().decode()
    assert kinds == set(edits.KINDS)


def test_the_depth_is_that_of_the_floor_and_of_the_object():
    """Inverse distance along the optical axis: the floor's in the middle of the lowest row, by hand."""
    scene = one("sphere", yaw=tf.constant(0.0), x=tf.fill([MOST_OBJECTS], 50.0))
    depth = render(scene, 32).depth.numpy()[..., 0]
    camera = camera_at(tf.constant(0.0), scene.height, scene.distance)
    f, u = (np.array([c.numpy() for c in v]) for v in (camera.forward, camera.up))
    steps = [(-(2 * (j + 0.5) / 64 - 1)) * 0.42 for j in (63,)]  # the nearest sample is the lowest
    ray = f + steps[0] * u
    t = -float(scene.height) / ray[1]
    assert abs(depth[-1, 16] - 1 / t) < 2e-3 * depth[-1, 16]  # ray has length 1 along the axis
    assert depth[0].max() == 0  # the sky


def test_combinations_are_held_out_of_training(scenes):
    def unseen(scene) -> bool:
        return any(
            (list(COLORS)[int(c)], SHAPES[int(s)], LIGHTS[int(scene.light)]) in drawing.HELD_OUT
            for c, s in zip(scene.color[: int(scene.count)], scene.shape[: int(scene.count)], strict=True)
        )

    assert any(unseen(scene) for scene in scenes)
    assert not any(unseen(drawing.without_held_out(Scene(*map(tf.constant, scene)))) for scene in scenes)
    assert all(unseen(drawing.with_held_out(Scene(*map(tf.constant, s)), tf.constant(0.5))) for s in scenes[:20])


def test_classes_name_what_the_caption_names_first(scenes):
    """Catches another order of the names, and a class of another object than the leftmost."""
    objects, places = classes.class_names(), classes.class_names(classes.PLACE)
    assert (len(set(objects)), len(set(places))) == (32, 12)
    for scene in scenes[:50]:
        scene = Scene(*map(tf.constant, scene))
        said = captions.statements(scene)
        first, place = objects[int(classes.class_of(scene))], places[int(classes.class_of(scene, classes.PLACE))]
        assert first == "{color} {shape}".format(**said.objects[0])
        assert place == f"{said.floor} at {said.light}"


@pytest.mark.parametrize("name", domains.TRANSFERS)
def test_counterparts_differ_in_their_domain_alone(scenes, name):
    transfer = domains.TRANSFERS[name]
    for scene in scenes[:20]:
        before, after = map(captions.statements, domains.counterparts(Scene(*map(tf.constant, scene)), transfer))
        if transfer.attribute in ("floor", "light"):
            assert (getattr(before, transfer.attribute), getattr(after, transfer.attribute)) == transfer[1:3]
            assert before.objects == after.objects
        else:
            pairs = zip(before.objects, after.objects, strict=True)
            assert {(a[transfer.attribute], b[transfer.attribute]) for a, b in pairs} == {transfer[1:3]}
            assert (before.floor, before.light) == (after.floor, after.light)


@pytest.mark.parametrize("name", domains.DOMAINS)
def test_a_domain_has_scenes_of_its_own_alone(name):
    """Catches a domain that is only in some scenes, and training scenes of combinations that are held out."""
    source, attribute = load_source(f"scenes:{name}", "train"), domains.DOMAINS[name]
    shown = evaluation_set(source, None, image_size=16, count=12, seed=0, keys=["caption"])
    for text in shown["caption"]:
        said = captions.parse(text)
        of_objects = {one[attribute] for one in said.objects} if attribute == "material" else {getattr(said, attribute)}
        assert of_objects == {name}
        assert not {(one["color"], one["shape"], said.light) for one in said.objects} & set(drawing.HELD_OUT)


def test_the_source_gives_what_tasks_need():
    shared = {"image_size": 32, "count": 2, "seed": 0}
    depth = make_task("depth")
    examples = evaluation_set(load_source("scenes", "heldout", depth), depth, **shared)
    assert examples["condition"].shape == (2, 32, 32, 3)
    assert captions.parse(examples["prompt"][0]).objects
    train = evaluation_set(load_source("scenes", "train", depth), depth, **shared)
    assert not np.array_equal(train["image"], examples["image"])
    editing = make_task("editing")
    pairs = evaluation_set(load_source("scenes", "train", editing), editing, **shared)
    assert 0 < np.abs(pairs["image"] - pairs["condition"]).mean() < 0.7
    nights = load_source("scenes:noon-to-night", "train", editing)
    edit = domains.draw_transfer(tf.constant([1, 2]), nights.transfer)
    assert [int(scene.light) for scene in (edit.before, edit.after)] == [LIGHTS.index("noon"), LIGHTS.index("night")]
    assert edit.instruction.numpy() == b"make it night"
    with pytest.raises(UserError, match="noon-to-night: pairs of scenes"):
        load_source("scenes:noon-to-night", "train", depth)
    with pytest.raises(UserError, match="recolor"):
        next(iter(crops(load_source("scenes", None), image_size=32, seed=0, recolor=True)))


def test_what_the_command_writes_is_read_by_our_readers(tmp_path):
    assert run_here(command.main, "--out", tmp_path / "a", "--count", 3, "--size", 32).returncode == 0
    assert run_here(command.main, "--out", tmp_path / "e", "--count", 3, "--size", 32, "--edits").returncode == 0
    sheet = ("--out", tmp_path / "s.jpg", "--count", 3, "--size", 32, "--domain", "matte-to-shiny")
    assert run_here(command.main, *sheet).returncode == 0
    refused = run_here(command.main, *sheet, "--edits")  # which of the two would it be?
    assert refused.returncode == 2 and "--edits: not allowed with argument --domain" in refused.stderr
    depth, editing = make_task("depth"), make_task("editing")
    shared = {"image_size": 32, "count": 2, "seed": 0}
    read = evaluation_set(load_source(str(tmp_path / "a"), None, depth), depth, **shared)
    assert "floor" in read["prompt"][0] and read["condition"].std() > 0.1
    edited = evaluation_set(load_source(str(tmp_path / "e"), None, editing), editing, **shared)
    assert edited["image"].shape == (2, 32, 32, 3)
    assert (tmp_path / "s.jpg").read_bytes()[:2] == b"\xff\xd8"  # an image of any format, not a folder of that name
