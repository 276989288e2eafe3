"""A network's weights on disk: safetensors with the names and layouts of diffusers, read strictly.

The path of a variable below its network is its key. Its `Origin` tells where its value lies in a file that names or
lays out things differently. All is checked before a value is read, and values are read one by one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.io.tensor_files import StoredTensor, TensorToWrite, listed, make_room, read_header, write_tensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = "config.json"
FORMATS = ("float32", "float16", "bfloat16")
_NAMES = {"kernel": "weight", "embeddings": "weight", "gamma": "weight", "beta": "bias"}  # Keras -> PyTorch


class Layout(NamedTuple):
    """How a variable's value lies in a file.

    Attributes:
        axes: the variable's axes in the order that they have in the file; None: the same.
        ones: further axes of length 1, at the end, that only the file has.
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
    """Where a variable's value lies.

    Attributes:
        key: the tensor of the file.
        layout: how it lies there.
        part, parts: the tensor's first axis is cut into `parts` equal parts, of which it is number `part`.
    """

    key: str
    layout: Layout
    part: int = 0
    parts: int = 1


Origins = Callable[[str, Layout], Origin]  # (a variable's key, its layout in PyTorch) -> where its value lies


def key_of(variable, network) -> str:
    """The key of a network's variable in a diffusers checkpoint."""
    *parents, name = variable.path.split(f"{network.name}/", 1)[1].split("/")
    return ".".join([*parents, _NAMES.get(name, name)])


def layout_of(variable) -> Layout:
    """The layout that PyTorch gives the variable."""
    return {4: CONVOLUTION, 2: DENSE}.get(len(variable.shape), PLAIN) if variable.name == "kernel" else PLAIN


def state_dict(network, dtype: str = "float32") -> dict[str, np.ndarray]:
    """All weights of a built network under their keys, in PyTorch's layouts."""
    return {key: tensor.values() for key, tensor in _tensors_of(network, dtype).items()}


def save_network(
    network,
    folder: Path,
    *,
    dtype: str = "float32",
    extra_config: dict | None = None,
    file: str = WEIGHTS,
    prefix: str = "",
    zeros: Mapping[str, tuple[int, ...]] | None = None,
    report: Callable[[int], None] | None = None,
) -> None:
    """Write `config.json` and the weights of a built network into a folder, which is made.

    Args:
        network: the network.
        folder: where.
        dtype: the format of the weights on disk: "float32", "float16" or "bfloat16".
        extra_config: what goes into config.json beside the network's own configuration.
        file: the name of the weight file.
        prefix: what stands before every key.
        zeros: tensors of zeros that are written besides: key -> shape.
        report: called with the bytes written so far.

    Raises:
        UserError: an unknown format, or a value that it cannot hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in network.get_config().items() if key != "name"}
    write_json(folder / CONFIG, {**(extra_config or {}), **config})
    tensors = {prefix + key: tensor for key, tensor in _tensors_of(network, dtype).items()}
    for key, shape in (zeros or {}).items():
        tensors[key] = TensorToWrite(
            _numpy_dtype(dtype), shape, functools.partial(np.zeros, shape, _numpy_dtype(dtype))
        )
    write_tensors(folder / file, tensors, report=report)


def load_network(network, folder: Path) -> None:
    """Set every weight of a built network from a folder's safetensors file; nothing is assigned unless all fits.

    Raises:
        UserError: for a missing, truncated or foreign file, with what is missing, left over or of another shape.
    """
    path = folder / WEIGHTS
    stored, _ = read_header(path)
    origins = match(network, stored, path)
    room = _room_for(stored, (origin for _, origin in origins))
    # Only numbers that the variable's format cannot hold can go wrong now: they are looked for before.
    for variable, origin in origins:
        if _narrows(stored[origin.key].dtype, variable.dtype):
            _value(stored[origin.key], origin, variable.dtype, room)
    for variable, origin in origins:
        variable.assign(_value(stored[origin.key], origin, variable.dtype, room))


def make_from(
    make: Callable[[], keras.Model], stored: Mapping[str, StoredTensor], path: Path, origins: Origins = Origin
) -> keras.Model:
    """A network whose variables are made with the stored values.

    Drawing random numbers that are overwritten at once would take several times as long as reading.

    Args:
        make: makes and builds the network.
        stored: the tensors, all of which must be used.
        path: where they are from, for error messages.
        origins: tells where a variable's value lies; without it, under the variable's key in PyTorch's layout.

    Raises:
        UserError: with what is missing, left over, of another shape or out of the range of the variable's format.
    """
    failures: list[UserError] = []

    def initial(shape, dtype, *, origin: Origin | None):
        if not failures:
            try:
                return _value(stored[origin.key], origin, dtype, room)
            except UserError as error:
                failures.append(error)
        return _nothing(shape, dtype)

    with keras.StatelessScope():  # Keras calls the initialisers when this is left
        network = make()
        try:
            found = match(network, stored, path, origins)
            room = _room_for(stored, (origin for _, origin in found))
        except UserError as error:
            failures.append(error)
            found = [(variable, None) for variable in network.variables]
        for variable, origin in found:
            variable._initializer = functools.partial(initial, origin=origin)
    if failures:
        raise failures[0]
    return network


def shapes_of(make: Callable[[], keras.Model]) -> tuple[dict[str, tuple[int, ...]], dict]:
    """Key -> shape in a file of every weight of a network, and its configuration; no weight is made."""
    with keras.StatelessScope():
        network = make()
        for variable in network.variables:
            variable._initializer = _nothing
    shapes = {key_of(v, network): layout_of(v).stored_shape(tuple(v.shape)) for v in network.variables}
    return shapes, {key: value for key, value in network.get_config().items() if key != "name"}


def match(
    network, stored: Mapping[str, StoredTensor], path: Path, origins: Origins = Origin
) -> list[tuple[keras.Variable, Origin]]:
    """Every variable of a network with its origin, once all is known to fit.

    Raises:
        UserError: with up to five of the tensors that are missing, left over, of another shape or of no weights' type.
    """
    found = [(variable, origins(key_of(variable, network), layout_of(variable))) for variable in network.variables]
    wanted = {origin.key: _stored_shape(variable, origin) for variable, origin in found}
    _refuse(path, "missing", sorted(wanted.keys() - stored.keys()))
    _refuse(path, "left over", sorted(stored.keys() - wanted.keys()))
    other = {key: shape for key, shape in wanted.items() if stored[key].shape != shape}
    shapes = [f"{key} {stored[key].shape}, wanted {shape}" for key, shape in other.items()]
    _refuse(path, "of another shape", shapes)
    types = [f"{key} {stored[key].dtype}" for key in wanted if stored[key].dtype.name not in FORMATS]
    _refuse(path, f"of another type than {', '.join(FORMATS)}", types)
    return found


def check_format(dtype: str) -> None:
    """Refuses an unknown format of weights on disk. Raises UserError."""
    if dtype not in FORMATS:
        raise UserError(f"dtype is {dtype!r}: use one of {', '.join(FORMATS)}")


def copy_weights(source, target) -> None:
    """Copy all weights of a network to another one of the same shape."""
    values = {key_of(variable, source): variable for variable in source.variables}
    for variable in target.variables:
        variable.assign(values[key_of(variable, target)])


def read_json(path: Path) -> dict:
    """A JSON object from a file. Raises UserError for a missing or broken file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is {path.parent} a complete model folder?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); copy or make it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object; copy or make it again")
    return value


