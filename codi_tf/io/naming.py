"""What the name of a file says: an image, a companion of one, or neither. The same for folders, tar files and patterns.

An image is `NAME.jpg` with any of `image_files.EXTENSIONS`; NAME may have dots. Its companions are `NAME.txt` and
`NAME.json`, captions, and `NAME.KIND.png` for each kind in `companions.COMPANIONS`, such as `NAME.depth.png`. Any other
`NAME.word.png` beside an image `NAME.jpg` is neither: it is a mask, an edge map or another part of that image.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from codi_tf.io.companions import COMPANIONS
from codi_tf.io.image_files import EXTENSIONS

_TEXTS = {".txt": "text", ".json": "json"}
_WORD = re.compile(r"[^\W\d]+")


class Sorted(NamedTuple):
    """Names by what they are, as indices of the names.

    Attributes:
        images: in their order.
        companions: of each image: field -> the companion.
        left_out: neither images nor companions of one.
    """

    images: list[int]
    companions: list[dict[str, int]]
    left_out: list[int]


def field_of(path: str) -> tuple[str, str | None]:
    """The name of an image that a file belongs to, with its folder, and the field that it holds.

    The field is "image", "text", "json", the name of a companion, "array" (`Companion.folder_extensions`) or None.
    """
    stem, extension = os.path.splitext(path)
    extension = extension.lower()
    inner, infix = os.path.splitext(stem)
    kind = infix[1:].lower()
    if kind and kind in COMPANIONS:
        if extension in COMPANIONS[kind].folder_extensions:
            return inner, "array"
        if extension in COMPANIONS[kind].extensions:
            return inner, kind
        if extension not in _TEXTS:
            return inner, None
    return stem, "image" if extension in EXTENSIONS else _TEXTS.get(extension)


def is_image(path: str) -> bool:
    """Whether a name is that of an image, and not of a companion."""
    return field_of(path)[1] == "image"


def sort_names(names: Sequence[str]) -> Sorted:
    """Sort the names of one folder or tar file, in their order. Names may be repeated, as in tar files put together.

    A companion belongs to all images of its name, however accents are composed in it. Where images of one name are
    apart, with others between them, it belongs to those that it stands with.
    """
    parsed = [field_of(unicodedata.normalize("NFC", name)) for name in names]
    run, runs = 0, []  # of consecutive names of one key
    for i, (key, _) in enumerate(parsed):
        run += i > 0 and key != parsed[i - 1][0]
        runs.append(run)
    image_runs, belonging = defaultdict(set), defaultdict(list)
    for i, (key, field) in enumerate(parsed):
        if field == "image":
            image_runs[key].add(runs[i])
        elif field is not None:
            belonging[key].append(i)
    images, companions, left_out = [], [], []
    for i, (key, field) in enumerate(parsed):
        whole, _, word = key.rpartition(".")
        if field == "image" and not (_WORD.fullmatch(word) and whole in image_runs):
            near = [one for one in belonging[key] if len(image_runs[key]) == 1 or runs[one] == runs[i]]
            images.append(i)
            companions.append({parsed[one][1]: one for one in near if parsed[one][1] != "array"})
        elif field in (None, "image") or key not in image_runs:
            left_out.append(i)
    return Sorted(images, companions, left_out)
