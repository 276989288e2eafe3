"""python -m benchmarks.sources: training batches, in images per second, for each kind of source on disk.

Writes crops of the embedded photos as JPEG files of one size: in a folder, a TFRecord file, a tar file and as prepared
records. Then makes batches of `configs/photos_codi.yaml`'s task from each, in turns, without training. The folder is
read twice: image by image, and as a folder that fits into memory. All but the last must give the same pictures, bit by
bit: Python reads the TFRecord file, TensorFlow alone the others.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tarfile
import tempfile
from pathlib import Path

from benchmarks.timing import side_by_side
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.core.errors import UserError

BATCH = 16
ROUND = 8  # batches of a turn


def write_images(folder: Path, count: int, side: int) -> None:
    """Write `count` JPEG files to files, images.tfrecord, images.tar and prepared/ in the folder."""
    import numpy as np
    import tensorflow as tf
    from PIL import Image

    from codi_tf.data.photos import load_photos

    photos, random = list(load_photos("train").values()), np.random.default_rng(0)
    (folder / "files").mkdir()
    with (
        tf.io.TFRecordWriter(str(folder / "images.tfrecord")) as records,
        tarfile.open(folder / "images.tar", "w") as tar,
    ):
        for i in range(count):
            photo = Image.fromarray(photos[i % len(photos)])
            window = min(photo.size) // 2
            left, top = (int(random.integers(0, length - window + 1)) for length in photo.size)
            buffer = io.BytesIO()
            photo.crop((left, top, left + window, top + window)).resize((side, side)).save(buffer, "JPEG", quality=90)
            content = buffer.getvalue()
            (folder / "files" / f"{i:05d}.jpg").write_bytes(content)
            feature = {"image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))}
            records.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
            member = tarfile.TarInfo(f"{i:05d}.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    from codi_tf.data.open_source import open_source
    from codi_tf.data.preparing import prepare

    (folder / "prepared").mkdir()
    prepare(open_source(str(folder / "files"), in_memory=False), folder / "prepared", name="files", shard_bytes=1 << 28)


def measure(folder: Path, crop: int) -> dict[str, float]:
    """Images per second of each source."""
    from codi_tf import data
    from codi_tf.data import open_source as opening
    from codi_tf.tasks import make_task

    task = make_task("super_resolution")

    expected = {}

    def make(name: str, *, in_memory: bool):
        streamed = opening.IN_MEMORY
        with contextlib.ExitStack() as stack:
            stack.callback(setattr, opening, "IN_MEMORY", streamed)
            opening.IN_MEMORY = streamed if in_memory else 0
            source = data.load_source(str(folder / name), None, task)
        batches = iter(data.batches(source, task, image_size=crop, batch_size=BATCH, seed=0))
        if not in_memory:  # there, windows are drawn in another way
            first = next(batches)["image"].numpy()
            if (expected.setdefault("image", first) != first).any():
                raise UserError(f"{name} gives other pictures than the folder: its time is worth nothing")
        return lambda: [next(batches) for _ in range(ROUND)]

    sources = {
        "folder": make("files", in_memory=False),
        "TFRecord": make("images.tfrecord", in_memory=False),
        "tar": make("images.tar", in_memory=False),
        "prepared": make("prepared", in_memory=False),
        "folder, in memory": make("files", in_memory=True),
    }
    return {name: BATCH * ROUND / seconds for name, seconds in side_by_side(sources, rounds=5).items()}


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.sources", description="Images per second of sources on disk.")
    parser.add_argument("--count", type=int, default=400, help="images (default: 400)")
    parser.add_argument("--side", type=int, default=512, help="of the images, in pixels (default: 512)")
    parser.add_argument("--crop", type=int, default=64, help="of the crops (default: 64)")
    options = parser.parse_args(arguments)
    start_tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.count, options.side)
        for name, rate in measure(Path(folder), options.crop).items():
            print(f"{name:20}{rate:9.0f} images/s")


if __name__ == "__main__":
    sys.exit(run_command(_main))
