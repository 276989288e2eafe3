"""Metrics against closed forms and against scikit-image and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from codi_tf.core.errors import UserError
from codi_tf.data import load_photos
from codi_tf.evaluation.numerics import frechet_distance, frechet_interval, mean_interval, psnr, sharpness, ssim


def images(seed: int = 0, *, height: int = 40, width: int = 56):
    """Two photos' windows and noisy versions of them, [2, H, W, 3] in [0, 1]."""
    photos = load_photos("heldout")
    windows = [photos[name][100 : 100 + height, 100 : 100 + width] / 255 for name in ("astronaut", "coffee")]
    clean = np.stack(windows)
    noise = np.random.default_rng(seed).normal(0, 0.1, clean.shape) * np.array([1, 0.3]).reshape(2, 1, 1, 1)
    return clean.astype("float32"), np.clip(clean + noise, 0, 1).astype("float32")


def sample_with(mean, covariance, seed: int = 0, count: int = 50):
    """Features [count, D] whose sample mean and covariance are exactly those given."""
    noise = np.random.default_rng(seed).normal(size=(count, len(mean)))
    noise -= noise.mean(axis=0)
    whitened = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise, rowvar=False))).T
    return whitened @ np.linalg.cholesky(covariance).T + mean


def covariance_of(seed: int, size: int):
    root = np.random.default_rng(seed).normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size)


# --- per image


def test_psnr_of_a_known_error():
    a = np.full((2, 4, 5, 3), 0.5)
    b = a + np.array([0.1, 0.01]).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(psnr(a, b), [20, 40], rtol=1e-12)
    assert np.isinf(psnr(a, a)).all()


def test_psnr_as_scikit_image():
    a, b = images()
    expected = [peak_signal_noise_ratio(x, y, data_range=1) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(psnr(a, b), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [(40, 56), (11, 11), (13, 30)])
def test_ssim_as_scikit_image(size):
    a, b = images(height=size[0], width=size[1])
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    expected = [
        structural_similarity(x, y, channel_axis=-1, **options)
        for x, y in zip(a.astype(float), b.astype(float), strict=True)
    ]
    assert min(expected) < 0.95  # there is something to get wrong
    np.testing.assert_allclose(ssim(a, b), expected, atol=1e-10)


def test_ssim_of_constant_images():
    """Without variance only the luminance term is left: (2 a b + C_1) / (a^2 + b^2 + C_1)."""
    a, b = np.full((1, 12, 12, 3), 0.2), np.full((1, 12, 12, 3), 0.6)
    np.testing.assert_allclose(ssim(a, b), (2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), rtol=1e-9)
    np.testing.assert_allclose(ssim(a, a), 1, rtol=1e-12)


def test_ssim_needs_a_window():
    with pytest.raises(UserError, match="10x20: SSIM needs sides of 11 pixels or more"):
        ssim(np.zeros((1, 10, 20, 3)), np.zeros((1, 10, 20, 3)))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_shapes_must_agree(metric):
    with pytest.raises(ValueError, match="differ in shape"):
        metric(np.zeros((1, 12, 12, 3)), np.zeros((2, 12, 12, 3)))


def test_sharpness_of_ramps():
    """Luma a x + b y has the gradient energy a^2 + b^2; green weighs 0.587 in the luma."""
    y, x = np.mgrid[:6, :9]
    ramp = 0.05 * x + 0.02 * y
    gray = np.repeat(ramp[..., None], 3, axis=-1)
    green = gray * [0, 1, 0]
    energy = 0.05**2 + 0.02**2
    np.testing.assert_allclose(sharpness(np.stack([gray, green])), [energy, energy * 0.587**2], rtol=1e-6)
    np.testing.assert_array_equal(sharpness(np.full((1, 4, 4, 3), 0.7)), 0)


def test_sharpness_wants_images():
    with pytest.raises(ValueError, match="sides of at least 2"):
        sharpness(np.zeros((4, 4, 3)))


# --- sets of images


def test_frechet_of_equal_and_of_shifted_sets():
    a = np.random.default_rng(0).normal(size=(30, 8))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-9)
    shift = np.linspace(-1, 2, 8)
    assert frechet_distance(a, a + shift) == pytest.approx(shift @ shift, rel=1e-9)


def test_frechet_of_commuting_gaussians():
    """Diagonal covariances: |m_a - m_b|^2 + sum (s_a - s_b)^2."""
    deviations_a, deviations_b = np.array([1.0, 2, 0.5]), np.array([3.0, 1, 0.5])
    a = sample_with(np.array([0.0, 1, 2]), np.diag(deviations_a**2), seed=1)
    b = sample_with(np.array([1.0, 1, 0]), np.diag(deviations_b**2), seed=2, count=80)
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + 4 + 1, rel=1e-9)


def test_frechet_of_gaussians_that_do_not_commute():
    mean_a, mean_b = np.zeros(6), np.linspace(0, 1, 6)
    s_a, s_b = covariance_of(3, 6), covariance_of(4, 6)
    assert np.abs(s_a @ s_b - s_b @ s_a).max() > 1
    distance = frechet_distance(sample_with(mean_a, s_a, seed=1), sample_with(mean_b, s_b, seed=2))
    root = scipy.linalg.sqrtm(s_a @ s_b).real
    expected = mean_b @ mean_b + np.trace(s_a + s_b - 2 * root)
    assert distance == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(sample_with(mean_b, s_b), sample_with(mean_a, s_a)) == pytest.approx(expected, rel=1e-9)


