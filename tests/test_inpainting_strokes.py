"""Brush strokes of inpainting masks: painted exactly, distributed as the options say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from inpainting_masks import S, assert_uniform, is_half, masks, only
from PIL import Image, ImageDraw
from scipy import ndimage, stats

from codi_tf.tasks.inpainting import painted

DISCS = {"strokes": (1, 1), "stroke_segments": (1, 1), "stroke_length": (0, 0), "stroke_width": (0.1, 0.1)}


def inner(drawn, margin):
    """The masks that are empty within a margin from the edges: no stroke was turned back there."""
    return [m for m in drawn if m[margin:-margin, margin:-margin].sum() == m.sum()]


@pytest.mark.parametrize("end", [(20.25, 48.5), (9.0, 30.0), (9.5, 9.5)])
def test_painted_is_what_lies_within_the_radius(end):
    start, radius = np.array([9.5, 9.5]), 4.3
    points = start + np.linspace(0, 1, 4001)[:, None] * (np.array(end) - start)  # the segment, densely
    centers = np.stack(np.mgrid[:32, :56], axis=-1) + 0.5
    distance = np.linalg.norm(centers[:, :, None] - points, axis=-1).min(axis=-1)
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
    centers = np.array([ndimage.center_of_mass(mask) for mask in drawn]) / S
    inside = centers[((centers > 0.06) & (centers < 0.93)).all(axis=1)]  # at the edges a disc is cut
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
