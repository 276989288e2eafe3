"""Inception Score, precision and recall, CLIP's direction, depth by a network: against other programs and by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import softmax
from scipy.stats import entropy

from codi_tf.core.errors import UserError
from codi_tf.evaluation import METRICS, numerics
from codi_tf.evaluation.metric import ImageSet, Originals
from codi_tf.evaluation.numerics import aligned_error, cosine, inception_score, inside, set_interval

RANDOM = np.random.default_rng(0)


def image_set(images, kind=ImageSet, **known):
    return kind(np.asarray(images, "float32"), np.zeros((len(images), 1, 1, 4), "float32"), 2, **known)


def originals(images, **known):
    return image_set(images, Originals, reconstructions=np.asarray(images, "float32"), **known)


# --- the Inception Score


def test_the_score_by_counting():
    """1 where the answer is always the same; the number of classes where each is sure of another one, all alike."""
    assert inception_score(np.tile([3.0, 1.0, -2.0], (5, 1))) == pytest.approx(1.0, abs=1e-12)
    sure = 1000.0 * np.eye(4)  # probabilities of exactly 0 have no logarithm
    assert inception_score(np.tile(sure, (3, 1))) == pytest.approx(4.0, rel=1e-12)
    halves = np.array([[1000.0, 0, 0], [0, 1000.0, 0]])
    assert inception_score(halves) == pytest.approx(2.0, rel=1e-12)
    with pytest.raises(ValueError, match="logits must be finite"):
        inception_score(np.array([[np.nan, 0.0]]))


def test_the_score_is_that_of_torch_fidelity():
    """Of the set in one part; and SciPy's relative entropies."""
    from perception_peers import torch

    fidelity = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * RANDOM.normal(size=(60, 17)) + 50.0
    expected = fidelity.isc_features_to_metric(torch.from_numpy(logits), splits=1, shuffle=False)
    found = inception_score(logits)
    assert found == pytest.approx(expected["inception_score_mean"], rel=1e-10) and found > 2
    p = softmax(logits, axis=1)
    assert found == pytest.approx(np.exp(np.mean([entropy(one, p.mean(axis=0)) for one in p])), rel=1e-10)


def test_the_interval_of_the_score_holds_it():
    logits = 3 * RANDOM.normal(size=(80, 5))
    low, high = set_interval(inception_score, logits)
    assert 1 < low < inception_score(logits) < high < 5
    assert set_interval(inception_score, logits) == (low, high) != set_interval(inception_score, logits, seed=1)


# --- precision and recall


def test_who_is_inside_by_hand():
    """On a line, with one neighbor: the balls are [-1, 1], [0, 2] and [1, 19]."""
    manifold = np.array([[0.0], [1.0], [10.0]])  # distances to the nearest other: 1, 1, 9
    points = np.array([[-1.0], [-1.1], [2.0], [2.5], [0.9], [18.9], [19.1]])
    assert inside(points, manifold, neighbors=1).tolist() == [1, 0, 1, 1, 1, 1, 0]
    assert inside(points, manifold, neighbors=3).tolist() == [1, 1, 1, 1, 1, 1, 1]  # two neighbors are all there are
    with pytest.raises(ValueError, match="M at least 2"):
        inside(points, manifold[:1])
    with pytest.raises(ValueError, match="finite"):
        inside(points * np.inf, manifold)


