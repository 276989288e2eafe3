"""Saving and loading a network's weights: safetensors files with the names and layouts of diffusers.

Reading is strict: keys, shapes, formats and ranges are checked before any value is assigned. Values are read one at a
time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType

import keras
import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.core.formats import FORMATS, INTEGERS, STORED, check_format, narrows, numpy_dtype
from codi_tf.core.keras_internals import set_initializer
from codi_tf.io.changes import change_to_write, with_changes
from codi_tf.io.json_files import write_json
from codi_tf.io.layouts import Origin, Origins, key_of, layout_of
from codi_tf.io.scaled import scaled_to_write, with_scales
from codi_tf.io.tensor_files import TensorToWrite, listed, read_header, write_tensors
from codi_tf.io.values import Stored, read_value, room_for, value_to_write

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = "config.json"
NO_STARTS: Mapping[str, Stored] = MappingProxyType({})


def state_dict(network: keras.Model, dtype: str = "float32") -> dict[str, np.ndarray]:
    """All weights of a built network under their keys, in PyTorch's layouts. Raises UserError as `save_network`."""
    return {key: tensor.values() for key, tensor in _tensors_of(network, dtype).items()}


def save_network(
    network: keras.Model,
    folder: Path,
    *,
    dtype: str = "float32",
    extra_config: dict | None = None,
    file: str = WEIGHTS,
    prefix: str = "",
    implied: Collection[str] = (),
    zeros: Mapping[str, tuple[int, ...]] | None = None,
    starts: Mapping[str, Stored] = NO_STARTS,
    report: Callable[[int], None] | None = None,
) -> None:
    """Write `config.json` and the weights of a network into a folder; makes the folder.

    Args:
        network: a built network.
        folder: the folder to write to.
        dtype: the format of the weights on disk, one of `STORED`. With "int8", weights of one axis are float32; with
            "int4", these are too, others that have a start are changes of it, and what is left is int8.
        extra_config: further entries of config.json.
        file: the name of the weight file.
        prefix: the beginning of every key.
        implied: entries of the network's configuration that are left out of config.json.
        zeros: key -> shape of further tensors, which are zero.
        starts: key -> tensor that the weight started from; needed to read the changes again.
        report: called with the number of bytes written so far.

    Raises:
        UserError: an unknown format, or a value that it cannot hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in network.get_config().items() if key not in ("name", *implied)}
    write_json(folder / CONFIG, {**(extra_config or {}), **config})
    tensors = {prefix + key: tensor for key, tensor in _tensors_of(network, dtype, starts).items()}
    for key, shape in (zeros or {}).items():
        tensors[key] = TensorToWrite(numpy_dtype(dtype), shape, functools.partial(np.zeros, shape, numpy_dtype(dtype)))
    write_tensors(folder / file, tensors, report=report)


def load_network(network: keras.Model, folder: Path, *, starts: Mapping[str, Stored] = NO_STARTS) -> None:
    """Load every weight of a built network from a folder's safetensors file. Assigns nothing unless everything fits.

    `starts`: key -> tensor that the file may hold a change of, see `save_network`.

    Raises:
        UserError: the file is missing, truncated or of another network; names the weights that are missing, left over
            or of another shape.
    """
    path = folder / WEIGHTS
    stored = with_changes(with_scales(read_header(path)[0]), starts)
    origins = match(network, stored, path)
    room = room_for(stored, (origin for _, origin in origins))
    # The only remaining error is a number that the variable's format cannot hold. Look for it before assigning.
    for variable, origin in origins:
        if narrows(stored[origin.key].dtype, variable.dtype):
            read_value(stored[origin.key], origin, variable.dtype, room)
    for variable, origin in origins:
        variable.assign(read_value(stored[origin.key], origin, variable.dtype, room))


def make_from(
    make: Callable[[], keras.Model], stored: Mapping[str, Stored], path: Path | str, origins: Origins = Origin
) -> keras.Model:
    """Make a network whose variables are initialized with the stored values.

    Initializing them with random numbers first would take several times as long as reading.

    Args:
        make: makes and builds the network.
        stored: key -> tensor; the network must use all of them.
        path: the file, for error messages.
        origins: where a variable's value is; by default under the variable's key, in PyTorch's layout.

    Raises:
        UserError: weights are missing, left over, of another shape or beyond the range of the variable's format.
    """
    failures: list[UserError] = []

    def initialize(shape, dtype, *, origin: Origin, room: np.ndarray):
        if not failures:
            try:
                return read_value(stored[origin.key], origin, dtype, room)
            except UserError as error:
                failures.append(error)
        return _nothing(shape, dtype)

    with keras.StatelessScope():  # Keras calls the initializers at the end of the block
        network = make()
        for variable in network.variables:
            set_initializer(variable, _nothing)
        try:
            found = match(network, stored, path, origins)
            room = room_for(stored, (origin for _, origin in found))
            for variable, origin in found:
                set_initializer(variable, functools.partial(initialize, origin=origin, room=room))
        except UserError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return network


def shapes_of(make: Callable[[], keras.Model]) -> tuple[dict[str, tuple[int, ...]], dict]:
    """(key -> shape in a file of every weight, configuration) of a network; allocates no weight."""
    with keras.StatelessScope():
        network = make()
        for variable in network.variables:
            set_initializer(variable, _nothing)
    shapes = {key_of(v, network): layout_of(v).stored_shape(tuple(v.shape)) for v in network.variables}
    return shapes, {key: value for key, value in network.get_config().items() if key != "name"}


def match(
    network: keras.Model, stored: Mapping[str, Stored], path: Path | str, origins: Origins = Origin
) -> list[tuple[keras.Variable, Origin]]:
    """Every variable of a network with its origin, after checking that everything fits.

    Raises:
        UserError: names up to five weights that are missing, left over, of another shape or not of `FORMATS`.
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


