"""Importing this makes torchvision importable with a CPU build of torch.

torchvision's public wheels are built for CUDA. With another torch, its operators (which no network here uses) cannot be
loaded, and importing it (as transformers does) fails unless the two operators that it describes in Python are declared.
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
