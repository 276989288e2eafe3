"""Small decoders, ours and those of diffusers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import codi_tf

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
torch.set_num_threads(1)

ROOT = Path(codi_tf.__file__).parents[1]
SMALL = {"decoder_block_out_channels": (8, 8, 8), "num_decoder_blocks": (1, 2, 1)}  # for latents 4 times smaller


def decoded(peer, z: np.ndarray):
    with torch.no_grad():
        return peer.decode(torch.tensor(z.transpose(0, 3, 1, 2))).sample
