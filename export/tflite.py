"""TFLite flatbuffer: for LiteRT, on phones and desktops. Built-in operators only."""

from __future__ import annotations

import collections
import tempfile
from pathlib import Path

import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from codi_tf.errors import UserError
from export.program import SamplerProgram
from export.run import load_tflite as load
from export.saved_model import OPTIONS

__all__ = ["load", "operators", "refuse_custom_operators", "stored_bytes", "write"]

_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def write(program: SamplerProgram, path: Path) -> None:
    """Convert the program to a flatbuffer with the signature `serving_default`.

    The weights are frozen and saved first: handing the traced function to the converter gives the same flatbuffer, but
    takes five times as long, and loses weights silently where a module does not track them.

    Raises:
        UserError: see `refuse_custom_operators`.
    """
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(tf.Module(), folder, signatures=program.trace_frozen(), options=OPTIONS)
        path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())
    refuse_custom_operators(path)


def refuse_custom_operators(path: Path) -> None:
    """Raises UserError for a flatbuffer with operators not built into LiteRT, Flex operators for example."""
    custom = [name for name in operators(path) if name.startswith("CUSTOM")]
    if custom:
        raise UserError(f"{path.name} needs operators that are not built into LiteRT: {', '.join(custom)}; use onnx")


def operators(path: Path) -> collections.Counter[str]:
    """How often each operator occurs in a flatbuffer; one that is not built in counts as "CUSTOM name"."""
    model = _read(path)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    names = [
        f"CUSTOM {code.CustomCode().decode()}" if code.CustomCode() else _NAMES[code.BuiltinCode()] for code in codes
    ]
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    return collections.Counter(
        names[graph.Operators(i).OpcodeIndex()] for graph in graphs for i in range(graph.OperatorsLength())
    )


def stored_bytes(path: Path) -> int:
    """Bytes of all constants in a flatbuffer."""
    model = _read(path)
    return sum(model.Buffers(i).DataLength() for i in range(model.BuffersLength()))


def _read(path: Path) -> schema.Model:
    return schema.Model.GetRootAs(path.read_bytes(), 0)