def test_equal_points_are_inside_each_other(monkeypatch):
    """Also where all neighbors are the same point, so that its ball is nothing but the point; far from the origin."""
    monkeypatch.setattr(numerics, "ROWS", 3)  # several blocks
    points = 100 + RANDOM.normal(size=(8, 200))
    assert inside(points, points).all()
    same = np.repeat(points[:1], 6, axis=0)
    assert inside(same, same).all() and not inside(points[1:], same).any()


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_precision_and_recall_are_those_of_torch_fidelity(monkeypatch, shift):
    """And SciPy's distances; in blocks of rows."""
    from perception_peers import torch

    fidelity = pytest.importorskip("torch_fidelity.metric_prc")
    monkeypatch.setattr(numerics, "ROWS", 16)
    made, real = RANDOM.normal(size=(50, 6)) + shift, 0.8 * RANDOM.normal(size=(40, 6))
    expected = fidelity.prc_features_to_metric(torch.from_numpy(made), torch.from_numpy(real), verbose=False)
    precision, recall = inside(made, real).mean(), inside(real, made).mean()
    assert (precision, recall) == pytest.approx((expected["precision"], expected["recall"]), abs=1e-6)
    assert 0 < precision < 1 and 0 < recall < 1 and precision != recall
    radii = np.sort(cdist(real, real), axis=1)[:, 3]
    assert precision == np.mean((cdist(made, real) <= radii).any(axis=1))


