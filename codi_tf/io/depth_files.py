"""Reading and writing depth maps as nearness. NumPy and Pillow only.

Nearness is float32 [H, W], larger is nearer, in any unit. A map of the kind "disparity" holds nearness already, as does
the output of most monocular networks. A map of the kind "depth" holds distances, and its nearness is 1 / depth.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path
from codi_tf.io.files import whole_file
from codi_tf.io.image_files import EXTENSIONS, is_too_large, open_image
from codi_tf.io.listing import files_below
from codi_tf.io.naming import field_of, sort_names
from codi_tf.io.plain_files import check_plain
from codi_tf.io.remote import on_this_machine

KINDS = ("disparity", "depth")
MARK = ".depth"  # NAME.depth.png is the map of NAME.jpg
MAP_EXTENSIONS = (".png", ".npy", ".tif", ".tiff", ".pfm")
GRAY_MODES = ("1", "L", "I", "F")


def read_depth(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the numbers of a depth map, float32 [H, W], unscaled; NaN and infinity remain.

    Accepts gray PNG and TIFF of any bit depth (and other formats of Pillow, such as .pfm), color with equal channels,
    and .npy with numbers [H, W], [H, W, 1] or [1, H, W].

    Raises:
        UserError: the file is missing, unreadable, empty, in color, partly transparent or of another shape.
    """
    path = as_path(path)
    values = _read_array(path) if path.suffix.lower() == ".npy" else _read_image(path)
    if 0 in values.shape:
        raise UserError(f"depth map {path} is empty: {values.shape[0]}x{values.shape[1]}; write it again")
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which the checks report
        return values.astype(np.float32)


def nearness(depth: np.ndarray, kind: str) -> np.ndarray:
    """Nearness from depth: depth itself for the kind "disparity", 1 / depth for "depth"; NaN where unknown.

    Args:
        depth: [H, W]. NaN, infinity and distances of 0 or less are unknown.
        kind: one of `KINDS`.

    Returns:
        float32 [H, W], larger is nearer.

    Raises:
        UserError: an unknown kind.
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
    """Fill the holes (NaN) of a map: each takes the farther of the nearest known values to its left and right.

    Holes of stereo pairs are background next to a near object, which hides it from one camera; hence the farther value.
    At the sides of the image there is only one value. Rows without any known value are filled from the rows above and
    below by the same rule.

    Args:
        near: float32 [H, W], larger is nearer, NaN where unknown; at least one pixel is known.

    Returns:
        float32 [H, W]; known values are unchanged.
    """
    along_rows = _fill_rows(near)
    return _fill_rows(along_rows.T).T


def read_nearness(path: str | os.PathLike[str], kind: str, *, fill: bool = False) -> np.ndarray:
    """Read the nearness in a file, float32 [H, W], finite and not constant.

    Args:
        path: see `read_depth`.
        kind: one of `KINDS`.
        fill: fill the holes of a measured map (see `fill_holes`) instead of raising an error.

    Raises:
        UserError: see `read_depth`; the map is constant, or unknown everywhere or, without `fill`, somewhere.
    """
    return checked_nearness(f"depth map {path}", nearness(read_depth(path), kind), fill=fill)


def checked_nearness(name: str, near: np.ndarray, *, fill: bool = False) -> np.ndarray:
    """Check the result of `nearness` and return it. Error messages call the map `name`; `fill` as in `read_nearness`.

    Raises:
        UserError: the map is constant, or unknown everywhere or, without `fill`, somewhere.
    """
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
        raise UserError(f"{name} is constant: all pixels are equally near; write it again")
    return near


def as_gray_image(near: np.ndarray) -> np.ndarray:
    """Nearness as a gray image, (near - min) / (max - min): a condition for `CoDi.generate`.

    Args:
        near: float32 [H, W], finite, not constant.

    Returns:
        float32 [H, W, 3] in [0, 1].
    """
    near = np.asarray(near, np.float64)
    gray = (near - near.min()) / (near.max() - near.min())
    return np.repeat(gray.astype(np.float32)[..., None], 3, axis=-1)


def write_nearness(path: str | os.PathLike[str], near: np.ndarray) -> None:
    """Write nearness as a 16-bit gray PNG of the kind "disparity": round(65535 (near - min) / (max - min)).

    The file appears whole or not at all.

    Args:
        path: a file name that ends in .png.
        near: float32 [H, W], finite, not constant.

    Raises:
        UserError: the file cannot be written.
    """
    image_file = Image.fromarray(np.rint(65535 * as_gray_image(near)[..., 0]).astype(np.uint16))
    with whole_file(as_path(path)) as partial:
        image_file.save(partial, format="PNG")


def photo_files(path: str | os.PathLike[str], *, also: tuple[str, ...] = ()) -> dict[str, Path]:
    """The images of a folder and its subfolders without their depth maps, sorted: NAME, with its subfolder -> file.

    Args:
        path: the folder.
        also: extensions of other files that count as images.

    Raises:
        UserError: the folder is missing or has no image, or two images have the same NAME.
    """
    files = files_below(path)[0]
    of_images = sort_names(files).images
    others = [i for i, file in enumerate(files) if file.lower().endswith(also)] if also else []
    photos = _by_name(as_path(path), [files[i] for i in sorted({*of_images, *others})])
    if not photos:
        raise UserError(f"no image in folder {path}; expected files ending in {', '.join(EXTENSIONS)}")
    return photos


def map_files(path: str | os.PathLike[str]) -> dict[str, Path]:
    """The depth maps of a folder and its subfolders, sorted: NAME -> NAME.depth.png, .npy, .tif or .pfm.

    Raises:
        UserError: two maps have the same NAME.
    """
    return _by_name(as_path(path), filter(is_map, files_below(path)[0]))


def is_map(name: str) -> bool:
    """Whether a file's name is that of a depth map, NAME.depth.png, .npy, .tif or .pfm."""
    stem, extension = os.path.splitext(name)
    return extension.lower() in MAP_EXTENSIONS and stem.lower().endswith(MARK)


