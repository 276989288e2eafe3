"""Pairs of images to train on, a source and its target: two folders, parquet files, and whatever holds sources."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image

from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path, is_regular
from codi_tf.data.decoding import EncodedImage
from codi_tf.data.examples import Examples
from codi_tf.data.folder_pairs import check_partners
from codi_tf.data.open_source import open_source, with_options
from codi_tf.data.parquet import ParquetRows
from codi_tf.data.photos import EMBEDDED
from codi_tf.data.records import Readable, Records, index_files, with_files
from codi_tf.data.splits import check_any, check_split, is_heldout
from codi_tf.data.stream import Stream
from codi_tf.data.triplets import SEEDS, PromptFolders, Triplets, has_sources, parquet_files, source_files
from codi_tf.data.windows import Size
from codi_tf.io.depth_files import photo_files
from codi_tf.io.images import resize, rgb_pixels, to_uint8
from codi_tf.io.places import folder_pair

REMEDY = "name two folders, SOURCE:TARGET, or put NAME.source.jpg beside NAME.jpg"
OF_FEATURES = "name the features that hold them: ?source=FEATURE&image=FEATURE"


def open_pairs(
    name: str | os.PathLike[str],
    split: str | None = None,
    *,
    whole: bool = False,
    resizes: bool = False,
    heldout_fraction: float = 0.1,
    seed: int = 0,
    max_unreadable: float = 0.01,
) -> ImagePairs:
    """Open a source of pairs: "image" is the target, "source" what it is made of. Texts are captions.

    Args:
        name: one of

            SOURCE:TARGET, two folders whose files are matched by name, whatever their extensions;
            a folder of NAME.source.jpg and NAME.jpg, or one with seeds.json, see `triplets.open_triplets`;
            a .parquet file, a folder or a pattern of them, with columns as in `examples.known_features`, or those that
            are named after it, ?source=COLUMN&image=COLUMN;
            any other source of `open_source.open_source` that has sources.
        split: "train", "heldout" or None for all, by a hash of the target's name, or of the row.
        whole: windows are as large as the image, see `triplets.Triplets`.
        resizes: a source of another size is resized to its target's; else it is unreadable.
        heldout_fraction: the share of "heldout", in [0, 1].
        seed: of the order.
        max_unreadable: the largest share of unreadable pairs, see `stream.Stream`.

    Raises:
        UserError: no such source, no pair in the split, a file without a partner, no sources.
    """
    if split is not None:
        check_split(split)
    name = os.fspath(name)
    if name == EMBEDDED:
        raise UserError(f"{name}: these photos are no pairs; {REMEDY}")
    shared: dict[str, Any] = {"heldout_fraction": heldout_fraction, "max_unreadable": max_unreadable}
    bare, named = with_options(name)
    pair = folder_pair(name)
    if pair is not None:
        pairs = folder_records(*pair, split, heldout_fraction)
    elif is_regular(os.path.join(name, SEEDS)):
        pairs = PromptFolders.listed(as_path(name), split, heldout_fraction)
    elif paths := parquet_files(bare):
        pairs = ParquetRows.indexed(paths, split, fields=("image", "source"), named=named, **shared)
    elif has_sources(name):
        pairs = source_files(name, split, heldout_fraction, prompted=False)
    else:
        source = open_source(name, split, condition_key="source", seed=seed, **shared)
        assert isinstance(source, Stream)  # images in memory have no companions
        pairs = source.records
        if "source" not in source.provides:
            raise UserError(f"{name} has no pairs; {OF_FEATURES if isinstance(pairs, Examples) else REMEDY}")
    check_any(len(pairs), f"the pairs of {name}", split, heldout_fraction)
    return ImagePairs(pairs, whole=whole, resizes=resizes, seed=seed, max_unreadable=max_unreadable)


class ImagePairs(Triplets):
    """A `Stream` of pairs.

    Args:
        records: with the fields "image" and "source".
        whole, resizes: see `open_pairs`.
        options: of `Stream`.
    """

    def __init__(self, records: Readable, *, whole: bool, resizes: bool, **options):
        super().__init__(records, condition_key="source", **options)
        self.whole, self.resizes = whole, resizes

    def window_size(self, u: float, size: tuple[int, int], image_size: Size) -> tuple[int, int]:
        """The size of a window of an image (height, width), drawn by u. Raises Unreadable if it is too small."""
        kind = Triplets if self.whole else Stream
        return kind.window_size(self, u, size, image_size)

    def fitted(self, key: str, encoded: EncodedImage, size: tuple[int, int]) -> EncodedImage:
        """A source in the size of its target. Raises Unreadable if it is damaged, or not to be resized."""
        return Resized(encoded, size) if self.resizes else super().fitted(key, encoded, size)


class Resized(EncodedImage):
    """An image of another size, (height, width), when it is decoded: bicubic, as `io.images.resize`."""

    def __init__(self, encoded: EncodedImage, size: tuple[int, int]):
        self._encoded, self.size = encoded, size

    def shrunk(self, factor: float) -> Image.Image:
        """The whole image in the new size, whatever the factor. Raises Unreadable for a damaged file."""
        image = rgb_pixels(self._encoded.shrunk(1.0)) / np.float32(255)
        return Image.fromarray(to_uint8(resize(image, *self.size)))


def folder_records(low: str, high: str, split: str | None, heldout_fraction: float) -> Records:
    """The records of files of one name in two folders, `low` of sources and `high` of targets, sorted by name.

    Their names are those of the targets, and so are their texts.

    Raises:
        UserError: a missing folder, files of one name, or one without a partner; no pair in the split.
    """
    sources, targets = photo_files(low), photo_files(high)
    check_partners(low, sources, high, targets)
    chosen = [
        name
        for name, target in targets.items()
        if split is None or is_heldout(target.name, heldout_fraction) == (split == "heldout")
    ]
    check_any(len(chosen), f"the {len(targets)} pairs of {low}:{high}", split, heldout_fraction)
    return with_files(index_files([targets[name] for name in chosen]), "source", [sources[name] for name in chosen])
