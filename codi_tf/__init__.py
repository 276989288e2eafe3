"""CoDi, conditional diffusion distillation, in TensorFlow and Keras 3."""

from __future__ import annotations

import importlib

from codi_tf.core.quiet import check_backend

__version__ = "0.1.0"

_PUBLIC = {
    "CoDi": "codi_tf.model",
    "load": "codi_tf.model",
    "load_stable_diffusion": "codi_tf.checkpoints.stable_diffusion",
    "save_stable_diffusion": "codi_tf.checkpoints.stable_diffusion",
    "load_controlnet": "codi_tf.adapters.controlnet",
    "load_t2i_adapter": "codi_tf.adapters.t2i",
    "load_decoder": "codi_tf.checkpoints.tiny_decoder",
    "TextToImage": "codi_tf.inference.text_to_image",
    "ConditionalDistillation": "codi_tf.methods.codi",
    "Finetune": "codi_tf.methods.finetune",
    "Consistency": "codi_tf.methods.consistency",
    "Guided": "codi_tf.methods.guided",
    "UserError": "codi_tf.core.errors",
    "read_image": "codi_tf.io.images",
    "write_png": "codi_tf.io.images",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    # Names are looked up when they are used, so that the parts that need no TensorFlow can be imported without it.
    if name not in _PUBLIC:
        raise AttributeError(f"module 'codi_tf' has no attribute {name!r}")
    check_backend()
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted(__all__)
