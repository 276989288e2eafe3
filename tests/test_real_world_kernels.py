"""The blur kernels of the Real-ESRGAN degradation: their families and parameters as often as the options say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from real_world_draws import assert_share, assert_uniform, draws
from scipy import special, stats

from codi_tf.tasks.degradations import gaussian_kernel, plateau_kernel, sinc_kernel
from codi_tf.tasks.real_world import KERNELS, RealWorld


def kernels(task, count, which=0):
    return draws(task.rounds[which].kernel, count)


def only(kind, suffix="", **options):
    """A task with one kind of blur in a round."""
    weights = tuple(float(name == kind) for name in KERNELS) if kind in KERNELS else (1.0,) * len(KERNELS)
    return RealWorld(**{"kernel_prob" + suffix: weights, "sinc_prob" + suffix: float(kind == "sinc")} | options)


def test_kernels_have_energy_1_and_all_odd_sizes():
    for which in (0, 1):
        drawn = kernels(RealWorld(), 320, which)
        sums = [kernel.sum(dtype=np.float64) for kernel in drawn]
        np.testing.assert_allclose(sums, 1, atol=1e-5)
        sizes = np.array([len(kernel) for kernel in drawn])
        assert set(sizes) == {7, 9, 11, 13, 15, 17, 19, 21}
        for size in set(sizes):
            assert_share(sizes == size, 1 / 8)
    assert {len(kernel) for kernel in kernels(RealWorld(kernel_range=(5, 9)), 40)} == {5, 7, 9}


@pytest.mark.parametrize("which", [0, 1])
def test_kinds_are_drawn_by_their_weights(which):
    """Only sinc filters have negative weights; only isotropic kernels are their own transpose."""
    drawn = kernels(RealWorld(), 600, which)
    sinc = np.array([(kernel < 0).any() for kernel in drawn])
    same = np.array([np.allclose(kernel, kernel.T, atol=1e-6) for kernel in drawn])
    assert_share(sinc, 0.1)
    assert_share(same[~sinc], 0.69)  # 0.45 + 0.12 + 0.12: also where an image is hardly blurred at all
    assert all(same[sinc])


@pytest.mark.parametrize("suffix", ["", "2"])
def test_families_are_drawn_by_their_weights(suffix):
    """With all strengths known, a kernel tells its family."""
    options = {"blur_sigma": (2, 2), "betag_range": (3, 3), "betap_range": (2, 2), "sinc_prob": 0.2}
    weights = {"kernel_prob" + suffix: (1, 2, 2, 1, 1, 3)}
    task = RealWorld(kernel_range=(9, 9), **{name + suffix: value for name, value in options.items()}, **weights)
    sigma = (2.0, 2.0)
    families = [gaussian_kernel(9, sigma), gaussian_kernel(9, sigma, beta=3.0), plateau_kernel(9, sigma, beta=2.0)]
    drawn = kernels(task, 300, len(suffix))
    found = [[np.allclose(kernel, family, atol=1e-6) for family in families] for kernel in drawn]
    for share, of_family in zip((0.24, 0.24, 0.32), np.transpose(found), strict=True):
        assert_share(of_family, share)
    assert_share([(kernel < 0).any() for kernel in drawn], 0.2)


@pytest.mark.parametrize(("which", "high"), [(0, 3.0), (1, 1.5)])
def test_isotropic_gaussians(which, high):
    suffix = ("", "2")[which]
    drawn = kernels(only("iso", suffix, kernel_range=(21, 21)), 300, which)
    rows = [kernel.sum(axis=0) for kernel in drawn]
    grid = np.linspace(0.15, 3.1, 1000)
    peaks = [1 / np.exp(-0.5 * (np.arange(-10, 11) / sigma) ** 2).sum() for sigma in grid]
    sigmas = np.interp([-row[10] for row in rows], -np.array(peaks), grid)
    sigmas = sigmas[sigmas > 0.3]  # below, all kernels are one pixel
    assert_uniform(sigmas, 0.3, high)
    for kernel, row in zip(drawn[:20], rows, strict=False):
        sigma = np.interp(-row[10], -np.array(peaks), grid)
        np.testing.assert_allclose(kernel, gaussian_kernel(21, (sigma, sigma)), atol=2e-3)


def test_anisotropic_gaussians_have_two_sigmas_and_any_direction():
    drawn = kernels(only("aniso", kernel_range=(21, 21), blur_sigma=(0.7, 3.0)), 300)
    angles, sigmas = [], []
    for kernel in drawn:
        middle = np.log(kernel[10, 10].astype(np.float64))
        xx, yy = -2 * (np.log(kernel[10, 11]) - middle), -2 * (np.log(kernel[11, 10]) - middle)
        xy = (-2 * (np.log(kernel[11, 11]) - middle) - xx - yy) / 2
        values, vectors = np.linalg.eigh(np.linalg.inv([[xx, xy], [xy, yy]]))
        sigma, direction = np.sqrt(values), vectors[:, 1]
        angle = math.atan2(direction[1], direction[0]) % math.pi
        expected = gaussian_kernel(21, sigma[::-1].astype(np.float32), np.float32(angle))
        np.testing.assert_allclose(kernel, expected, atol=1e-4)
        angles.append(angle)
        sigmas.append(sigma)
    assert_uniform(angles, 0, math.pi)
    uniform = (np.array(sigmas) - 0.7) / 2.3
    assert stats.kstest(uniform.min(axis=1), stats.beta(1, 2).cdf).pvalue > 1e-4  # the smaller and the larger of two
    assert stats.kstest(uniform.max(axis=1), stats.beta(2, 1).cdf).pvalue > 1e-4


@pytest.mark.parametrize(
    ("kind", "suffix", "bounds"),
    [("generalized", "", (0.5, 4)), ("generalized", "2", (0.6, 3)), ("plateau", "", (0.5, 2))],
)
def test_shapes_are_half_below_1_and_half_above(kind, suffix, bounds):
    options = {"kernel_range": (9, 9), "blur_sigma" + suffix: (2, 2)}
    options["betag_range" + suffix if kind == "generalized" else "betap_range" + suffix] = bounds
    drawn = kernels(only(kind + "_iso", suffix, **options), 300, len(suffix))
    shapes = []
    for kernel in drawn:
        ratio = np.float64(kernel[4, 5]) / kernel[4, 4]
        power = -2 * np.log(ratio) if kind == "generalized" else 1 / ratio - 1
        shape = np.log(power) / np.log(1 / 4)
        function = gaussian_kernel if kind == "generalized" else plateau_kernel
        np.testing.assert_allclose(kernel, function(9, (2.0, 2.0), beta=np.float32(shape)), atol=1e-5)
        shapes.append(shape)
    shapes = np.array(shapes)
    assert_share(shapes < 1, 0.5)
    assert_uniform(shapes[shapes < 1], bounds[0], 1)
    assert_uniform(shapes[shapes >= 1], 1, bounds[1])


def test_the_plateaus_of_the_paper_have_shape_1_half_the_time():
    drawn = kernels(only("plateau_iso", kernel_range=(9, 9), blur_sigma=(2, 2)), 200)
    ordinary = plateau_kernel(9, (2.0, 2.0)).numpy()
    assert_share([np.allclose(kernel, ordinary, atol=1e-6) for kernel in drawn], 0.5)


def test_anisotropic_kinds_are_their_own_formula():
    for kind, function in (("generalized_aniso", gaussian_kernel), ("plateau_aniso", plateau_kernel)):
        options = {"kernel_range": (11, 11), "blur_sigma": (2, 2), "betag_range": (3, 3), "betap_range": (3, 3)}
        for kernel in kernels(only(kind, **options), 5):  # both sigmas alike: no direction
            np.testing.assert_allclose(kernel, function(11, (2.0, 2.0), beta=3.0), atol=1e-6)
        apart = kernels(only(kind), 60)
        assert np.mean([np.allclose(kernel, kernel.T, atol=1e-6) for kernel in apart]) < 0.2


@pytest.mark.parametrize(("size", "low"), [(11, math.pi / 3), (13, math.pi / 5)])
def test_cutoffs_of_sinc_filters(size, low):
    grid = np.linspace(0.5, math.pi, 2000)
    ratio = 2 * special.j1(grid) / grid  # of the neighbour of the middle to the middle, falls
    cutoffs = []
    for kernel in kernels(only("sinc", kernel_range=(size, size)), 250):
        middle = size // 2
        cutoff = np.interp(-kernel[middle, middle + 1] / kernel[middle, middle], -ratio, grid)
        np.testing.assert_allclose(kernel, sinc_kernel(size, np.float32(cutoff)), atol=1e-4)
        cutoffs.append(cutoff)
    assert_uniform(cutoffs, low, math.pi)
