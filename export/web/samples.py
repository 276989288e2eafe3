"""Samples of a page: images that its package makes while the page is built, so that a first visitor sees what it does.

They are made of the user's images, or of rendered scenes. The scenes in the folder samples/ were drawn by `codi scenes
--size 256` (numbers 7, 3 and 9) and `--edits` (0, 5 and 11).
"""

from __future__ import annotations

import importlib.resources
import io
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from codi_tf.core.errors import UserError
from codi_tf.core.progress import Progress
from codi_tf.io import images
from codi_tf.io.conditions import condition_files, marked_masks, read_condition
from codi_tf.io.image_files import open_image
from codi_tf.io.image_folders import partners
from export.package.manifest import Package
from export.runtime import run

SCENES = importlib.resources.files("export.web") / "samples"
COUNT = 3  # of the scenes
SHRUNK = 4  # times, what is made large again
RESTORING = ("super_resolution", "real_world", "bicubic")
MAX_SIDE, MAX_SAMPLES = 512, 12
NAMES = "samples/sample-"  # begins the names of their files in a page
SEED = 0
Files = dict[str, bytes]


class Sample(NamedTuple):
    """A condition in eight bits: as a page reads it, and as `codi run` reads it.

    Attributes:
        image: RGB [H, W], or a depth map, L [H, W].
        mask: L [H, W], white where the image is to be filled; None for tasks without masks.
        prompt: None for packages that take none.
    """

    image: Image.Image
    mask: Image.Image | None = None
    prompt: str | None = None


def scenes(package: Package) -> list[Sample]:
    """Samples made of rendered scenes; none for tasks whose conditions cannot be made of them."""
    if package.prompted and package.task != "editing":
        return []
    made = (_scene(package, number) for number in range(1, COUNT + 1))
    return [sample for sample in made if sample is not None]


def _scene(package: Package, number: int) -> Sample | None:
    def opened(name: str) -> Image.Image:
        image = open_image(io.BytesIO((SCENES / name).read_bytes()))
        return _fitted(image.convert("L" if "." in name[:-4] else "RGB"), package.height, package.width)

    if package.task in RESTORING:
        return Sample(_worse(opened(f"{number}.png")))
    if package.condition_file == "masked_image":
        return Sample(opened(f"{number}.png"), _sharp(opened(f"{number}.mask.png")))
    if package.condition_file == "disparity":
        return Sample(opened(f"{number}.depth.png"))
    if package.task == "editing" and package.prompted:
        return Sample(opened(f"edits/{number}.png"), prompt=(SCENES / f"edits/{number}.txt").read_text().strip())
    return None


def own(folder: Path, package: Package) -> list[Sample]:
    """Samples made of a folder's images: NAME.png and, where the package takes them, NAME.mask.png and NAME.txt.

    Raises:
        UserError: no images, too many, one without its mask or its prompt, or maps of distances.
    """
    if package.condition_file == "depth":
        raise UserError(
            f"--samples: a page has no samples of depth maps that hold distances, as {package.folder} takes"
        )
    files = condition_files(folder, package.condition_file)
    if len(files) > MAX_SAMPLES:
        raise UserError(f"{folder}: has {len(files)} images, a page shows at most {MAX_SAMPLES} samples")
    masks = partners(files, "--samples", folder, marked_masks) if package.has_mask else {}
    made = []
    for name, path in files.items():
        condition = images.to_uint8(read_condition(path, package.condition_file, masks.get(name)))
        image = _fitted(Image.fromarray(np.ascontiguousarray(condition[..., :3])), MAX_SIDE, MAX_SIDE)
        mask = None
        if package.has_mask:
            mask = _sharp(_fitted(Image.fromarray(np.ascontiguousarray(condition[..., 3])), MAX_SIDE, MAX_SIDE))
        prompt = _prompt(path.with_name(f"{Path(name).name}.txt")) if package.prompted else None
        made.append(Sample(image, mask, prompt))
    return made


def _prompt(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path}: cannot be read; a sample of this package needs its prompt there") from None


def make(package: Package, samples: list[Sample]) -> tuple[list[dict], Files]:
    """What the package makes of samples with seed 0.

    Returns:
        what the page is told: for each sample "before" and "after", paths in the site, "mask" and "prompt" where there
        is one; and the files at these paths.
    """
    if not samples:
        return [], {}
    sampler = run.load(package)
    report = Progress("making samples", len(samples)).update
    told, files = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for number, sample in enumerate(samples, 1):
            before, after, mask = (f"{NAMES}{number}{kind}.png" for kind in ("", ".made", ".mask"))
            entry = {"before": before, "after": after}
            files[before] = _png(sample.image)
            if sample.mask is not None:
                files[mask], entry["mask"] = _png(sample.mask), mask
            if sample.prompt is not None:
                entry["prompt"] = sample.prompt
            there = {path: Path(folder, Path(path).name) for path in entry.values() if path in files}
            for path, file in there.items():
                file.write_bytes(files[path])
            condition = read_condition(there[before], package.condition_file, there.get(mask))
            image = run.generate(sampler, condition, seed=SEED, ids=run.token_ids(package, sample.prompt))
            files[after] = _png(Image.fromarray(images.to_uint8(image)))
            told.append(entry)
            report(number)
    return told, files


def _fitted(image: Image.Image, height: int, width: int) -> Image.Image:
    """The image, made smaller to fit into a size."""
    image.thumbnail((width, height), Image.Resampling.BICUBIC)
    return image


def _sharp(mask: Image.Image) -> Image.Image:
    """A mask in black and white."""
    return mask.point(128 * [0] + 128 * [255])


def _worse(image: Image.Image) -> Image.Image:
    """Shrunk, compressed as JPEG, and made large again."""
    small = image.resize([max(1, side // SHRUNK) for side in image.size], Image.Resampling.BICUBIC)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return open_image(file).convert("RGB").resize(image.size, Image.Resampling.BICUBIC)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