def write_json(path: Path, value: dict) -> None:
    """Write a JSON object, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def folder_sha256(folder: Path) -> str:
    """SHA-256 over names and contents of all weights, JSON and text files below a folder, in order of their names."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json", ".txt")):
        digest.update(path.relative_to(folder).as_posix().encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _nothing(shape, dtype) -> tf.Tensor:
    """The value of a variable of a network that will not be used."""
    return tf.zeros((), dtype)


def _stored_shape(variable, origin: Origin) -> tuple[int, ...]:
    first, *others = origin.layout.stored_shape(tuple(variable.shape))
    return (first * origin.parts, *others)


def _tensors_of(network, dtype: str) -> dict[str, TensorToWrite]:
    check_format(dtype)
    tensors = {}
    for variable in network.variables:
        key, layout = key_of(variable, network), layout_of(variable)
        values = functools.partial(_written, variable, key, layout, _numpy_dtype(dtype))
        tensors[key] = TensorToWrite(_numpy_dtype(dtype), layout.stored_shape(tuple(variable.shape)), values)
    return tensors


def _written(variable, key: str, layout: Layout, dtype: np.dtype) -> np.ndarray:
    value = keras.ops.convert_to_numpy(variable)
    with np.errstate(over="ignore"):  # said below, and better
        written = value.astype(dtype)
    if _narrows(value.dtype, dtype.name) and np.isfinite(value).all() and not np.isfinite(written).all():
        raise UserError(f"{key} has values beyond the range of {dtype.name}; save it as float32")
    return np.asarray(written if layout.axes is None else written.transpose(layout.axes), order="C")


def _value(stored: StoredTensor, origin: Origin, dtype: str, room: np.ndarray) -> tf.Tensor:
    """A variable's value: read, in Keras' layout and the variable's format."""
    axes, ones = origin.layout
    if ones:
        stored = stored._replace(shape=stored.shape[:-ones])
    place = {"part": origin.part, "parts": origin.parts}
    if axes is None:
        value = _shared(stored.read(**place))
    else:
        order = [axes.index(axis) for axis in range(len(axes))]
        long = [axis for axis in order if stored.shape[axis] > 1]
        if long == sorted(long):  # nothing moves, and TensorFlow would go on sharing the room
            value = tf.reshape(_shared(stored.read(**place)), [stored.shape[axis] for axis in order])
        else:
            with tf.device("CPU"):  # at once: the room is used again
                value = tf.transpose(_shared(stored.read(**place, room=room)), order)
    if stored.dtype.itemsize == 2:
        value = tf.bitcast(value, stored.dtype.name)
    if value.dtype == dtype:
        return value
    value = tf.cast(value, dtype)
    if _narrows(stored.dtype, dtype) and not tf.reduce_all(tf.math.is_finite(value)):
        raise UserError(
            f"{stored.path}: {origin.key} has values beyond the range of {dtype}; keep the weights in float32"
        )
    return value


def _shared(array: np.ndarray) -> tf.Tensor:
    """A tensor in the very memory of an array; numbers of 16 bits come as integers, for DLPack knows no bfloat16."""
    array = array.view("uint16") if array.dtype.itemsize == 2 else array
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _room_for(stored: Mapping[str, StoredTensor], origins: Iterable[Origin]) -> np.ndarray:
    """Memory for the largest of the tensors whose axes change places."""
    return make_room(max((stored[o.key].nbytes for o in origins if o.layout.axes is not None), default=0))


def _numpy_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def _narrows(stored: np.dtype, dtype: str) -> bool:
    """Whether a format has finite numbers that are infinite in another."""
    return float(ml_dtypes.finfo(stored).max) > float(ml_dtypes.finfo(_numpy_dtype(dtype)).max)


def _refuse(path: Path, what: str, keys: list[str]) -> None:
    if keys:
        raise UserError(f"{path}: {len(keys)} weights {what}: {listed(keys)}; the file belongs to another network")
