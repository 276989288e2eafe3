"""`Form`: how graphs are written beside their weights: for which readers, and what they compute in."""

from __future__ import annotations

from dataclasses import dataclass

PORTABLE = "portable"  # the profile of standard operators alone
OPSETS = (21, 23)  # of that profile; 21 is the first with Gelu and GroupNormalization by channels, 23 has Attention
COMPUTES = ("float32", "float16")


@dataclass(frozen=True)
class Form:
    """What a graph is written for. The default is that of its format.

    Attributes:
        profile: the readers that it is for, one of the format's `profiles`; None: the first of them.
        opset: the version of ONNX's standard operators, one of OPSETS, for portable graphs; None: the first.
        compute: the number format of activations, one of COMPUTES.
        unrolled: whether the steps follow one another where the format has a loop.
    """

    profile: str | None = None
    opset: int | None = None
    compute: str = "float32"
    unrolled: bool = False

    @property
    def portable(self) -> bool:
        """Whether the graph has standard operators alone."""
        return self.profile == PORTABLE

    @property
    def in_half(self) -> bool:
        """Whether activations are float16."""
        return self.compute == "float16"

    @property
    def default_weights(self) -> str:
        """The weight format where none is named."""
        return "float16" if self.in_half else "float32"


PLAIN = Form()
