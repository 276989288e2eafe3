"""Small shards that tests write: images as bytes, tar files, TFRecord files."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image


def new_image(seed: int, height: int = 20, width: int = 24) -> np.ndarray:
    """An image of noise, uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    """The bytes of an image's file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(payload: bytes) -> np.ndarray:
    """The pixels, as Pillow reads them."""
    return np.asarray(Image.open(io.BytesIO(payload)))


def write_tar(path: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    """A tar file of named contents."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, payload in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            tar.addfile(member, io.BytesIO(payload))
    return path


def write_tfrecord(path: Path, payloads: list[bytes]) -> Path:
    """A TFRecord file, by TensorFlow."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in payloads:
            writer.write(payload)
    return path


def example(**features: bytes | list[bytes]) -> bytes:
    """A tf.train.Example; __ in a name stands for /."""
    lists = {key.replace("__", "/"): value if isinstance(value, list) else [value] for key, value in features.items()}
    feature = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=value)) for key, value in lists.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