def test_frechet_with_fewer_samples_than_dimensions():
    """Singular covariances: of two sets in orthogonal planes, the traces add up."""
    a, b = np.zeros((3, 20)), np.zeros((3, 20))
    a[:, :2], b[:, 10:12] = [[1, 0], [0, 1], [-1, -1]], [[2, 0], [0, 2], [-2, -2]]
    assert frechet_distance(a, b) == pytest.approx(2 + 8, rel=1e-9)
    one_feature = np.array([[0.0], [2.0]])
    assert frechet_distance(one_feature, 3 * one_feature) == pytest.approx(2**2 + 2 * 2**2, rel=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((4, 3)), np.zeros((4, 2)), "features must be"),
        (np.zeros((1, 3)), np.zeros((4, 3)), "at least 2"),
        (np.zeros((4, 3)), np.full((4, 3), np.nan), "finite"),
    ],
)
def test_frechet_refuses(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)


def test_interval_is_paired_and_repeatable():
    a = np.random.default_rng(0).normal(size=(60, 4))
    low, high = frechet_interval(a, a + 0.5)  # pairs with one and the same shift: no spread at all
    assert low == pytest.approx(1, rel=1e-6) and high == pytest.approx(1, rel=1e-6)
    b = a + np.random.default_rng(1).normal(0.5, 0.5, size=a.shape)
    low, high = frechet_interval(a, b, seed=3)
    assert low < frechet_distance(a, b) < high
    assert frechet_interval(a, b, seed=3) == (low, high) != frechet_interval(a, b, seed=4)


def test_interval_covers_the_distance_of_the_population():
    """Of the nominal 90 %, intervals from 60 independent sets of 400 pairs should cover about 54."""
    covered = 0
    for seed in range(60):
        a = np.random.default_rng(seed).normal(size=(400, 2))
        b = 1.5 * a + 0.5 + 0.1 * np.random.default_rng(1000 + seed).normal(size=a.shape)
        truth = 2 * 0.5**2 + 2 * (np.sqrt(1.5**2 + 0.1**2) - 1) ** 2
        low, high = frechet_interval(a, b, seed=seed)
        covered += low <= truth <= high
    assert 45 <= covered <= 59


# --- against published implementations


@pytest.mark.parametrize(("count", "size"), [(400, 24), (20, 24)], ids=["many", "fewer than dimensions"])
def test_frechet_as_pytorch_fid_and_torch_fidelity(count, size):
    """On the same features: as many as nobody doubts, and fewer than dimensions."""
    from perception_peers import torch

    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    fidelity = pytest.importorskip("torch_fidelity.metric_fid")
    random = np.random.default_rng(0)
    a = np.maximum(random.normal(size=(count, size)) @ random.normal(size=(size, size)), 0)
    b = np.maximum(random.normal(size=(count + 10, size)) @ random.normal(size=(size, size)) + 0.5, 0)
    found = frechet_distance(a, b)
    statistics = [fidelity.fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    (expected,) = fidelity.fid_statistics_to_metric(*statistics, False).values()
    assert found == pytest.approx(expected, rel=1e-5)
    if count > size:
        (m_a, s_a), (m_b, s_b) = ((s["mu"], s["sigma"]) for s in statistics)
        assert found == pytest.approx(fid_score.calculate_frechet_distance(m_a, s_a, m_b, s_b), rel=1e-9)


def test_frechet_of_as_many_dimensions_as_inception_has():
    """2048 correlated dimensions of 64 images, as when a small study is measured; closed form: one scaling."""
    random = np.random.default_rng(0)
    a = np.maximum(random.normal(size=(64, 256)) @ random.normal(size=(256, 2048)), 0)
    spread = np.trace(np.cov(a, rowvar=False))
    assert frechet_distance(a, 3 * a) == pytest.approx(4 * np.sum(a.mean(axis=0) ** 2) + 4 * spread, rel=1e-6)


# --- the interval of a mean


def test_mean_interval_is_that_of_a_plain_bootstrap_and_repeatable():
    values = np.random.default_rng(0).gamma(2, size=200)
    low, high = mean_interval(values, seed=3)
    assert low < values.mean() < high
    assert mean_interval(values, seed=3) == (low, high) != mean_interval(values, seed=4)
    assert mean_interval(5 - 2 * values, seed=3) == pytest.approx((5 - 2 * high, 5 - 2 * low), rel=1e-12)
    random = np.random.default_rng(1)
    means = [random.choice(values, len(values)).mean() for _ in range(4000)]
    width = high - low
    assert np.abs(np.quantile(means, [0.05, 0.95]) - [low, high]).max() < 0.1 * width
    narrow = mean_interval(values, level=0.5, replicates=4000)
    assert np.abs(np.quantile(means, [0.25, 0.75]) - narrow).max() < 0.05 * width


def test_mean_interval_of_two_values_by_counting():
    """Of 0 and 1 drawn twice the means 0, 1/2, 1 have the probabilities 1/4, 1/2, 1/4."""
    assert mean_interval(np.array([0.0, 1.0]), level=0.6, replicates=4001) == (0, 1)
    assert mean_interval(np.array([0.0, 1.0]), level=0.4, replicates=4001) == (0.5, 0.5)


def test_mean_interval_covers_the_mean_of_the_population():
    """Of the nominal 90 %, intervals from 200 independent sets of 100 values should cover about 180."""
    sets = np.random.default_rng(0).gamma(2, size=(200, 100))
    intervals = np.array([mean_interval(values) for values in sets])
    assert 165 <= ((intervals[:, 0] <= 2) & (intervals[:, 1] >= 2)).sum() <= 192


@pytest.mark.parametrize("values", [np.zeros((3, 2)), np.zeros(1), np.array([1, np.inf])])
def test_mean_interval_refuses(values):
    with pytest.raises(ValueError, match="finite values"):
        mean_interval(values)
