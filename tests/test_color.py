"""Color alignment: closed forms, the same steps in PyTorch, memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from codi_tf.core.errors import UserError
from codi_tf.io.color import adain, wavelet

SIZES = [(1, 1), (3, 40), (70, 33), (600, 21)]  # smaller than the coarsest level's reach, and of several bands


def images(height, width):
    random = np.random.default_rng(0)
    return [random.uniform(size=(height, width, 3)).astype("float32") ** power for power in (1.0, 3.0)]


@pytest.mark.parametrize("size", SIZES)
def test_wavelet_is_its_definition(size):
    """Both images decomposed with dilated 3 x 3 convolutions, edges replicated, and their parts put together."""
    torch = pytest.importorskip("torch")
    image, reference = images(*size)
    kernel = torch.tensor(np.outer([1, 2, 1], [1, 2, 1]) / 16.0, dtype=torch.float64).expand(3, 1, 3, 3)

    def low(pixels):
        values = torch.tensor(pixels, dtype=torch.float64).permute(2, 0, 1)[None]
        for distance in (1, 2, 4, 8, 16):
            padded = torch.nn.functional.pad(values, [distance] * 4, mode="replicate")
            values = torch.nn.functional.conv2d(padded, kernel, groups=3, dilation=distance)
        return values[0].permute(1, 2, 0).numpy()

    made = wavelet(image, reference)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, image - low(image) + low(reference), atol=2e-6)


def test_wavelet_takes_back_a_tint_and_keeps_details():
    _, reference = images(64, 48)
    np.testing.assert_allclose(wavelet(reference + np.float32([0.1, -0.2, 0.0]), reference), reference, atol=1e-6)
    _, reference = images(100, 80)
    checks = np.float32(0.1) * (-1.0) ** np.add.outer(np.arange(100), np.arange(80))[..., None]
    detailed = (reference + checks).astype("float32")  # the finest level takes the checks for detail, but at the edges
    inner = np.s_[31:-31, 31:-31]
    np.testing.assert_allclose(wavelet(detailed, reference)[inner], detailed[inner], atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_adain_is_its_definition(size):
    image, reference = images(*size)
    (mean, sigma), (target, sigma_r) = (
        (p.mean(axis=(0, 1), dtype=np.float64), np.sqrt(p.var(axis=(0, 1), dtype=np.float64) + 1e-5))
        for p in (image, reference)
    )
    made = adain(image, reference)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, (image - mean) / sigma * sigma_r + target, atol=1e-5)
    np.testing.assert_allclose(made.mean(axis=(0, 1)), target, atol=1e-5)
    np.testing.assert_allclose(adain(image, image), image, atol=1e-6)


def test_adain_of_a_flat_image_is_the_references_mean():
    _, reference = images(20, 20)
    made = adain(np.full_like(reference, 0.3), reference)
    np.testing.assert_allclose(made, np.broadcast_to(reference.mean(axis=(0, 1)), made.shape), atol=1e-5)


@pytest.mark.parametrize("align", [wavelet, adain])
def test_memory_is_that_of_the_result(align):
    image, reference = images(4096, 128)
    tracemalloc.start()
    result = align(image, reference)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.nbytes <= peak < 1.75 * result.nbytes


@pytest.mark.parametrize("align", [wavelet, adain])
def test_sizes_must_agree(align):
    with pytest.raises(UserError, match=r"an image of \(3, 4, 3\) and a reference of \(4, 3, 3\)"):
        align(np.zeros((3, 4, 3), np.float32), np.zeros((4, 3, 3), np.float32))
