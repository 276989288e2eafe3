"""Files with images that tell their number, and streams of them."""

from __future__ import annotations

import numpy as np
from shards import encoded, write_tar

from codi_tf import data
from codi_tf.data.records import index_webdataset
from codi_tf.data.stream import Stream

S = 16


def ramp(height, width, mark):
    """An image that knows its coordinates: channels (row, column, mark)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.full_like(y, mark)], axis=-1).astype(np.uint8)


def stream_of(tmp_path, members, **options):
    return Stream(index_webdataset([write_tar(tmp_path / "a.tar", members)]), **options)


def numbered_files(count, height=40, width=56):
    return {f"{i:03}.png": encoded(ramp(height, width, i)) for i in range(count)}


def take(source, count, *, start=0, seed=0, augment=False, **options):
    dataset = data.crops(source, image_size=S, seed=seed, start=start, augment=augment, **options)
    return next(dataset.batch(count).as_numpy_iterator())


def marks(examples):
    return np.rint((examples["image"][:, 0, 0, 2] + 1) * 127.5).astype(int)
