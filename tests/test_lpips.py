"""LPIPS against the `lpips` package: its own linear weights, random features."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf
from perception_peers import awaken, channels_first, random_images, torch

from codi_tf.core.errors import UserError
from codi_tf.diffusion.losses import perceptual_distance
from codi_tf.evaluation.perception.lpips import Lpips, load_lpips

lpips = pytest.importorskip("lpips")
safetensors_torch = pytest.importorskip("safetensors.torch")


def peer_of(net: str):
    """The package's network with its own linear weights and random features."""
    peer = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    awaken(peer.net)
    return peer


@pytest.fixture(scope="module", params=["alex", "vgg"])
def both(request, tmp_path_factory):
    """(the peer, ours read from the file that it writes)."""
    peer = peer_of(request.param)
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    safetensors_torch.save_model(peer, str(path))
    return peer, load_lpips(path)


def peer_distance(peer, a, b) -> np.ndarray:
    with torch.no_grad():
        return peer(channels_first(a), channels_first(b)).reshape(-1).numpy()


def near(found, expected) -> bool:
    return np.abs(np.asarray(found) - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("size", [(64, 64), (35, 31), (50, 79)])
def test_the_distance_is_that_of_the_package(both, size):
    peer, ours = both
    a, b = random_images(3, *size), random_images(3, *size, seed=1)
    b[1] = 0.9 * a[1]
    found = ours.distance(a, b)
    assert found.dtype == "float32" and found.shape == (3,)
    expected = peer_distance(peer, a, b)
    assert expected.min() > 0 and expected.max() > 2 * expected.min()
    assert near(found, expected)


def test_equal_images_have_no_distance(both):
    a, b = random_images(2, 40, 40), random_images(2, 40, 40, seed=1)
    ours = both[1]
    np.testing.assert_array_equal(ours.distance(a, a), 0)
    np.testing.assert_allclose(ours.distance(a, b), ours.distance(b, a), rtol=1e-6)


def test_maps_make_it_a_loss_with_the_gradient_of_the_package(both):
    peer, ours = both
    a, b = random_images(2, 40, 40), random_images(2, 40, 40, seed=1)
    distance = perceptual_distance(tf.identity, ours.maps)
    x_hat = tf.constant(b)
    with tf.GradientTape() as tape:
        tape.watch(x_hat)
        found = distance(tf.constant(a), x_hat)
        loss = tf.reduce_sum(found)
    theirs = torch.from_numpy(b).requires_grad_()
    peer(channels_first(a), theirs.permute(0, 3, 1, 2)).sum().backward()
    assert near(found, peer_distance(peer, a, b))
    assert near(tape.gradient(loss, x_hat), theirs.grad.numpy())
    assert not ours.trainable_variables


def test_gradients_are_finite_where_all_channels_are_zero(both):
    net = both[1].net
    ours = Lpips(net=net)
    ours.build()
    for variable in ours.variables:
        variable.assign(tf.ones_like(variable))
    ours.stages[0][-1].bias.assign(-1e6 * tf.ones_like(ours.stages[0][-1].bias))
    x = tf.zeros([1, 40, 40, 3])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = sum(tf.reduce_sum(f) for f in ours.maps(x))
    assert np.isfinite(loss) and np.isfinite(tape.gradient(loss, x)).all()


def test_a_file_with_all_of_the_package_s_keys(both, tmp_path):
    """The package's state dict has the linear weights under two names."""
    peer, ours = both
    state = {key: value.clone() for key, value in peer.state_dict().items()}
    assert "lins.0.model.1.weight" in state
    for part in ("all", "lins"):
        kept = {key: value for key, value in state.items() if part == "all" or not re.match(r"lin\d", key)}
        safetensors_torch.save_file(kept, tmp_path / "a.safetensors")
        again = load_lpips(tmp_path / "a.safetensors")
        for ours_variable, variable in zip(ours.variables, again.variables, strict=True):
            np.testing.assert_array_equal(ours_variable, variable)


def test_too_small_images_are_refused_and_the_smallest_are_not(both):
    peer, ours = both
    side = ours.trunk.smallest
    a, b = random_images(1, side, side + 3), random_images(1, side, side + 3, seed=1)
    assert near(ours.distance(a, b), peer_distance(peer, a, b))
    with pytest.raises(UserError, match=f"needs sides of {side} pixels or more"):
        ours.distance(a[:, 1:], b[:, 1:])


def test_other_files_are_refused_in_one_line(tmp_path):
    state = {key: value.clone() for key, value in peer_of("alex").state_dict().items()}
    path = tmp_path / "a.safetensors"

    def refused(changes: dict, path=path) -> str:
        kept = {key: value for key, value in {**state, **changes}.items() if value is not None}
        safetensors_torch.save_file(kept, path)
        with pytest.raises(UserError) as caught:
            load_lpips(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "1 weights missing: net.slice3.6.bias" in refused({"net.slice3.6.bias": None})
    assert "1 weights left over: net.slice6.11.bias" in refused({"net.slice6.11.bias": torch.zeros(3)})
    assert "of another shape: net.slice1.0.bias (63,)" in refused({"net.slice1.0.bias": torch.zeros(63)})
    names = ("lin2.model.1.weight", "lins.2.model.1.weight")
    assert "lin2.model.1.weight has -1, LPIPS has no" in refused(
        {name: torch.full((1, 384, 1, 1), -1.0) for name in names}
    )
    torch.save(state, tmp_path / "alex.pth")
    with pytest.raises(UserError, match="alex.pth: a pickle"):
        load_lpips(tmp_path / "alex.pth")
    with pytest.raises(UserError, match="no such weight file"):
        load_lpips(tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="unknown net 'squeeze': use one of alex, vgg"):
        Lpips(net="squeeze")
