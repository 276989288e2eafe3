"""Images on disk that operations of TensorFlow read: the examples of the Python reader, bit by bit."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from numbered_images import S, numbered_files, stream_of, take
from PIL import Image
from shards import encoded, new_image, write_tar

from codi_tf import data
from codi_tf.core.errors import UserError
from codi_tf.data.headers import read_header
from codi_tf.data.open_source import open_source
from codi_tf.data.pipeline import REPLACED
from codi_tf.data.prompts import text_of
from codi_tf.data.records import Unreadable
from codi_tf.data.service import callbacks
from codi_tf.data.texts_in_graph import text_in_graph
from codi_tf.io.companions import IMAGE
from codi_tf.tasks import make_task

RANDOM = np.random.default_rng(1)
SMOOTH = np.clip(np.cumsum(RANDOM.normal(0, 4, (91, 123, 3)), axis=1) + 128, 0, 255).astype(np.uint8)
DEEP = RANDOM.integers(0, 65536, (30, 44, 4), np.uint16)


def file_of(image, kind, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def with_exif_at_the_end(png: bytes, exif: bytes) -> bytes:
    """A PNG whose EXIF data come after its pixels."""
    chunk = b"eXIf" + exif
    return png[:-12] + struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[-12:]


def files() -> dict[str, bytes]:
    """Images of all kinds that TensorFlow decodes."""
    rgb = Image.fromarray(SMOOTH)
    gray, alpha = rgb.convert("L"), Image.fromarray(np.dstack([SMOOTH, SMOOTH[::-1, :, 0]]))
    palette = rgb.quantize(16)
    found = {f"turned-{i}.jpg": file_of(rgb, "JPEG", quality=90, exif=turned(i)) for i in range(1, 9)}
    found |= {f"chroma-{i}.jpg": file_of(rgb, "JPEG", quality=90, subsampling=i) for i in range(3)}
    found["progressive.jpg"] = file_of(rgb, "JPEG", progressive=True)
    found["two.jpg"] = file_of(rgb, "MPO", save_all=True, append_images=[gray])
    found["gray.jpg"], found["gray.png"] = file_of(gray, "JPEG"), file_of(gray, "PNG")
    found["lossy.webp"], found["lossless.webp"] = file_of(rgb, "WEBP"), file_of(rgb, "WEBP", lossless=True)
    found["alpha.webp"], found["alpha.png"] = file_of(alpha, "WEBP", lossless=True), file_of(alpha, "PNG")
    found["turned.webp"] = file_of(rgb, "WEBP", lossless=True, exif=turned(5).tobytes())
    found["rgb.png"], found["gray-alpha.png"] = file_of(rgb, "PNG"), file_of(alpha.convert("LA"), "PNG")
    found["palette.png"], found["clear-palette.png"] = file_of(palette, "PNG"), file_of(palette, "PNG", transparency=3)
    found["clear-palette-2.png"] = file_of(palette, "PNG", transparency=bytes(range(0, 160, 10)))
    found["clear-gray.png"] = file_of(gray, "PNG", transparency=100)
    found["clear-color.png"] = file_of(rgb, "PNG", transparency=tuple(SMOOTH[3, 3].tolist()))
    found["bits.png"], found["four.png"] = file_of(gray.convert("1"), "PNG"), file_of(rgb.quantize(4), "PNG", bits=2)
    for channels in range(1, 5):
        found[f"deep-{channels}.png"] = tf.io.encode_png(DEEP[..., :channels]).numpy()
    found["turned-6.png"] = file_of(rgb, "PNG", exif=turned(6).tobytes())
    found["turned-8.png"] = with_exif_at_the_end(found["rgb.png"], turned(8).tobytes())
    found["misnamed.jpg"] = found["rgb.png"]
    found["turned-4.txt"] = b""
    found["turned-3.txt"], found["rgb.txt"] = b"a  picture\n", "ein \u00e4 Bild".encode("utf-16")
    return found


@pytest.fixture(scope="module", params=["folder", "tar"])
def kinds(request, tmp_path_factory):
    """(a source of these files, how many images there are)."""
    folder, members = tmp_path_factory.mktemp("kinds"), files()
    if request.param == "tar":
        place = write_tar(folder / "a.tar", members)
    else:
        place = folder / "images"
        place.mkdir()
        for name, content in members.items():
            (place / name).write_bytes(content)
    return open_source(str(place), in_memory=False), len(members) - 3


def check_same(ours, count, **options):
    found, expected = take(ours, count, **options), take(ours.in_python(), count, **options)
    assert not found.pop(REPLACED).any() and not expected.pop(REPLACED).any() and found.keys() == expected.keys()
    for key, value in expected.items():
        different = [i for i in range(count) if np.any(found[key][i] != value[i])]
        names = {ours.label(ours.record_at(i % len(ours), i // len(ours))) for i in different}
        assert not names, (key, names)


def test_the_pictures_are_those_of_the_python_reader(kinds):
    """Faults: a part of a JPEG whose edge lacks its neighbors' color, another draft, an EXIF turn, alpha over black."""
    source, count = kinds
    assert source.headers() is not None and source.headers().bad == {} and len(source) == count
    check_same(source, 6 * count, augment=True, recolor=True)
    assert set(take(source, count)["prompt"]) == {b"", b"a picture", "ein \u00e4 Bild".encode()}


