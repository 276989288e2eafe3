"""codi.json, the file by which a bundle is recognized: what it may hold. Imports no TensorFlow."""

from __future__ import annotations

from pathlib import Path

from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_SEED, MAX_SIDE
from codi_tf.core.showing import shown
from codi_tf.io.json_files import read_json
from codi_tf.io.schema import FLAG, SHA256, Anything, Keyed, Nullable, Number, OneOf, Record, Text, Whole, check

BUNDLE = "codi.json"
FORMAT = 1


SCHEMA = Record(
    {
        "format": OneOf((FORMAT,)),
        "method": Record({"name": Text(200)}),
        "task": Record({"name": Text(200)}),
        "adaptation": Record(
            {"adapter": Text(200), "train": OneOf(("all", "adapter")), "mu_rate": Number(0, 1e12)},
            {"pretrained": FLAG, "start": Nullable(Text())},
        ),
        "ema_decay": Number(0, 1),
        "seed": Whole(0, MAX_SEED),
        "image_size": Whole(1, MAX_SIDE),
        "base": Nullable(Record({"path": Text(), "sha256": SHA256})),
    },
    {"provenance": Keyed(Anything())},
)


def is_bundle(path: str | Path) -> bool:
    """Whether a folder holds a bundle, a saved `CoDi` model."""
    return (Path(path) / BUNDLE).is_file()


def read_about(folder: Path) -> dict:
    """The contents of a bundle's codi.json. Raises UserError for a file that is missing or broken, or other values."""
    path = folder / BUNDLE
    about = read_json(path)
    if "format" in about and about["format"] != FORMAT:
        raise UserError(f"{path}: format {shown(about['format'])} is not known; update codi_tf")
    check(about, SCHEMA, path, "incomplete or of another version: make the bundle again")
    return about
