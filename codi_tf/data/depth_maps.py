"""Images with depth maps: the stereo pair in scikit-image, and folders of pairs."""

from __future__ import annotations

import io
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from codi_tf.core.errors import UserError
from codi_tf.core.paths import is_folder
from codi_tf.data.in_memory import Photos
from codi_tf.data.left_out import FILES, warn_of_left_out
from codi_tf.data.open_source import fit_in_memory, open_source
from codi_tf.data.photos import package_file
from codi_tf.data.pipeline import Source
from codi_tf.data.prompts import FIELDS, prompts_of
from codi_tf.data.records import Unreadable, index_files, with_files
from codi_tf.data.splits import check_any, check_split, is_heldout
from codi_tf.data.stream import Stream
from codi_tf.data.unreadable import read_all
from codi_tf.io import images
from codi_tf.io.depth_files import MARK, check_kind, fill_holes, is_map, map_files, nearness, photo_files, read_nearness
from codi_tf.io.listing import files_below
from codi_tf.io.naming import is_image, sort_names

STEREO_PHOTO = "skimage/data/motorcycle_left.png"
STEREO_DISPARITY = "skimage/data/motorcycle_disp.npz"
STEREO_COLUMNS = {"train": slice(None, 500), "heldout": slice(500, None), None: slice(None)}  # of 741


def load_stereo(split: str | None = None) -> Photos:
    """The left image of scikit-image's motorcycle (Middlebury 2014), 500x741, with its measured disparity.

    Its right 241 columns are held out, so the two splits share no pixel, but they show the same scene. The 7 % of the
    disparity that could not be measured are filled by `depth_files.fill_holes` in the whole image.

    Args:
        split: "train", "heldout" or None for all.

    Raises:
        UserError: an unknown split, or scikit-image is missing.
    """
    if split is not None:
        check_split(split)
    photo = images.to_uint8(images.read_image(package_file(STEREO_PHOTO)))
    with np.load(package_file(STEREO_DISPARITY)) as archive:
        disparity = archive["arr_0"]  # float32 [500, 741] in pixels; infinite where it is unknown
    near = fill_holes(nearness(disparity, "disparity"))[..., None]
    columns = STEREO_COLUMNS[split]
    return Photos({"motorcycle": photo[:, columns]}, {"motorcycle": near[:, columns]}, "depth")


def open_depth(
    name: str | os.PathLike[str],
    split: str | None = None,
    *,
    kind: str = "disparity",
    heldout_fraction: float = 0.1,
    seed: int = 0,
    max_unreadable: float = 0.01,
) -> Source:
    """Open images with depth maps, in a folder (`load_depth_folder`) or in a source of `open_source.open_source`.

    Args:
        name: a folder of images and maps; or shards, a pattern of paths, a TFDS name, whose maps must be disparities.
        split, kind, heldout_fraction, seed, max_unreadable: see `load_depth_folder`.

    Raises:
        UserError: see these two functions; the source has no depth maps.
    """
    name = os.fspath(name)
    shared: dict[str, Any] = {"heldout_fraction": heldout_fraction, "max_unreadable": max_unreadable}
    if is_folder(name) and any(map(is_image, files_below(name)[0])):
        return load_depth_folder(name, split, kind=kind, seed=seed, **shared)
    check_kind(kind)
    source = open_source(name, split, condition_key="depth", seed=seed, **shared)
    if "depth" not in source.provides:
        raise UserError(f"{name} has no depth maps, NAME.depth.png; codi depth makes them for a folder")
    if kind != "disparity":
        raise UserError(f"{name}: maps outside of a folder must be of the kind disparity, not {kind}; unpack them")
    return source


