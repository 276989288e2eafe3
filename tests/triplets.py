"""Triplets of one-colored images and an instruction that tests write: each layout from the same numbers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

S = 16
EDITS = ("make it red", "make it green", "make it blue", "make it night")


def flat_image(value: int, height: int = S, width: int = S) -> np.ndarray:
    """One color, which a JPEG keeps to a level or two."""
    return np.full((height, width, 3), value, np.uint8)


def encoded(image: np.ndarray, kind: str = "JPEG") -> bytes:
    """The bytes of an image's file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **({"quality": 100} if kind == "JPEG" else {}))
    return stream.getvalue()


def triplet(i: int) -> tuple[int, int, str]:
    """Levels before and after, and the instruction; no two triplets of 40 agree in all."""
    return 5 * i, 255 - 5 * i, EDITS[i % len(EDITS)]


def write_prompt_folders(folder: Path, count: int = 8, seeds: int = 2) -> Path:
    """InstructPix2Pix's layout; triplet i is seed i % seeds of prompt i // seeds."""
    listed = []
    for prompt in range(count // seeds):
        inside = folder / f"{prompt:07d}"
        inside.mkdir(parents=True)
        names = []
        for i in range(prompt * seeds, (prompt + 1) * seeds):
            before, after, _ = triplet(i)
            names.append(str(3000 + i))
            (inside / f"{names[-1]}_0.jpg").write_bytes(encoded(flat_image(before)))
            (inside / f"{names[-1]}_1.jpg").write_bytes(encoded(flat_image(after)))
        (inside / "prompt.json").write_text(json.dumps({"input": "a", "edit": EDITS[prompt % 4], "output": "b"}))
        listed.append([inside.name, names])
    (folder / "seeds.json").write_text(json.dumps(listed))
    return folder


def write_parquet(
    path: Path,
    numbers,
    *,
    group: int = 4,
    columns=("original_image", "edit_prompt", "edited_image"),
    struct: bool = True,
) -> Path:
    """The triplets of these numbers in a file; images as a struct with "bytes", or the bytes alone."""
    before, after, texts = zip(*(triplet(i) for i in numbers), strict=True)

    def files_of(levels):
        files = [encoded(flat_image(level)) for level in levels]
        return [{"bytes": file, "path": None} for file in files] if struct else files

    table = pa.table(
        {columns[0]: files_of(before), columns[1]: list(texts), columns[2]: files_of(after), "other": texts}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


def write_plain(folder: Path, count: int = 8) -> Path:
    """NAME.source.png, NAME.jpg and NAME.txt."""
    folder.mkdir()
    for i in range(count):
        before, after, text = triplet(i)
        (folder / f"{i:02d}.source.png").write_bytes(encoded(flat_image(before), "PNG"))
        (folder / f"{i:02d}.jpg").write_bytes(encoded(flat_image(after)))
        (folder / f"{i:02d}.txt").write_text(text + "\n")
    return folder
