"""Image files and arrays. NumPy and Pillow only.

An image is float32 RGB [H, W, 3] in [0, 1] (1 is white) unless a docstring says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path
from codi_tf.io.files import whole_file
from codi_tf.io.image_files import FORMATS, is_too_large, open_image


def read_image(path: str | os.PathLike[str], *, background: float = 1.0) -> np.ndarray:
    """Read an image file as float32 RGB [H, W, 3] in [0, 1], as a viewer shows it.

    Applies the EXIF orientation, composites transparency over the background (0 black, 1 white), replicates gray to
    three channels, and takes the first frame of an animation or multi-page file. Gray images of 16 bits keep their
    precision; Pillow reads 16-bit color as its upper 8 bits. Float images must be in [0, 1] and 32-bit integer images
    in 0 .. 65535, because the file does not record their range. Ignores color profiles.

    Raises:
        UserError: the file is missing, unreadable, not an image, truncated or too large, or its range is unknown.
    """
    path = as_path(path)
    image = _open(path)
    if image.mode == "F":
        return _gray_to_rgb(_checked(image, path, low=0, high=1))
    if image.mode == "I":
        return _gray_to_rgb(_checked(image, path, low=0, high=65535) / 65535)
    if image.mode.startswith("I;16"):
        return _gray_to_rgb(np.asarray(image).astype(np.float32) / 65535)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"), np.float32) / 255  # [H, W, 4]
        rgb, alpha = rgba[..., :3], rgba[..., 3:]
        return background - alpha * (background - rgb)
    return np.asarray(image.convert("RGB"), np.float32) / 255


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file of any mode as a mask, float32 [H, W, 1]: 1 where it is white, 0 elsewhere.

    A pixel is white if the mean of its colors exceeds one half. Transparent pixels are not white.

    Raises:
        UserError: see `read_image`.
    """
    brightness = read_image(path, background=0.0).mean(axis=-1, keepdims=True)
    return (brightness > 0.5).astype(np.float32)


def read_image_and_mask(path: str | os.PathLike[str], mask: str | os.PathLike[str]) -> np.ndarray:
    """Read an image and the mask of the area to fill: float32 [H, W, 4], RGB in [0, 1], and 1 where it is unknown.

    Raises:
        UserError: see `read_image`; the mask has another size, or none or all of it is white.
    """
    image, unknown = read_image(path), read_mask(mask)
    if unknown.shape[:2] != image.shape[:2]:
        mask_size, image_size = (f"{one.shape[1]}x{one.shape[0]}" for one in (unknown, image))
        raise UserError(f"{mask}: {mask_size}, but the photo is {image_size}; make it of the same size")
    if not unknown.any():
        raise UserError(f"{mask}: no pixel is white; paint the area to fill in white")
    if unknown.all():
        raise UserError(f"{mask}: every pixel is white; paint the area to keep in black")
    return np.concatenate([image, unknown], axis=-1)


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an image, float in [0, 1] or uint8 RGB [H, W, 3], as PNG; creates a missing folder.

    The file appears whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    image_file = Image.fromarray(to_uint8(image))
    with whole_file(as_path(path)) as partial:
        image_file.save(partial, format="PNG")


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Convert to uint8 by round(255 * clip(image, 0, 1)), any shape; uint8 is returned unchanged.

    Raises:
        ValueError: the image is neither uint8 nor floating point, or is not finite.
    """
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"an image must be uint8 or floating point, not {image.dtype}")
    if not np.isfinite(image).all():
        raise ValueError("an image must be finite, this one holds NaN or infinity")
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """A decoded image of any mode as uint8 RGB [H, W, 3], as `read_image` converts it.

    Raises:
        UserError: values of unknown range.
    """
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        values, largest = np.asarray(image).astype(np.float32), 1 if image.mode == "F" else 65535
        if not (values.min() >= 0 and values.max() <= largest):  # so written, NaN fails, too
            raise UserError(f"mode {image.mode} with values {values.min()} to {values.max()}, not 0 to {largest}")
        return np.repeat(to_uint8(values / largest)[..., None], 3, axis=-1)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"), np.float32) / 255
        return to_uint8(1.0 - rgba[..., 3:] * (1.0 - rgba[..., :3]))  # over white
    return np.asarray(image.convert("RGB"))


def as_batch(name: str, value, channels: int = 3) -> np.ndarray:
    """Convert one image or several, uint8 or float in [0, 1], to float32 [B, H, W, channels] in [0, 1].

    With 4 channels the last one is a mask.

    Raises:
        UserError: another shape, type or range; the message calls the value `name`.
    """
    image = np.asarray(value)
    if image.ndim not in (3, 4) or image.shape[-1] != channels or 0 in image.shape:
        kind = "" if channels == 3 else ", RGB and the mask"
        raise UserError(f"{name} has shape {image.shape}: it must be [H, W, {channels}] or [B, H, W, {channels}]{kind}")
    if image.dtype == np.uint8:
        image = image / np.float32(255)
    elif not np.issubdtype(image.dtype, np.floating):
        raise UserError(f"{name} is of type {image.dtype}: it must be uint8, or float in [0, 1]")
    elif not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
        training = ", (x + 1) / 2 of one in [-1, 1], as training takes it" if -1 <= image.min() < 0 else ""
        raise UserError(f"{name} lies in [{image.min():.3g}, {image.max():.3g}]: floats must be in [0, 1]{training}")
    return image.astype(np.float32).reshape(-1, *image.shape[-3:])


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic resize of [H, W, C] to float32 [height, width, C], antialiased when it shrinks, clipped to [0, 1]."""
    channels = [Image.fromarray(channel) for channel in np.moveaxis(np.asarray(image, np.float32), -1, 0)]
    resized = [np.asarray(c.resize((width, height), Image.Resampling.BICUBIC)) for c in channels]
    return np.clip(np.stack(resized, axis=-1), 0, 1)


