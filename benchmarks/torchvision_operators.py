"""Imported for its effect: torchvision can be imported beside a torch that is made for processors only.

Its public wheels are made for CUDA. Beside another torch its operators, which no network here uses, cannot be loaded,
and it (and transformers, which looks for it) is imported only if the two that it describes in Python are declared.
"""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("torchvision") is not None:
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