def _by_name(folder: Path, paths: Iterable[str]) -> dict[str, Path]:
    files = {}
    for file in paths:
        name = os.path.relpath(field_of(file)[0], folder)
        if name in files:
            both = f"{os.path.relpath(files[name], folder)} and {os.path.relpath(file, folder)}"
            raise UserError(f"{folder}: {both} have one name; rename or remove one of them")
        files[name] = as_path(file)
    return files


def check_kind(kind: object) -> None:
    """Raise UserError for a value that is not one of `KINDS`."""
    if kind not in KINDS:
        raise UserError(f"depth: kind must be {' or '.join(KINDS)}, not {kind!r}")


def _read_array(path: Path) -> np.ndarray:
    try:
        check_plain(path)
        # Mapped, not read: NumPy would request the memory that the header names, whatever the file's size is.
        with on_this_machine(path) as file:
            values = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"cannot read depth map {path}: no such file") from error
    except Exception as error:  # NumPy parses the header as Python, which may raise anything
        raise UserError(f"cannot read depth map {path}: no array of numbers, or damaged; save it again") from error
    if not isinstance(values, np.ndarray):  # an .npz archive with the suffix .npy
        raise UserError(f"cannot read depth map {path}: several arrays; save one with np.save")
    if values.dtype.kind not in "buif":
        raise UserError(f"depth map {path} is of type {values.dtype}: save numbers")
    shape = values.shape
    if values.ndim == 3 and 1 in (shape[0], shape[2]):
        values = values[0] if shape[0] == 1 else values[..., 0]
    if values.ndim != 2:
        raise UserError(f"depth map {path} has shape {shape}: it must be [H, W]")
    return values


def _read_image(path: Path) -> np.ndarray:
    try:
        with open_image(path) as file:
            image = ImageOps.exif_transpose(file)  # a copy, decoded and upright
    except FileNotFoundError as error:
        raise UserError(f"cannot read depth map {path}: no such file") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on damaged bytes
        if is_too_large(error):
            limit = f"{Image.MAX_IMAGE_PIXELS:,}"
            raise UserError(f"cannot read depth map {path}: more than {limit} pixels; shrink it first") from error
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"cannot read depth map {path}: {reason}; write it again") from error
    if image.mode in GRAY_MODES or image.mode.startswith("I;16"):
        return np.asarray(image)
    values = np.asarray(image.convert("RGBA"))  # [H, W, 4]
    if (values[..., 3] < 255).any():
        raise UserError(f"depth map {path} is partly transparent; save it without transparency")
    if (values[..., :3] != values[..., :1]).any():
        raise UserError(f"depth map {path} is in color; save the depth itself in gray, not a color rendering")
    return values[..., 0]


def _fill_rows(near: np.ndarray) -> np.ndarray:
    """The rule of `fill_holes` along the rows; rows without any known value stay NaN."""
    known, (height, width) = ~np.isnan(near), near.shape
    rows, columns = np.arange(height)[:, None], np.arange(width)
    left = np.maximum.accumulate(np.where(known, columns, 0), axis=1)  # the last known column up to here
    right = np.minimum.accumulate(np.where(known, columns, width - 1)[:, ::-1], axis=1)[:, ::-1]
    return np.fmin(near[rows, left], near[rows, right])  # fmin: NaN where both are, else the known one
