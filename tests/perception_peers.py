"""The published networks that the tests of perception compare with: random weights that leave no layer asleep."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
torch.set_num_threads(1)


def awaken(module, seed: int = 0) -> None:
    """Random weights with which a network's activations neither vanish nor grow, and no two layers are alike."""
    random = torch.Generator().manual_seed(seed)

    def normal(like, deviation, mean=0.0):
        like.copy_(mean + deviation * torch.randn(like.shape, generator=random))

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.Conv2d):
                normal(part.weight, (2 / part.weight[0].numel()) ** 0.5)
                if part.bias is not None:
                    normal(part.bias, 0.1)
            elif isinstance(part, torch.nn.BatchNorm2d):
                normal(part.weight, 0.1, 1.0)
                normal(part.bias, 0.05)
                normal(part.running_mean, 0.05)
                part.running_var.copy_(0.5 + torch.rand(part.running_var.shape, generator=random))


def random_images(count: int, height: int, width: int, seed: int = 0):
    """Smooth images with noise, float32 [count, height, width, 3] in [-1, 1]."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn((count, 3, 4, 4), generator=random)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    noise = 0.3 * torch.randn((count, 3, height, width), generator=random)
    return (0.5 * smooth + noise).clamp(-1, 1).permute(0, 2, 3, 1).contiguous().numpy()


def channels_first(images):
    """[B, H, W, 3] -> a tensor [B, 3, H, W]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)
