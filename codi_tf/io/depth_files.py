"""Depth maps, from file to nearness: NumPy and Pillow only.

Nearness is what this package computes with: float32 [H, W], larger is nearer, in any unit. A map of the kind
"disparity" is one already, and so is the output of most monocular networks; of the kind "depth" are distances, whose
nearness is 1 / depth.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from codi_tf.core.errors import UserError
from codi_tf.io.files import whole_file
from codi_tf.io.images import EXTENSIONS

KINDS = ("disparity", "depth")
MARK = ".depth"  # NAME.depth.png is the map of NAME.jpg
MAP_EXTENSIONS = (".png", ".npy", ".tif", ".tiff", ".pfm")
GREY = ("1", "L", "I", "F")


def read_depth(path: str | os.PathLike[str]) -> np.ndarray:
    """A depth map as the file has it, float32 [H, W]: no scaling, and NaN or infinity where they are.

    Taken are grey PNG and TIFF of any depth (and whatever else Pillow reads, .pfm among it), color whose channels are
    equal, and .npy of [H, W], [H, W, 1] or [1, H, W] numbers.

    Raises:
        UserError: the file is missing, unreadable, empty, in color, partly transparent or of another shape.
    """
    path = Path(path)
    values = _array(path) if path.suffix.lower() == ".npy" else _picture(path)
    if 0 in values.shape:
        raise UserError(f"depth map {path} is empty: {values.shape[0]}x{values.shape[1]}; write it again")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which the checks tell
        return values.astype(np.float32)


def nearness(depth: np.ndarray, kind: str) -> np.ndarray:
    """depth if the kind is "disparity", 1 / depth if it is "depth"; NaN where that is unknown.

    Args:
        depth: [H, W]. Unknown are NaN and infinity, and distances of 0 or less.
        kind: of `KINDS`.

    Returns:
        float32 [H, W], larger is nearer.

    Raises:
        UserError: another kind.
    """
    check_kind(kind)
    near = np.asarray(depth, np.float64)
    if kind == "depth":
        near = np.divide(1.0, near, out=np.full_like(near, np.nan), where=near > 0)
        near[near == 0] = np.nan  # an infinite distance
    with np.errstate(over="ignore"):
        near = near.astype(np.float32)
    return np.where(np.isfinite(near), near, np.float32(np.nan))


def fill_holes(near: np.ndarray) -> np.ndarray:
    """The map without NaN: a hole takes the farther of the nearest known values to its left and right.

    What one camera of a pair sees and the other does not is background beside something near, hence the farther one.
    At the picture's sides there is only one of them; rows without any known value take those of the rows above and
    below them, by the same rule.

    Args:
        near: float32 [H, W], larger is nearer, NaN where unknown; one pixel at least is known.

    Returns:
        float32 [H, W]; known values are what they were.
    """
    along_rows = _fill_rows(near)
    return _fill_rows(along_rows.T).T


def read_nearness(path: str | os.PathLike[str], kind: str, *, fill: bool = False) -> np.ndarray:
    """The nearness in a file, float32 [H, W], finite and not constant.

    Args:
        path: see `read_depth`.
        kind: of `KINDS`.
        fill: fill the holes of a measured map (see `fill_holes`) instead of refusing it.

    Raises:
        UserError: see `read_depth`; a map that is constant, unknown everywhere or, without `fill`, anywhere.
    """
    return checked_nearness(f"depth map {path}", nearness(read_depth(path), kind), fill=fill)


def checked_nearness(name: str, near: np.ndarray, *, fill: bool = False) -> np.ndarray:
    """The map of `nearness`, if it can be used; see `read_nearness`. The line of an error calls it `name`."""
    unknown = np.isnan(near)
    if unknown.all():
        raise UserError(f"{name} is unknown everywhere (NaN, infinite, or a distance of 0); write it again")
    if unknown.any():
        if not fill:
            raise UserError(
                f"{name} is unknown (NaN, infinite, or a distance of 0) in {unknown.sum():,} of {unknown.size:,} "
                "pixels; fill them"
            )
        near = fill_holes(near)
    if near.min() == near.max():
        raise UserError(f"{name} is constant: nothing in it is nearer than anything else; write it again")
    return near


def as_picture(near: np.ndarray) -> np.ndarray:
    """(near - min) / (max - min), grey, as a condition that `CoDi.generate` takes.

    Args:
        near: float32 [H, W], finite, not constant.

    Returns:
        float32 [H, W, 3] in [0, 1].
    """
    near = np.asarray(near, np.float64)
    grey = (near - near.min()) / (near.max() - near.min())
    return np.repeat(grey.astype(np.float32)[..., None], 3, axis=-1)


def write_nearness(path: str | os.PathLike[str], near: np.ndarray) -> None:
    """Writes round(65535 (near - min) / (max - min)) as a 16-bit grey PNG, whole or not at all: a "disparity".

    Args:
        path: a name that ends in .png.
        near: float32 [H, W], finite, not constant.

    Raises:
        UserError: the file cannot be written.
    """
    picture = Image.fromarray(np.rint(65535 * as_picture(near)[..., 0]).astype(np.uint16))
    with whole_file(Path(path)) as partial:
        picture.save(partial, format="PNG")


def photo_files(path: str | os.PathLike[str]) -> dict[str, Path]:
    """The images of a folder without its depth maps, sorted: NAME -> file.

    Raises:
        UserError: the folder is missing or has no image, or two of the same NAME, which one map cannot belong to.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"no such folder of images: {folder}")
    photos = _by_name(folder, EXTENSIONS, is_map=False)
    if not photos:
        raise UserError(f"no image in folder {folder}; expected files ending in {', '.join(EXTENSIONS)}")
    return photos


