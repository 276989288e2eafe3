"""The names that a config may use for what is registered elsewhere. Importing this loads no TensorFlow."""

from __future__ import annotations


def adapter_names() -> tuple[str, ...]:
    """The names of the adapters."""
    return ("mu", "controlnet", "t2i")
