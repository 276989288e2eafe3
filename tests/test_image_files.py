"""Which files are opened as images: a stated list of formats, no program, no bomb, no pipe."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codi_tf.core.errors import UserError
from codi_tf.data.decoding import EncodedImage
from codi_tf.data.open_source import fit_in_memory
from codi_tf.data.records import Unreadable
from codi_tf.io.depth_files import read_depth
from codi_tf.io.image_files import EXTENSIONS, FORMATS
from codi_tf.io.images import read_image, read_mask

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
READERS = {"image": read_image, "mask": read_mask, "depth": read_depth}


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """A file that appears when Ghostscript is started."""
    program, ran = tmp_path / "bin" / "gs", tmp_path / "ran"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 10.0\ntouch {ran}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return ran


@pytest.mark.parametrize("name", ["photo.jpg", "photo.eps", "photo.png"])
def test_postscript_starts_no_program(tmp_path, ran, name):
    """Fault: Pillow runs Ghostscript on an EPS, whatever the file is called."""
    path = tmp_path / name
    path.write_bytes(POSTSCRIPT)
    for read in READERS.values():
        with pytest.raises(UserError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(Unreadable, match="not an image of "):
        EncodedImage(POSTSCRIPT).shrunk(1.0)
    fit_in_memory([path], depth=3)
    assert not ran.exists()


def test_images_are_opened_in_one_place():
    """Fault: a reader of its own, without the list of formats and the limit of pixels."""
    root = Path(__file__).parents[1]
    folders = ("codi_tf", "export", "benchmarks", "studies")
    files = [root / "demo.py", *(file for folder in folders for file in (root / folder).rglob("*.py"))]
    opening = re.compile(r"Image\.open\(|imread\(|decode_(image|png|jpeg|bmp|gif)\(|load_img\(")
    found = {str(file.relative_to(root)) for file in files if opening.search(file.read_text(encoding="utf-8"))}
    assert found == {"codi_tf/io/image_files.py", "codi_tf/data/decoding_in_graph.py"}  # the second reads records


@pytest.mark.parametrize("format", [name for name in FORMATS if name in Image.SAVE or not Image.init()])
def test_every_format_is_read(tmp_path, format):
    """Fault: a format of the list that Pillow does not open under this name."""
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow has no {format}")
    pixels = np.full((16, 24, 3), 100, np.uint8)
    path = tmp_path / "any name"
    Image.fromarray(pixels).save(path, format)
    np.testing.assert_allclose(255 * read_image(path), pixels, atol=3)
    assert set(EXTENSIONS) & {ext for ext, name in Image.registered_extensions().items() if name == format}


def test_a_jpeg_of_several_images(tmp_path):
    """Fault: what phones write (MPO) is refused because it is not in the list."""
    first, second = (Image.fromarray(np.full((16, 16, 3), level, np.uint8)) for level in (50, 200))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    np.testing.assert_allclose(255 * read_image(tmp_path / "a.jpg"), 50, atol=3)


def test_a_bomb_is_refused_everywhere_without_a_warning(tmp_path, monkeypatch, recwarn):
    """Fault: one of the readers decodes more pixels than Pillow's limit, or only warns of them."""
    path, buffer = tmp_path / "a.png", io.BytesIO()
    Image.fromarray(np.arange(18, dtype=np.uint8).reshape(3, 6)).save(path)
    Image.open(path).save(buffer, "PNG")
    for limit in (17, 5):  # Pillow warns of the first, and raises at the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for name, read in READERS.items():
            with pytest.raises(UserError, match=f"more than {limit} pixels"):
                print(name, read(path))
        with pytest.raises(Unreadable, match=f"more than {limit} pixels"):
            EncodedImage(buffer.getvalue())
        assert fit_in_memory([path], depth=3)
    assert not recwarn.list


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, reader):
    """Fault: opening a pipe that nobody writes to hangs."""
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", Path("/dev/null")):
        with pytest.raises(UserError, match="a pipe or a device"):
            READERS[reader](path)