def test_no_python_takes_part(kinds):
    source, _ = kinds
    options = {"image_size": S, "batch_size": 2, "seed": 0}
    assert not callbacks(data.batches(source, make_task("super_resolution"), **options))
    assert callbacks(data.batches(source.in_python(), make_task("super_resolution"), **options))


def test_large_jpegs_are_decoded_small_and_in_part(tmp_path):
    """Faults: the draft of another size, and a part that begins at the wrong pixel, at every reduction."""
    y, x = np.mgrid[:611, :803]
    noise = np.random.default_rng(2).normal(0, 20, (611, 803, 1))
    image = np.stack([127 + 90 * np.sin(y / 9), 127 + 90 * np.cos(x / 7), (x + y) / 6], axis=-1) + noise
    payload = encoded(np.clip(image, 0, 255).astype(np.uint8), "JPEG", quality=88)
    source = stream_of(tmp_path, {"a.jpg": payload})
    for size in (16, 50, 90, 240):
        options = {"image_size": size, "seed": 0, "augment": False}
        for ours, theirs in zip(
            *(data.crops(one, **options).take(12).as_numpy_iterator() for one in (source, source.in_python())),
            strict=True,
        ):
            np.testing.assert_array_equal(ours["image"], theirs["image"])


@pytest.mark.parametrize("kind", ["avif", "cmyk", "tiff", "gif", "misnamed"])
def test_python_reads_where_tensorflow_cannot(tmp_path, kind):
    """Fault: a folder with one such file is no longer trained on."""
    image = Image.fromarray(SMOOTH)
    content = {
        "cmyk": lambda: file_of(image.convert("CMYK"), "JPEG"),
        "misnamed": lambda: file_of(image, "AVIF"),
    }.get(kind, lambda: file_of(image, kind.upper()))()
    name = {"cmyk": "z.jpg", "misnamed": "z.jpg", "tiff": "z.tif"}.get(kind, f"z.{kind}")
    source = stream_of(tmp_path, {**numbered_files(3), name: content})
    assert source.headers() is None
    batches = data.batches(source, None, image_size=S, batch_size=4, seed=0)
    assert callbacks(batches) and next(iter(batches))["image"].shape == (4, S, S, 3)