def resize_condition(condition: np.ndarray, height: int, width: int, *, has_mask: bool) -> np.ndarray:
    """Resize an image [H, W, 3], or an image and its mask [H, W, 4], in [0, 1]; float32 if the size changes.

    A pixel becomes unknown if any unknown pixel, of a mask above 0.5, contributes to it.
    """
    if condition.shape[:2] == (height, width):
        return condition
    if not has_mask:
        return resize(condition, height, width)
    rgb = resize(condition[..., :3], height, width)
    # Centered at one half, so that clipping to [0, 1] does not cut off the negative lobes of the bicubic kernel.
    share = resize(0.5 + 0.25 * (condition[..., 3:] > 0.5).astype(np.float32), height, width) - 0.5
    unknown = np.abs(share) > 1e-4
    return np.concatenate([rgb, unknown], axis=-1)


def pad_to_multiple(image: np.ndarray, multiple: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Pad [H, W, C] by reflection at the bottom and right to multiples of a number; return (padded, (H, W))."""
    height, width = image.shape[:2]
    padding = ((0, -height % multiple), (0, -width % multiple), (0, 0))
    return np.pad(image, padding, mode="reflect"), (height, width)


def bands(height: int, rows: int = 256) -> Iterator[slice]:
    """Slices of an image's rows, `rows` at a time: processing in bands needs no second image in memory."""
    return (slice(first, min(first + rows, height)) for first in range(0, height, rows))


def grid(
    rows: list[list[np.ndarray]],
    titles: list[str],
    *,
    row_labels: list[str] | None = None,
    gap: int = 8,
    zoom: int = 1,
    font_size: int = 14,
) -> np.ndarray:
    """Arrange images in rows under column titles, on white; a column is as wide as its widest image or title.

    Args:
        rows: images [H, W, 3], float [0, 1] or uint8, of any size; each row has one image per title.
        titles: one per column, of one line or several.
        row_labels: one per row, to its left.
        gap: white pixels between and around the cells.
        zoom: every pixel becomes zoom x zoom pixels.
        font_size: of titles and labels, in pixels.

    Returns:
        float32 [H, W, 3] in [0, 1].

    Raises:
        ValueError: the numbers of rows, titles and row labels do not match.
    """
    if any(len(row) != len(titles) for row in rows):
        raise ValueError(f"a grid with {len(titles)} titles needs as many images in every row")
    if row_labels is not None and len(row_labels) != len(rows):
        raise ValueError(f"a grid with {len(rows)} rows needs as many row labels, got {len(row_labels)}")
    font = ImageFont.load_default(size=font_size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    cells = [[_zoomed(image, zoom) for image in row] for row in rows]
    title_height = _text_height(titles, font)
    label_width = max(_text_width(label, font) + gap for label in row_labels) if row_labels else 0
    widths = [max([_text_width(t, font), *(row[i].shape[1] for row in cells)]) for i, t in enumerate(titles)]
    labels = row_labels or [""] * len(rows)
    heights = [
        max([_text_height([label], font), *(cell.shape[0] for cell in row)])
        for label, row in zip(labels, cells, strict=True)
    ]

    width = gap + label_width + sum(w + gap for w in widths)
    height = gap + title_height + gap + sum(h + gap for h in heights)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    lefts = [gap + label_width + sum(w + gap for w in widths[:i]) for i in range(len(widths))]
    tops = [gap + title_height + gap + sum(h + gap for h in heights[:i]) for i in range(len(heights))]
    for left, column_width, title in zip(lefts, widths, titles, strict=True):
        for i, line in enumerate(title.split("\n")):
            top = gap + i * sum(font.getmetrics())
            draw.text((left + column_width // 2, top), line, fill="black", font=font, anchor="ma")
    for top, row_height, label in zip(tops, heights, labels, strict=True):
        draw.text((gap, top + row_height // 2), label, fill="black", font=font, anchor="lm")
    for top, row in zip(tops, cells, strict=True):
        for left, column_width, cell in zip(lefts, widths, row, strict=True):
            canvas.paste(Image.fromarray(cell), (left + (column_width - cell.shape[1]) // 2, top))
    return np.asarray(canvas, np.float32) / 255


def _open(path: Path) -> Image.Image:
    """Opens, decodes and turns upright. Every exception of a decoder becomes a UserError."""
    try:
        with open_image(path) as image:
            return ImageOps.exif_transpose(image)  # a copy, decoded
    except FileNotFoundError as error:
        raise UserError(f"cannot read image {path}: no such file") from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"cannot read image {path}: not an image of {', '.join(FORMATS)}; save it as PNG or JPEG"
        ) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on damaged bytes
        if is_too_large(error):
            limit = f"{Image.MAX_IMAGE_PIXELS:,}"
            raise UserError(f"cannot read image {path}: more than {limit} pixels; shrink it first") from error
        if isinstance(error, OSError) and error.strerror:  # of the file system, not of a decoder
            raise UserError(f"cannot read image {path}: {error.strerror}") from error
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read image {path}: truncated or damaged ({reason}); copy it again") from error


def _checked(image: Image.Image, path: Path, *, low: int, high: int) -> np.ndarray:
    values = np.asarray(image)  # [H, W]
    if not (values.min() >= low and values.max() <= high):  # written so that NaN fails, too
        raise UserError(
            f"cannot read image {path}: mode {image.mode} with values {values.min()} to {values.max()}; "
            f"rescale it to {low} .. {high}"
        )
    return values.astype(np.float32)


def _gray_to_rgb(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray.astype(np.float32)[..., None], 3, axis=-1)


def _zoomed(image: np.ndarray, zoom: int) -> np.ndarray:
    return to_uint8(image).repeat(zoom, axis=0).repeat(zoom, axis=1)


def _text_width(text: str, font: ImageFont.FreeTypeFont) -> int:
    return max(int(np.ceil(font.getlength(line))) for line in text.split("\n"))


def _text_height(texts: list[str], font: ImageFont.FreeTypeFont) -> int:
    return max(len(text.split("\n")) for text in texts) * sum(font.getmetrics()) if any(texts) else 0
