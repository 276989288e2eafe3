"""SHA-256 of files, folders and tensors. Needs no TensorFlow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from codi_tf.io.plain_files import open_plain

HASHED_SUFFIXES = (".safetensors", ".json", ".txt")  # weights, configurations, and the tokenizer's merges


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal digits. Raises OSError for what is no regular file."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: Path) -> str:
    """SHA-256 over names and contents of the files below a folder that have `HASHED_SUFFIXES`, sorted by path.

    Raises OSError for one of them that is no regular file.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in HASHED_SUFFIXES):
        digest.update(path.relative_to(folder).as_posix().encode())
        with open_plain(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def arrays_sha256(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 over the bytes of arrays of any dtype, one array after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()


def text_sha256(text: str) -> str:
    """SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