def make_copy(
    make: Callable[[], keras.Model], source: keras.Model, replaced: Mapping[str, tf.Tensor] | None = None
) -> keras.Model:
    """Make a network whose variables are initialized with those of another network with the same keys.

    `replaced`: key -> value, in our layout, of variables that differ.
    """
    values, others = {key_of(variable, source): variable for variable in source.variables}, replaced or {}

    def initialize(shape, dtype, *, key: str):
        return tf.cast(others[key], dtype) if key in others else tf.identity(values[key].value)

    with keras.StatelessScope():  # Keras calls the initializers at the end of the block
        network = make()
        for variable in network.variables:
            set_initializer(variable, functools.partial(initialize, key=key_of(variable, network)))
    return network


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy all weights of a network to another network with the same keys."""
    values = {key_of(variable, source): variable for variable in source.variables}
    for variable in target.variables:
        variable.assign(values[key_of(variable, target)])


def _nothing(shape, dtype) -> tf.Tensor:
    """The value of a variable of a network that is not used."""
    return tf.zeros((), dtype)


def _stored_shape(variable: keras.Variable, origin: Origin) -> tuple[int, ...]:
    first, *others = origin.layout.stored_shape(tuple(variable.shape))
    return (first * origin.parts, *others)


def _tensors_of(network: keras.Model, dtype: str, starts: Mapping[str, Stored] = NO_STARTS) -> dict[str, TensorToWrite]:
    check_format("dtype", dtype, STORED)
    tensors: dict[str, TensorToWrite] = {}
    integers = dtype in INTEGERS
    kind = numpy_dtype("float32" if integers else dtype)
    for variable in network.variables:
        key, layout = key_of(variable, network), layout_of(variable)
        shape = layout.stored_shape(tuple(variable.shape))
        values = functools.partial(value_to_write, variable, key, layout, kind)
        if dtype == "int4" and len(shape) > 1 and key in starts and starts[key].shape == shape:
            tensors |= change_to_write(key, starts[key], values)
        elif integers and len(shape) > 1:
            tensors |= scaled_to_write(key, shape, values)
        else:
            tensors[key] = TensorToWrite(kind, shape, values)
    return tensors


def _refuse(path: Path | str, what: str, keys: list[str]) -> None:
    if keys:
        raise UserError(f"{path}: {len(keys)} weights {what}: {listed(keys)}; the file belongs to another network")