def test_the_metrics_are_of_images_and_of_originals():
    """Precision says which image is among the originals, recall which original is among the images."""
    calls = []

    def colors(images):
        calls.append(len(images))
        return images[:, 0, 0]

    x = RANDOM.uniform(-1, 1, (9, 2, 2, 3))
    made, real = image_set(np.concatenate([x[:4], 9 + x[4:]])), originals(x)
    values = {}
    for name in ("precision", "recall"):
        metric = METRICS[name](colors)
        reference = metric.reference(real)
        values[name] = metric.measure(made, real, reference)
        assert metric.aggregate(metric.measure(real, real, reference), reference) == 1.0
        low, high = metric.interval(values[name], reference)
        assert low <= metric.aggregate(values[name], reference) <= high
    assert values["precision"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(values["recall"], inside(x[:, 0, 0], made.images[:, 0, 0]))
    assert calls == [2] * 10  # five batches of two for each set: once, whichever metrics ask


# --- CLIP's direction


def test_cosines():
    a, b = np.array([[1.0, 0], [1, 1], [0, 0], [2, 0]]), np.array([[0.0, 3], [2, 2], [1, 1], [-1, 0]])
    np.testing.assert_allclose(cosine(a, b), [0, 1, 0, -1], atol=1e-12)


def test_the_direction_is_that_of_transformers(tmp_path):
    """The cosine of the changes of its embeddings; 0 where the image is the one before the edit."""
    from test_clip import random_images, save_clip, signed
    from tiny_pipeline import torch

    from codi_tf.evaluation.clip import shared_clip

    peer, processor, tokenizer = save_clip(tmp_path / "clip")
    clip = shared_clip(str(tmp_path / "clip"))
    assert shared_clip(str(tmp_path / "clip")) is clip
    before, after = random_images(40, 40), random_images(40, 40)[::-1, ::-1]
    captions = [np.array(texts, object) for texts in (["a cat", "a dog", "a cat"], ["the cat", "a photo", "at night"])]
    truth = {"source": signed(before), "source_caption": captions[0], "caption": captions[1]}
    real = originals(signed(after), prompts=["change it"] * 3, truth=truth)
    metric = METRICS["clip_direction"](clip)
    reference = metric.reference(real)

    def embedded(levels, texts):
        values = processor(list(levels), return_tensors="pt")["pixel_values"]
        tokens = tokenizer(list(texts), padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        out = peer(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=values)
        return out.image_embeds, out.text_embeds  # of unit length

    with torch.no_grad():
        pairs = zip(embedded(after, captions[1]), embedded(before, captions[0]), strict=True)
        expected = torch.nn.functional.cosine_similarity(*(one - other for one, other in pairs)).numpy()
    assert np.ptp(expected) > 0.02
    np.testing.assert_allclose(metric.measure(real, real, reference), expected, atol=1e-4)
    np.testing.assert_array_equal(metric.measure(image_set(signed(before)), real, reference), 0)
    truth["caption"][1] = " "
    with pytest.raises(UserError, match="--clip: 1 of 3 edits have no caption before or after"):
        metric.reference(real)


def test_directions_need_captions_of_before_and_after(monkeypatch):
    """Without them, as for instructions alone, there is no column, and the CLIP score stays."""
    from codi_tf.evaluation import loading

    monkeypatch.setattr("codi_tf.evaluation.clip.shared_clip", lambda argument: SimpleNamespace())
    monkeypatch.setattr("codi_tf.evaluation.features.load_features", lambda folder: SimpleNamespace(features=len))
    arguments = dict.fromkeys(option.key for option in loading.options()) | {"clip": "folder", "features": "."}
    options = {"image_size": 8, "prompted": True, "instructed": True}
    assert {"source", "source_caption", "caption"} <= set(loading.truth_keys(arguments))
    metrics = loading.load_metrics(arguments, **options, known=("source", "caption"))
    assert "clip_score" in metrics and "clip_direction" not in metrics
    assert "clip_direction" in loading.load_metrics(arguments, **options, known=loading.truth_keys(arguments))


# --- depth by a network


def test_depth_by_a_network(tmp_path):
    """A real ONNX file that sees 0.5 R + G + 2 B: the error is that of the map by hand, in any unit, for its size."""
    from test_depth import photo, write_network

    from codi_tf.evaluation.metrics.network_depth import NetworkDepth

    path = write_network(tmp_path / "net.onnx", (1, 3, 40, 60), weights=(0.5, 1.0, 2.0))
    metric = NetworkDepth.load(str(path), 0)
    x = np.stack([2 * photo(seed=i) - 1 for i in range(3)])
    near = (x + 1) / 2 @ np.array([0.5 / 0.229, 1 / 0.224, 2 / 0.225], np.float32)
    real = originals(x, truth={"depth": 7 + 3 * near[..., None]})
    reference = metric.reference(real)
    np.testing.assert_allclose(metric.measure(real, real, reference), 0, atol=1e-4)
    mirrored = image_set(x[:, ::-1])
    expected = aligned_error(near[:, ::-1], near)
    assert expected.min() > 0.05
    np.testing.assert_allclose(metric.measure(mirrored, real, reference), expected, atol=1e-4)
    alone = originals(x)  # without depth, what the network sees in the originals is true
    np.testing.assert_allclose(metric.measure(mirrored, alone, metric.reference(alone)), expected, atol=1e-4)
    flat = np.std(near, axis=(1, 2)) / np.ptp(near, axis=(1, 2))
    np.testing.assert_allclose(metric.measure(image_set(0 * x), real, reference), flat, rtol=1e-4)
    low, high = metric.interval(expected, reference)
    assert low < metric.aggregate(expected, reference) < high


def test_distances_and_networks_that_fail(tmp_path):
    from codi_tf.evaluation.metrics.network_depth import DEPTH_NETWORK, NetworkDepth

    x = np.stack([np.linspace(-0.9, 0.9, 48, dtype="float32").reshape(4, 4, 3)] * 2)
    nearness = (x[..., :1] + 2) * 3
    real = originals(x, truth={"depth": nearness})

    def distances(pixels):
        red = pixels[:, 0] * 0.229 + 0.485
        return 1 / (2 * red - 1 + 2)

    metric = NetworkDepth(distances, (4, 4), "depth")
    np.testing.assert_allclose(metric.measure(real, real, metric.reference(real)), 0, atol=1e-4)
    # An image whose map is not known, or not everywhere, does not end an evaluation.
    for unknown in (lambda p: np.full_like(p[:, 0], np.nan), lambda p: np.where(p[:, 0] > 0, np.nan, 1.0)):
        assert (NetworkDepth(unknown, (4, 4)).maps(real) == 0).all()
    holes = NetworkDepth(lambda p: np.where(p[:, 0] > p[:, 0].max() - 0.01, np.nan, p[:, 0]), (4, 4)).maps(real)
    assert np.isfinite(holes).all() and holes.min() == 0 and holes.max() == 1
    DEPTH_NETWORK.check(f"depth:{__file__}")
    with pytest.raises(UserError, match="--depth-network is depth:none.onnx: no such file; export a depth network"):
        DEPTH_NETWORK.check("depth:none.onnx")
