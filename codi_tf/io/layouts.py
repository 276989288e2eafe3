"""The keys and layouts of a network's weights in files, by the names of diffusers and transformers.

A file holds a variable under a key and with axes of its own. `Origin` says which key and which axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import keras

_NAMES: dict[str, str] = {
    "kernel": "weight",
    "embeddings": "weight",
    "gamma": "weight",
    "beta": "bias",
}  # Keras -> PyTorch


class Layout(NamedTuple):
    """The axes of a variable in a file.

    Attributes:
        axes: the variable's axes in the file's order; None: the same order.
        ones: how many axes of length 1 the file has at the end, which the variable does not have.
    """

    axes: tuple[int, ...] | None = None
    ones: int = 0

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in the file of a variable of this shape."""
        return (*(shape if self.axes is None else (shape[axis] for axis in self.axes)), *[1] * self.ones)


PLAIN = Layout()
DENSE = Layout((1, 0))  # [in, out] <- [out, in]
CONVOLUTION = Layout((3, 2, 0, 1))  # HWIO <- OIHW


@dataclass(frozen=True)
class Origin:
    """Where a file holds the value of a variable.

    Attributes:
        key: the tensor of the file.
        layout: its axes.
        part, parts: the value is part number `part` of `parts` equal parts along the tensor's first axis.
    """

    key: str
    layout: Layout
    part: int = 0
    parts: int = 1


Origins = Callable[[str, Layout], Origin]  # (a variable's key, its layout in PyTorch) -> where its value is


def key_of(variable: keras.Variable, network: keras.Model) -> str:
    """The key of a network's variable in a diffusers checkpoint: its path below the network."""
    *parents, name = str(variable.path).split(f"{network.name}/", 1)[1].split("/")
    return ".".join([*parents, _NAMES.get(name, name)])


def layout_of(variable: keras.Variable) -> Layout:
    """The layout that PyTorch gives the variable."""
    return {4: CONVOLUTION, 2: DENSE}.get(len(variable.shape), PLAIN) if variable.name == "kernel" else PLAIN
