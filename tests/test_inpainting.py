"""Inpainting: masks distributed as the options say, conditions that hide the unknown, known pixels kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw
from scipy import ndimage, stats

from codi_tf import data
from codi_tf.core.errors import UserError
from codi_tf.tasks import make_task
from codi_tf.tasks.inpainting import Inpainting, half_mask, painted
from codi_tf.tasks.super_resolution import SuperResolution

S = 64
KINDS = ("free_form", "box", "half")
DISCS = {"strokes": (1, 1), "stroke_segments": (1, 1), "stroke_length": (0, 0), "stroke_width": (0.1, 0.1)}


def only(kind, **options):
    """A task that draws one kind of mask."""
    return Inpainting(**dict.fromkeys(KINDS, 0) | {kind: 1} | options)


def masks(task, count, height=S, width=S):
    """Masks [count, H, W] under seeds (5, 0), (5, 1), ..."""
    draw = tf.function(lambda seed: task.mask(height, width, seed), autograph=False)
    return np.stack([draw(tf.constant([5, i], tf.int32))[..., 0] for i in range(count)])


def photo(height=S, width=S):
    """Float32 [H, W, 3] in [-1, 1] without zeros."""
    values = np.random.default_rng(0).uniform(0.01, 1, (height, width, 3))
    return np.float32(values * np.random.default_rng(1).choice([-1, 1], values.shape))


def is_box(mask):
    rows, columns = mask.any(axis=1), mask.any(axis=0)
    return np.array_equal(mask > 0, np.outer(rows, columns)) and all(
        np.diff(np.flatnonzero(side)).max(initial=1) == 1 for side in (rows, columns)
    )


def is_half(mask):
    return is_box(mask) and sorted((mask.any(axis=1).mean(), mask.any(axis=0).mean())) == [0.5, 1.0]


def inner(drawn, margin):
    """The masks that are empty within a margin from the edges: no stroke was turned back there."""
    return [m for m in drawn if m[margin:-margin, margin:-margin].sum() == m.sum()]


def assert_uniform(values, low, high):
    """Kolmogorov-Smirnov, at a level of 1e-4."""
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-4


# --- conditions


@pytest.mark.parametrize("kind", [*KINDS, None])
@pytest.mark.parametrize("size", [(64, 64), (17, 40), (8, 8)])
def test_a_condition_is_the_known_part_and_the_mask(kind, size):
    task, image = Inpainting() if kind is None else only(kind), photo(*size)
    degrade = tf.function(lambda seed: task.degrade(tf.constant(image), seed), autograph=False)
    assert degrade(tf.constant([0, 0])).shape == (*size, 4)
    for i in range(40):
        condition = degrade(tf.constant([1, i])).numpy()
        assert condition.dtype == np.float32 and condition.shape == (*size, 4)
        rgb, mask = condition[..., :3], condition[..., 3]
        assert set(np.unique(mask)) == {0, 1}  # known and unknown pixels, and nothing between
        np.testing.assert_array_equal(rgb[mask == 0], image[mask == 0])
        np.testing.assert_array_equal(rgb[mask == 1], 0)


def test_shapes_are_static():
    graph = tf.function(Inpainting().degrade).get_concrete_function(
        tf.TensorSpec((24, 32, 3)), tf.TensorSpec((2,), tf.int32)
    )
    assert graph.output_shapes == (24, 32, 4)
    assert Inpainting.condition_channels == 4


def test_same_seed_same_mask_other_seed_other_mask():
    drawn = masks(Inpainting(), 30)
    np.testing.assert_array_equal(drawn, masks(Inpainting(), 30))
    strokes = masks(only("free_form"), 30)
    assert len(np.unique(strokes.reshape(30, -1), axis=0)) == 30
    eager = [Inpainting().mask(S, S, tf.constant([5, i]))[..., 0] for i in range(30)]
    np.testing.assert_array_equal(drawn, eager)


def test_independent_of_the_global_generator():
    drawn = []
    for seed in (1, 2):
        tf.random.set_seed(seed)
        drawn.append(masks(Inpainting(), 5))
    np.testing.assert_array_equal(*drawn)


def test_the_mask_does_not_depend_on_the_photo():
    task, seed = Inpainting(), tf.constant([3, 4])
    first, second = (task.degrade(tf.constant(image), seed)[..., 3] for image in (photo(), -photo()))
    np.testing.assert_array_equal(first, second)


# --- the mixture


@pytest.mark.parametrize("weights", [(0.6, 0.3, 0.1), (0, 1, 3), (5, 0, 5), (0, 0, 2)])
def test_kinds_are_drawn_by_their_weights(weights):
    count = 400
    drawn = masks(Inpainting(**dict(zip(KINDS, weights, strict=True)), box_side=(0.2, 0.6)), count, 32, 32)
    halves = np.array([is_half(mask) for mask in drawn])
    boxes = np.array([is_box(mask) for mask in drawn]) & ~halves
    shares = np.array([(~boxes & ~halves).mean(), boxes.mean(), halves.mean()])
    expected = np.array(weights) / sum(weights)
    np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / math.sqrt(count))
    np.testing.assert_array_equal(shares[expected == 0], 0)


def test_area_of_the_defaults():
    """A photo of which 20 to 30 % is unknown is what Palette is measured with."""
    strokes = masks(only("free_form"), 300).mean(axis=(1, 2))
    assert 0.2 < strokes.mean() < 0.3 and strokes.min() < 0.05 and 0.4 < strokes.max() < 0.75
    mixed = masks(Inpainting(), 300).mean(axis=(1, 2))
    expected = 0.6 * strokes.mean() + 0.3 * 0.25 + 0.1 * 0.5
    assert abs(mixed.mean() - expected) < 4 * 0.14 * math.sqrt(2 / 300)


# --- halves


def test_halves_are_equally_likely_and_exact():
    drawn = masks(only("half"), 400, 6, 10)
    expected = np.zeros((4, 6, 10))
    expected[0, :3], expected[1, 3:], expected[2, :, :5], expected[3, :, 5:] = 1, 1, 1, 1
    which = (drawn[:, None] == expected).all(axis=(2, 3))  # [400, 4]
    assert (which.sum(axis=1) == 1).all()
    np.testing.assert_allclose(which.mean(axis=0), 0.25, atol=4 * math.sqrt(0.25 * 0.75 / 400))


def test_half_of_an_odd_side_is_rounded_down():
    sums = {int(half_mask(5, 7, tf.constant([0, i])).numpy().sum()) for i in range(40)}
    assert sums == {2 * 7, 5 * 3}


# --- boxes


def test_boxes_have_sides_and_places_of_the_options():
    height, width, low, high = 200, 300, 0.2, 0.7
    drawn = masks(only("box", box_side=(low, high)), 500, height, width)
    assert all(is_box(mask) for mask in drawn)
    rows, columns = drawn.any(axis=2), drawn.any(axis=1)
    sides = {}
    for side, size in ((rows, height), (columns, width)):
        share = side.mean(axis=1)
        assert_uniform(share, low, high)
        assert abs(share.min() - low) < 0.01 and abs(share.max() - high) < 0.01
        place = side.argmax(axis=1) / (size - side.sum(axis=1))
        assert_uniform(place, 0, 1)
        assert place.min() < 0.01 and place.max() == 1  # up to the last row
        sides[size] = share
        assert abs(np.corrcoef(share, place)[0, 1]) < 4 / math.sqrt(500)
    assert abs(np.corrcoef(*sides.values())[0, 1]) < 4 / math.sqrt(500)  # height and width are drawn apart


@pytest.mark.parametrize(("side", "area"), [((0, 0), 1), ((1, 1), 7 * 11)])
def test_a_box_is_never_nothing_and_never_everything(side, area):
    assert {mask.sum() for mask in masks(only("box", box_side=side), 50, 8, 12)} == {area}


# --- strokes


@pytest.mark.parametrize("end", [(20.25, 48.5), (9.0, 30.0), (9.5, 9.5)])
def test_painted_is_what_lies_within_the_radius(end):
    start, radius = np.array([9.5, 9.5]), 4.3
    points = start + np.linspace(0, 1, 4001)[:, None] * (np.array(end) - start)  # the segment, densely
    centres = np.stack(np.mgrid[:32, :56], axis=-1) + 0.5
    distance = np.linalg.norm(centres[:, :, None] - points, axis=-1).min(axis=-1)
    mask = painted(tf.constant([[*start, *end, radius]], tf.float32), 32, 56)[..., 0].numpy()
    sure = np.abs(distance - radius) > 1e-2
    assert (~sure).sum() < 10
    np.testing.assert_array_equal(mask[sure] == 1, (distance < radius)[sure])


def test_painted_is_the_union_of_its_segments():
    segments = tf.random.stateless_uniform([6, 5], (0, 0)) * [32.0, 48.0, 32.0, 48.0, 4.0]
    parts = [painted(segments[i : i + 1], 32, 48) for i in range(6)]
    np.testing.assert_array_equal(painted(segments, 32, 48), np.max(parts, axis=0))
    assert 0 < painted(segments, 32, 48).numpy().mean() < 1
    assert not painted(segments[:0], 32, 48).numpy().any()


def test_strokes_start_anywhere():
    drawn = masks(only("free_form", **DISCS), 300)
    centres = np.array([ndimage.center_of_mass(mask) for mask in drawn]) / S
    inside = centres[((centres > 0.06) & (centres < 0.93)).all(axis=1)]  # at the edges a disc is cut
    assert 0.6 * 300 < len(inside) < 0.9 * 300
    for axis in (0, 1):
        assert_uniform(inside[:, axis], 0.06, 0.93)


def test_number_of_strokes():
    drawn = masks(only("free_form", **DISCS | {"strokes": (2, 4), "stroke_width": (0, 0)}), 300, 256, 256)
    found = np.array([ndimage.label(mask)[1] for mask in drawn])
    assert set(found) == {2, 3, 4}
    np.testing.assert_allclose([(found == n).mean() for n in (2, 3, 4)], 1 / 3, atol=4 * math.sqrt(2 / 9 / 300))


def test_width_of_strokes():
    drawn = masks(only("free_form", **DISCS | {"stroke_width": (0.1, 0.3)}), 300, 128, 128)
    whole = inner(drawn, 1)
    width = 2 * np.sqrt(np.array([mask.sum() for mask in whole]) / math.pi) / 128  # the area of a disc
    assert len(whole) > 150 and 0.095 < width.min() < 0.11 and 0.28 < width.max() < 0.305


def test_segments_and_their_length():
    """Straight strokes of 1 to 3 segments of 1/16: the areas of three capsules, each as often as the others."""
    options = {"stroke_segments": (1, 3), "stroke_length": (1 / 16, 1 / 16), "stroke_angle": (0, 0)}
    drawn = masks(only("free_form", **DISCS | options | {"stroke_width": (1 / 64, 1 / 64)}), 300, 256, 256)
    segments = (np.array([mask.sum() for mask in inner(drawn, 18)]) - math.pi * 4) / (
        4 * 16
    )  # pixels: width 4, length 16
    nearest = np.rint(segments)
    assert np.abs(segments - nearest).max() < 0.15 and set(nearest) == {1, 2, 3}
    assert min((nearest == n).mean() for n in (1, 2, 3)) > 0.2


def test_lengths_of_segments():
    drawn = masks(
        only("free_form", **DISCS | {"stroke_length": (1 / 32, 1 / 8), "stroke_width": (0, 0)}), 200, 256, 256
    )
    points = [np.argwhere(mask) for mask in inner(drawn, 34)]
    lengths = np.array([np.linalg.norm(place - place[0], axis=-1).max() / 256 for place in points])
    assert len(lengths) > 60
    assert_uniform(lengths, 1 / 32, 1 / 8)


def test_directions():
    """Strokes of one long segment point anywhere."""
    options = {"stroke_length": (0.25, 0.25), "stroke_angle": (0, 90), "stroke_width": (0.03, 0.03)}
    angles = []
    for mask in inner(masks(only("free_form", **DISCS | options), 300, 96, 96), 2):
        covariance = np.cov(*np.nonzero(mask))
        angles.append(math.atan2(2 * covariance[0, 1], covariance[1, 1] - covariance[0, 0]) / 2)
    assert len(angles) > 100
    assert_uniform(angles, -math.pi / 2, math.pi / 2)


@pytest.mark.parametrize(("angle", "extent"), [(0, 4), (90, 1), (60, 2)])
def test_strokes_turn_off_to_either_side_by_turns(angle, extent):
    """Four segments: at 0 degrees a straight line, at 90 one to and fro, at 60 a zigzag half as long as the line."""
    options = {"stroke_segments": (4, 4), "stroke_length": (1 / 16, 1 / 16), "stroke_angle": (angle, angle)}
    drawn = inner(masks(only("free_form", **DISCS | options | {"stroke_width": (0, 0)}), 60, 256, 256), 18)
    points = [np.argwhere(mask) for mask in drawn]
    longest = [np.linalg.norm(place[:, None] - place, axis=-1).max() / 16 for place in points]
    assert len(longest) > 20
    np.testing.assert_allclose(longest, extent, atol=0.12)


def peer_mask(random, size, task):
    """A mask of the same law, drawn by NumPy's generator and Pillow's brush, at four times the resolution."""
    canvas = Image.new("1", (4 * size, 4 * size))
    draw = ImageDraw.Draw(canvas)
    for _ in range(random.integers(*task.strokes, endpoint=True)):
        point = random.uniform(0, size, 2)
        direction = random.uniform(0, 2 * math.pi)
        radius = max(random.uniform(*task.stroke_width) * size / 2, 0.75)
        corners = [point]
        for i in range(random.integers(*task.stroke_segments, endpoint=True)):
            turn = math.radians(random.uniform(*task.stroke_angle)) * (1 if i % 2 else -1)
            length = size * random.uniform(*task.stroke_length)
            point = point + length * np.array([math.cos(direction + turn), math.sin(direction + turn)])
            corners.append(point)
        corners = [[_mirrored(c, size) for c in corner] for corner in corners]
        corners = [(4 * x, 4 * y) for x, y in corners]
        draw.line(corners, fill=1, width=round(8 * radius))
        for x, y in corners:
            draw.ellipse((x - 4 * radius, y - 4 * radius, x + 4 * radius, y + 4 * radius), fill=1)
    return np.asarray(canvas)[2::4, 2::4].astype(np.float32)


def _mirrored(place, size):
    while not 0 <= place <= size:
        place = -place if place < 0 else 2 * size - place
    return place


@pytest.mark.parametrize("options", [{}, {"strokes": (2, 9), "stroke_width": (0.02, 0.05), "stroke_angle": (0, 180)}])
def test_free_form_masks_are_distributed_as_those_of_another_program(options):
    task, random, count = only("free_form", **options), np.random.default_rng(0), 400
    ours = masks(task, count)
    theirs = np.stack([peer_mask(random, S, task) for _ in range(count)])
    measures = {
        "area": lambda mask: mask.mean(),
        "outline": lambda mask: np.abs(np.diff(mask, axis=0)).mean() + np.abs(np.diff(mask, axis=1)).mean(),
        "parts": lambda mask: ndimage.label(mask)[1],
        "height": lambda mask: mask.any(axis=1).mean(),
        "middle": lambda mask: mask[24:40, 24:40].mean(),
        "edge": lambda mask: np.concatenate([mask[:4].ravel(), mask[:, -4:].ravel()]).mean(),
    }
    for name, measure in measures.items():
        values = [[measure(mask) for mask in drawn] for drawn in (ours, theirs)]
        assert stats.ks_2samp(*values).pvalue > 1e-3, name
    tolerance = 4 * np.sqrt(2 * theirs.mean(axis=0) * (1 - theirs.mean(axis=0)) / count) + 0.01
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < tolerance).mean() > 0.995  # pixel by pixel


def test_strokes_that_cover_all_become_a_half():
    drawn = masks(only("free_form", strokes=(60, 60), stroke_width=(1, 1)), 20)
    assert all(is_half(mask) for mask in drawn)
    assert len(np.unique(drawn, axis=0)) > 1


def test_the_thinnest_stroke_is_seen():
    drawn = masks(only("free_form", **DISCS | {"stroke_width": (0, 0)}), 200, 9, 15)
    areas = drawn.sum(axis=(1, 2))
    assert areas.min() >= 1 and areas.max() <= 4


# --- a user's photo


def test_a_users_photo_and_mask_become_a_condition():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 4), np.uint8)
    pixels[0, 0, :2, 3] = 127, 128
    condition = Inpainting().condition_from_image(np.float32(2 * (pixels / np.float32(255)) - 1)).numpy()
    assert condition.shape == (2, 8, 8, 4) and condition.dtype == np.float32
    unknown = pixels[..., 3] > 127
    np.testing.assert_array_equal(condition[..., 3], unknown)
    assert (condition[0, 0, 0, 3], condition[0, 0, 1, 3]) == (0, 1)
    np.testing.assert_array_equal(condition[unknown][:, :3], 0)
    np.testing.assert_array_equal(condition[~unknown][:, :3], (2 * (pixels / np.float32(255)) - 1)[~unknown][:, :3])
    np.testing.assert_array_equal(Inpainting().condition_from_image(condition), condition)


def test_what_a_condition_hides_leaves_no_trace():
    rgba = np.concatenate([photo(), np.where(photo()[..., :1] > 0, 1, -1)], axis=-1).astype(np.float32)
    other = rgba.copy()
    other[rgba[..., 3] > 0, :3] *= -1
    first, second = (Inpainting().condition_from_image(image) for image in (rgba, other))
    np.testing.assert_array_equal(first, second)


def test_known_pixels_stay_exactly():
    task, image = Inpainting(), photo()
    condition = np.stack([task.degrade(tf.constant(image), tf.constant([0, i])) for i in range(4)])
    made = np.random.default_rng(1).uniform(-1, 1, (4, S, S, 3)).astype(np.float32)
    finished = task.finish(made, condition).numpy()
    assert finished.dtype == np.float32
    known = condition[..., 3] == 0
    np.testing.assert_array_equal(finished[known], np.broadcast_to(image, made.shape)[known])
    np.testing.assert_array_equal(finished[~known], made[~known])
    levels = np.arange(256, dtype=np.float32) / 255  # through [-1, 1] and back every byte is itself
    row = np.stack([2 * levels - 1] * 3 + [0 * levels], axis=-1)[None]
    back = (task.finish(np.zeros((1, 256, 3), np.float32), row) + 1) / 2
    np.testing.assert_array_equal(np.rint(255 * back)[0, :, 0], np.arange(256))


# --- data


PHOTOS = {"a": np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)}


def batches(count, **options):
    options = {"image_size": 16, "batch_size": 4, "seed": 5, **options}
    return list(data.batches(PHOTOS, Inpainting(), **options).take(count).as_numpy_iterator())


def test_batches_have_conditions_of_four_channels():
    spec = data.batches(PHOTOS, Inpainting(), image_size=16, batch_size=4, seed=0).element_spec
    assert {key: value.shape for key, value in spec.items()} == {"image": (4, 16, 16, 3), "condition": (4, 16, 16, 4)}
    whole = batches(3)
    for batch in whole:
        known = batch["condition"][..., 3] == 0
        np.testing.assert_array_equal(batch["condition"][known][:, :3], batch["image"][known])
        assert all(0 < k.mean() < 1 for k in known)
    resumed = batches(1, start_step=2)[0]
    for key, value in whole[2].items():
        np.testing.assert_array_equal(resumed[key], value)
    drawn = np.concatenate([batch["condition"][..., 3] for batch in whole])
    assert len(np.unique(drawn, axis=0)) >= 10  # of 12: two may be the same half


def test_photos_are_the_same_whatever_the_task():
    ours, theirs = (
        data.evaluation_set(PHOTOS, task, image_size=16, count=6, seed=5) for task in (Inpainting(), SuperResolution())
    )
    np.testing.assert_array_equal(ours["image"], theirs["image"])
    assert ours["condition"].shape == (6, 16, 16, 4) and theirs["condition"].shape == (6, 16, 16, 3)


# --- options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("free_form", -1),
        ("box", "0.5"),
        ("half", float("inf")),
        ("half", None),
        ("strokes", (0, 3)),
        ("strokes", (1, 1000)),
        ("strokes", (1.5, 3)),
        ("stroke_segments", (5, 4)),
        ("stroke_segments", 4),
        ("stroke_angle", (0, 181)),
        ("stroke_length", (-0.1, 0.3)),
        ("stroke_length", (0, 3)),
        ("stroke_width", (0, 1.5)),
        ("stroke_width", (float("nan"), 1)),
        ("box_side", (0.5, 1.1)),
        ("box_side", (True, 1)),
    ],
)
def test_wrong_option_is_an_error_that_names_it(option, value):
    with pytest.raises(UserError, match=f"inpainting: {option} must be") as caught:
        Inpainting(**{option: value})
    assert repr(value) in str(caught.value) and "\n" not in str(caught.value)


def test_one_kind_must_be_drawn():
    with pytest.raises(UserError, match="free_form, box and half are all 0"):
        Inpainting(free_form=0, box=0, half=0)


def test_lists_of_a_configuration_file_are_taken():
    task = make_task("inpainting", strokes=[1, 2], box_side=[0, 1])
    assert task == Inpainting(strokes=(1, 2), box_side=(0, 1)) and hash(task) is not None