def load_depth_folder(
    path: str | os.PathLike[str],
    split: str | None = None,
    *,
    kind: str = "disparity",
    heldout_fraction: float = 0.1,
    seed: int = 0,
    max_unreadable: float = 0.01,
) -> Photos | Stream:
    """Load the images of a folder with their depth maps: NAME.jpg with NAME.depth.png, .npy, .tif or .pfm.

    Holes of measured maps are filled (`depth_files.fill_holes`). An image without a map, or a map without an image, is
    left out and named in a warning. A caption may be in NAME.txt or NAME.json, see `prompts.text_of`; if some images
    have one, the others have the empty prompt.

    Args:
        path: the folder; its subfolders are read, too.
        split: "train", "heldout" or None for all; a hash of the image's file name decides.
        kind: what the maps hold, "disparity" (larger is nearer) or "depth" (distances, 0 where unknown).
        heldout_fraction: the share of "heldout", in [0, 1].
        seed, max_unreadable: for reading from disk, see `stream.Stream`.

    Returns:
        `Photos` if decoded images and maps take less than 2 GB, else a `Stream` of them.

    Raises:
        UserError: the folder is missing or has no pair (of the split); for `Photos` also more than the share
            max_unreadable of pairs whose files cannot be read, or whose map differs in size from its image, is
            constant, or has no known pixel.
    """
    check_kind(kind)
    if split is not None:
        check_split(split)
    photos, maps = photo_files(path), map_files(path)
    unpaired = [file.name for name, file in photos.items() if name not in maps]
    pairs = [(file, maps[name]) for name, file in photos.items() if name in maps]
    if not pairs:
        raise UserError(
            f"no image in folder {path} has a depth map, such as {next(iter(photos))}{MARK}.png for "
            f"{unpaired[0]}; codi depth makes them"
        )
    warn_of_left_out(f"{path}: images without a depth map", unpaired)
    files, others = files_below(path)
    strangers = [files[i] for i in sort_names(files).left_out if not is_map(files[i])]
    warn_of_left_out(f"{path}: {FILES}", [os.path.basename(one) for one in (*strangers, *others)])
    warn_of_left_out(
        f"{path}: depth maps without an image", [file.name for name, file in maps.items() if name not in photos]
    )
    chosen = [
        pair for pair in pairs if split is None or is_heldout(pair[0].name, heldout_fraction) == (split == "heldout")
    ]
    check_any(len(chosen), f"the {len(pairs)} pairs in folder {path}", split, heldout_fraction)
    if fit_in_memory((photo for photo, _ in chosen), depth=7):  # RGB and a float
        return _photos(chosen, kind, max_unreadable)
    settings: dict[str, Any] = {"condition_key": "depth", "seed": seed, "max_unreadable": max_unreadable}
    if kind == "disparity" and all(depth_map.suffix.lower() == ".png" for _, depth_map in chosen):
        photo_records = index_files([photo for photo, _ in chosen])
        stream = Stream(with_files(photo_records, "depth", [depth_map for _, depth_map in chosen]), **settings)
        if stream.headers() is not None:  # TensorFlow reads them
            return stream
    return Stream(DepthPairs(chosen, kind), **settings)


class DepthPairs:
    """Images, depth maps of any format and captions in files; a `records.Readable`.

    Args:
        pairs: (image, map) of each.
        kind: what the maps hold, of `depth_files.KINDS`.

    Raises:
        UserError: see `records.index_files`.
    """

    def __init__(self, pairs: list[tuple[Path, Path]], kind: str):
        self.pairs, self.kind = pairs, kind
        self.photos = index_files([photo for photo, _ in pairs])
        self.fields = ("image", "depth", *(field for field in FIELDS if field in self.photos.fields))

    def __len__(self) -> int:
        return len(self.pairs)

    def without_text(self) -> int:
        """The number of images without a caption."""
        return self.photos.without_text()

    def read(self, i: int, fields: Collection[str] | None = None) -> dict[str, bytes]:
        """Image, caption and nearness of pair i; nearness is a TIFF of floats without holes. Raises Unreadable."""
        wanted = [field for field in ("image", *FIELDS) if fields is None or field in fields]
        found = self.photos.read(i, wanted)
        if fields is None or "depth" in fields:
            stream = io.BytesIO()
            try:
                near = read_nearness(self.pairs[i][1], self.kind, fill=True)
            except UserError as error:
                raise Unreadable(str(error)) from None
            Image.fromarray(near).save(stream, "TIFF")
            found["depth"] = stream.getvalue()
        return found

    def name(self, i: int) -> str:
        """The path of image i."""
        return str(self.pairs[i][0])

    def split_name(self, i: int) -> str:
        """The name that decides the split of image i."""
        return self.pairs[i][0].name


def _photos(pairs: list[tuple[Path, Path]], kind: str, max_unreadable: float) -> Photos:
    """All pairs, decoded; their captions are read when they are needed."""

    def read(i: int) -> tuple[np.ndarray, np.ndarray]:
        photo, depth_map = pairs[i]
        image = images.to_uint8(images.read_image(photo))
        near = read_nearness(depth_map, kind, fill=True)[..., None]
        if near.shape[:2] != image.shape[:2]:
            sizes = [f"{one.shape[1]}x{one.shape[0]}" for one in (near, image)]
            raise UserError(
                f"depth map {depth_map} is {sizes[0]}, but {photo.name} is {sizes[1]}; make them of one size"
            )
        return image, near

    found, bad = read_all([str(photo) for photo, _ in pairs], read, max_unreadable)
    short = [pairs[i][0].name for i in found]
    names = dict(zip(found, short if len(set(short)) == len(short) else [str(pairs[i][0]) for i in found], strict=True))
    photos = {names[i]: photo for i, (photo, _) in found.items()}
    companions = {names[i]: near for i, (_, near) in found.items()}
    prompts = prompts_of(index_files([photo for photo, _ in pairs]), {name: i for i, name in names.items()})
    return Photos(photos, companions, "depth", prompts, max_unreadable=max_unreadable, unreadable=bad)
