"""The columns of a report, and rows of `measuring.evaluate` as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

NOTHING = 1e-9  # what is smaller is 0 but for rounding


class Column(NamedTuple):
    """How a measure is shown: title, format of its figures, which way is better, what it is."""

    title: str
    format: str
    better: str
    note: str


COLUMNS = {
    "psnr": Column("PSNR, dB", "{:.2f}", "higher", "peak signal-to-noise ratio to the originals"),
    "ssim": Column("SSIM", "{:.3f}", "higher", "structural similarity to the originals (11 x 11 Gaussian windows)"),
    "lpips": Column("LPIPS", "{:.3f}", "lower", "learned perceptual distance to the originals"),
    "clip_score": Column("CLIP score", "{:.3f}", "higher", "cosine similarity of the picture and the prompt"),
    "fid": Column(
        "FID",
        "{:.4g}",
        "lower",
        "Frechet distance to the originals in the features of the original Inception weights; few pictures raise it: "
        "compare equal counts only",
    ),
    "fid_keras": Column(
        "FID (Keras)",
        "{:.4g}",
        "lower",
        "Frechet distance to the originals in the features of Keras' InceptionV3, not comparable with published FID; "
        "few pictures raise it: compare equal counts only",
    ),
    "frechet_photos": Column(
        "FD-photos",
        "{:.3g}",
        "lower",
        "Frechet distance to the autoencoder's reconstructions of the originals in the features of a small network "
        "that tells the embedded photos apart; not FID: compare within this table only",
    ),
    "sharpness": Column("sharpness", "{:.2f}", "1 is best", "gradient energy, 1 is the originals'"),
    "latent_error": Column("latent error", "{:.4f}", "lower", "mean squared error to the originals' latents"),
}
ROWS = {
    "bicubic": "the condition itself",
    "condition": "the condition itself",
    "autoencoder": "the originals through the autoencoder, about the best that these latents allow",
    "original": "the originals themselves",
}


def column(name: str) -> Column:
    """The column of a measure; one that is not known is shown by its name."""
    return COLUMNS.get(name, Column(name, "{:.4g}", "", "a measure of the caller's"))


def columns_of(rows: Iterable[dict]) -> list[str]:
    """The measures that rows have, in the order of COLUMNS, others behind."""
    names = list(dict.fromkeys(key for row in rows for key in row if not key.endswith("_interval")))
    return [name for name in COLUMNS if name in names] + [name for name in names if name not in COLUMNS]


def markdown_table(rows: dict[str, dict]) -> str:
    """The rows that `evaluate` returns as a Markdown table: figures with their intervals."""
    names = columns_of(rows.values())
    lines = [["", *(column(name).title for name in names)], ["---", *("---:" for _ in names)]]
    lines += [[label, *(_cell(row, name) for name in names)] for label, row in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def legend(rows: dict[str, dict]) -> str:
    """What the columns and the rows of the table are, as a Markdown list."""
    lines = [
        f"- **{column(name).title}** ({_way(column(name).better)}): {column(name).note}."
        for name in columns_of(rows.values())
    ]
    lines += [f"- *{label}*: {what}." for label, what in ROWS.items() if label in rows]
    return "\n".join(lines)


def _way(better: str) -> str:
    return f"{better} is better" if better in ("higher", "lower") else better or "-"


def _cell(row: dict, name: str) -> str:
    value, interval = row.get(name), row.get(f"{name}_interval")
    if value is None:
        return "-"
    figure = _figure(name, value)
    if interval is None:
        return figure
    low, high = (_figure(name, bound) for bound in interval)
    return figure if low == high else f"{figure} [{low}, {high}]"


def _figure(name: str, value: float) -> str:
    return column(name).format.format(value if abs(value) > NOTHING else 0.0)