def map_files(path: str | os.PathLike[str]) -> dict[str, Path]:
    """The depth maps of a folder, sorted: NAME -> NAME.depth.png, .npy, .tif or .pfm.

    Raises:
        UserError: two maps of the same NAME.
    """
    return _by_name(Path(path), MAP_EXTENSIONS, is_map=True)


def _by_name(folder: Path, extensions: tuple[str, ...], *, is_map: bool) -> dict[str, Path]:
    files = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in extensions or file.stem.endswith(MARK) != is_map or not file.is_file():
            continue
        name = file.stem.removesuffix(MARK)
        if name in files:
            raise UserError(f"{folder}: {files[name].name} and {file.name} have one name; rename or remove one of them")
        files[name] = file
    return files


def check_kind(kind: object) -> None:
    """Raises UserError for anything that is not of `KINDS`."""
    if kind not in KINDS:
        raise UserError(f"depth: kind must be {' or '.join(KINDS)}, not {kind!r}")


def _array(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"cannot read depth map {path}: no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read depth map {path}: no array of numbers, or damaged; save it again") from error
    if not isinstance(values, np.ndarray):  # an archive under a wrong name
        raise UserError(f"cannot read depth map {path}: several arrays; save one with np.save")
    if values.dtype.kind not in "buif":
        raise UserError(f"depth map {path} is of type {values.dtype}: save numbers")
    shape = values.shape
    if values.ndim == 3 and 1 in (shape[0], shape[2]):
        values = values[0] if shape[0] == 1 else values[..., 0]
    if values.ndim != 2:
        raise UserError(f"depth map {path} has shape {shape}: it must be [H, W]")
    return values


def _picture(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file)  # a copy, decoded, upright as its photo is
    except FileNotFoundError as error:
        raise UserError(f"cannot read depth map {path}: no such file") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on damaged bytes
        raise UserError(f"cannot read depth map {path}: {' '.join(str(error).split())}; write it again") from error
    if image.mode in GREY or image.mode.startswith("I;16"):
        return np.asarray(image)
    values = np.asarray(image.convert("RGBA"))  # [H, W, 4]
    if (values[..., 3] < 255).any():
        raise UserError(f"depth map {path} is partly transparent; save it without")
    if (values[..., :3] != values[..., :1]).any():
        raise UserError(f"depth map {path} is in color; save the depth in grey, before it is colored")
    return values[..., 0]


def _fill_rows(near: np.ndarray) -> np.ndarray:
    """The rule of `fill_holes` along the rows; rows without any known value stay as they are."""
    known, (height, width) = ~np.isnan(near), near.shape
    rows, columns = np.arange(height)[:, None], np.arange(width)
    left = np.maximum.accumulate(np.where(known, columns, 0), axis=1)  # the last known column up to here
    right = np.minimum.accumulate(np.where(known, columns, width - 1)[:, ::-1], axis=1)[:, ::-1]
    return np.fmin(near[rows, left], near[rows, right])  # fmin: NaN where both are, else the known one