@pytest.mark.parametrize("task", ["depth", "pairs"])
@pytest.mark.parametrize("place", ["folder", "tar"])
def test_companions(tmp_path, monkeypatch, task, place):
    """Faults: a map that loses its precision; a window of its own; one image of a pair made smaller."""
    chosen = make_task(task)
    members = {}
    for i in range(5):
        members[f"{i}.jpg"] = encoded(SMOOTH, "JPEG", quality=80 + i)
        values = np.random.default_rng(i).integers(
            0, 65536 if i else 256, SMOOTH.shape[:2], np.uint16 if i else np.uint8
        )
        companion = values if task == "depth" else 255 - SMOOTH[::-1]
        members[f"{i}.{chosen.condition_key}.png"] = encoded(companion)
    if place == "tar":
        source = data.load_source(str(write_tar(tmp_path / "a.tar", members)), None, chosen)
    elif task == "depth":
        for name, content in members.items():
            (tmp_path / name).write_bytes(content)
        monkeypatch.setattr("codi_tf.data.open_source.IN_MEMORY", 0)
        source = data.load_source(str(tmp_path), None, chosen)
    else:
        for name, content in members.items():
            folder = tmp_path / ("low" if "source" in name else "high")
            folder.mkdir(exist_ok=True)
            (folder / name.replace(".source", "")).write_bytes(content)
        source = data.load_source(f"{tmp_path / 'low'}:{tmp_path / 'high'}", None, chosen)
    assert source.headers() is not None
    check_same(source, 20, augment=True)


def test_a_constant_map_is_replaced(tmp_path):
    members = {f"{i}.png": encoded(new_image(i)) for i in range(4)}
    members |= {
        f"{i}.depth.png": encoded(np.full((20, 24), 7, np.uint8) if i == 2 else new_image(9)[..., 0]) for i in range(4)
    }
    source = stream_of(tmp_path, members, condition_key="depth", max_unreadable=0.3)
    found, expected = take(source, 8), take(source.in_python(), 8)
    np.testing.assert_array_equal(found["depth"], expected["depth"])
    assert found[REPLACED].sum() == 2 and len(source.unreadable) == 1 and "is constant" in source.unreadable[0]


def test_sources_that_are_resized_are_pythons(tmp_path):
    """Fault: bicubic by another program."""
    members = {"a.png": encoded(new_image(0)), "a.source.png": encoded(new_image(1, 10, 12))}
    for name, content in members.items():
        (tmp_path / name).write_bytes(content)
    source = data.load_source(str(tmp_path), None, make_task("pairs", resize=True))
    assert source.headers() is None and take(source, 2)["source"].shape == (2, S, S, 3)


TEXTS = [
    b"", b" a\tb\x0b\x1cc\r\n ", "\u00a0a\u2003\u3000b\u0085c\u2028".encode(), b"\xef\xbb\xbfa b",
    "a\u00e9 b".encode("utf-16"), "a\u20ac".encode("utf-32"), b"\xfe\xff\x00a\x20\xac", "\U0001f600".encode("utf-16"),
    b"\xff", b"a\x00b", b"a\x00", b"\xff\xfea", b"\xed\xa0\x80", b"\xc0\x80", "a\u200bb \ufeff".encode(),
]  # fmt: skip


@pytest.mark.parametrize("content", TEXTS, ids=[text.hex() for text in TEXTS])
def test_texts_are_those_of_python(content):
    """Faults: another white space, a byte order mark that stays, bytes that are no text."""
    try:
        expected = text_of({"text": content}).encode()
    except Unreadable:
        with pytest.raises(tf.errors.InvalidArgumentError):
            text_in_graph(tf.constant(content))
    else:
        assert text_in_graph(tf.constant(content)).numpy() == expected


def test_headers_are_read_without_the_pixels():
    """Fault: Pillow decodes a whole PNG to learn how it is turned, before a run of a million starts."""
    big = file_of(Image.fromarray(np.zeros((2000, 3000, 3), np.uint8)), "PNG", compress_level=0)

    class Counted(io.BytesIO):
        taken = 0

        def read(self, size=-1):
            content = super().read(size)
            self.taken += len(content)
            return content

    file = Counted(big)
    assert read_header(file, IMAGE).size == (2000, 3000) and file.taken < 100_000 < len(big)
    with pytest.raises(Unreadable, match="not an image"):
        read_header(io.BytesIO(b"text"), IMAGE)


def test_images_that_are_too_small_end_a_run_at_its_start(tmp_path):
    source = stream_of(tmp_path, numbered_files(4, 12, 30))
    with pytest.raises(UserError, match="4 of 4 records are unreadable, .*it is 12x30, smaller than image_size 16"):
        data.crops(source, image_size=S, seed=0)
