"""What a report shows: tables, curves, grids of images. Everything that is drawn is looked for in the result."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from codi_tf.evaluation import METRICS
from codi_tf.evaluation.curves import COLORS, DPI, LEVEL_COLOR, STROKES, WIDTH, _draw, _lines, _looks, write_curves
from codi_tf.evaluation.grids import comparison, name_of_steps, processes
from codi_tf.evaluation.tables import column, columns_of, legend, markdown_table, text_table
from codi_tf.io.images import to_uint8


def row(**figures):
    """Figures with intervals of a tenth to both sides."""
    return figures | {f"{name}_interval": (0.9 * figure, 1.1 * figure) for name, figure in figures.items()}


# --- tables


def test_a_table():
    rows = {
        "bicubic": {"psnr": 23.456, "psnr_interval": (23.1, 23.789), "ssim": 0.5, "ssim_interval": (0.4, 0.6)},
        "original": {"psnr": None, "psnr_interval": None, "ssim": 1.0, "ssim_interval": (1.0, 1.0)},
    }
    assert markdown_table(rows) == (
        "|  | PSNR, dB | SSIM |\n"
        "| --- | ---: | ---: |\n"
        "| bicubic | 23.46 [23.10, 23.79] | 0.500 [0.400, 0.600] |\n"
        "| original | - | 1.000 |\n"
    )


def test_a_table_for_a_terminal():
    """Markdown with its intervals was wrapped in every line, and no column stood below its title."""
    rows = {"bicubic": row(psnr=23.456, ssim=0.5), "original": {"psnr": None, "psnr_interval": None, "ssim": 1.0}}
    assert text_table(rows) == (
        "          PSNR, dB   SSIM\n"  # one column below the other
        "bicubic      23.46  0.500\n"
        "original         -  1.000\n"
    )
    assert text_table(rows, width=20) == (
        "          PSNR, dB\nbicubic      23.46\noriginal         -\n\n"
        "           SSIM\nbicubic   0.500\noriginal  1.000\n"
    )


def test_rounding_is_not_shown():
    table = markdown_table({"autoencoder": {"frechet_photos": 1e-14, "frechet_photos_interval": (0.0, 2e-13)}})
    assert table.endswith("| autoencoder | 0 |\n")


def test_columns_stand_in_one_order():
    rows = [row(mine=1.0, sharpness=1.0), row(fid=2.0, mine=1.0, psnr=3.0)]
    assert columns_of(rows) == ["psnr", "fid", "sharpness", "mine"]
    assert column("mine").title == "mine" and column("fid").title == "FID"
    assert "| a | - | - | 1.00 [0.90, 1.10] | 1 [0.9, 1.1] |" in markdown_table({"a": rows[0], "b": rows[1]})


def test_the_legend_explains_what_is_there():
    text = legend({"condition": row(psnr=1.0), "codi": row(frechet_photos=2.0)})
    assert "**PSNR, dB** (higher is better)" in text and "**FD-photos** (lower is better)" in text
    assert "not FID" in text and "*condition*" in text
    assert "SSIM" not in text and "autoencoder*" not in text and "*codi*" not in text


def test_no_distance_is_taken_for_fid():
    titles = {name: METRICS[name].column.title for name in METRICS}
    assert [name for name, title in titles.items() if title == "FID"] == ["fid"]
    assert titles["fid_keras"] == "FID (Keras)" and titles["frechet_photos"] == "FD-photos"


# --- curves


def shows(image: np.ndarray, color) -> int:
    """How many pixels have a color, exactly."""
    return int((image == np.round(255 * np.array(to_rgb(color)))).all(axis=-1).sum())


SERIES = {
    "finetuned": {1: row(psnr=20.0, frechet_photos=200.0), 4: row(psnr=21.0, frechet_photos=100.0)},
    "codi": {1: row(psnr=22.0, frechet_photos=90.0), 4: row(psnr=23.0, frechet_photos=10.0)},
}
LEVELS = {"autoencoder": row(psnr=27.0, frechet_photos=1e-14), "bicubic": row(psnr=23.5, frechet_photos=230.0)}


def test_curves_are_drawn(tmp_path):
    write_curves(tmp_path / "curves.png", SERIES, LEVELS)
    image = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert image.shape[1] == round(2 * WIDTH * DPI) and image.shape[0] > 300
    for color in (COLORS[0], COLORS[1], LEVEL_COLOR):
        assert shows(image, color) > 200, color
    assert shows(image, COLORS[2]) == 0
    assert shows(image, "white") > image[..., 0].size / 2


def test_folders_of_images_are_lines_in_further_colors(tmp_path):
    """In the third color, behind those of the two series, and in the legend; with an axis that reaches them."""
    others = {"theirs": row(psnr=31.0, frechet_photos=3.0)}
    write_curves(tmp_path / "curves.png", SERIES, LEVELS, results=others)
    image = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert shows(image, COLORS[2]) > 200 and shows(image, COLORS[3]) == 0
    plot = Figure().subplots()
    _draw(plot, "frechet_photos", SERIES, _lines(LEVELS, others, 2), _looks(list(SERIES), None))
    np.testing.assert_allclose(plot.lines[-1].get_ydata(), 3.0)
    assert plot.get_ylim()[0] == pytest.approx(3 / 1.2)


def drawn(name, series, levels=LEVELS):
    plot = Figure().subplots()
    _draw(plot, name, series, _lines(levels, {}, 0), _looks(list(series), None))
    return plot


def test_lines_bands_and_levels_lie_where_the_figures_are():
    plot = drawn("psnr", SERIES)
    lines = [line.get_xydata() for line in plot.lines]
    np.testing.assert_allclose(lines[0], [[1, 20], [4, 21]])
    np.testing.assert_allclose(lines[1], [[1, 22], [4, 23]])
    np.testing.assert_allclose([line[:, 1] for line in lines[2:]], [[27, 27], [23.5, 23.5]])
    band = plot.collections[0].get_paths()[0].vertices
    for corner in ((1, 18), (1, 22), (4, 18.9), (4, 23.1)):
        assert np.isclose(band, corner).all(axis=1).any(), corner
    assert plot.get_xscale() == "log" and [tick.get_text() for tick in plot.get_xticklabels()] == ["1", "4"]


def test_a_level_of_0_is_left_out_and_a_steep_distance_gets_a_log_axis():
    plot = drawn("frechet_photos", SERIES)
    assert plot.get_yscale() == "log" and len(plot.lines) == 3
    assert plot.get_ylim() == pytest.approx((9 / 1.2, 1.2 * 230))
    assert drawn("psnr", SERIES).get_yscale() == "linear"
    flat = {"codi": {1: row(frechet_photos=9.0), 2: row(frechet_photos=5.0)}}
    assert drawn("frechet_photos", flat, {}).get_yscale() == "linear"


def test_one_point_and_figures_that_are_missing(tmp_path):
    series = {"a": {4: row(psnr=20.0)}, "b": {4: {"psnr": None, "psnr_interval": None}}}
    plot = drawn("psnr", series, {})
    bars = plot.collections[0].get_segments()
    np.testing.assert_allclose(bars, [[[4, 18], [4, 22]]])
    write_curves(tmp_path / "curves.png", series, {})
    image = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert image.shape[1] == round(WIDTH * DPI) and shows(image, COLORS[0]) > 50


def test_no_two_lines_look_alike():
    looks = _looks([str(i) for i in range(len(COLORS) * len(STROKES))], None).values()
    assert len({(look["color"], str(look["linestyle"])) for look in looks}) == len(looks)
    families = {"a, ddim": "a", "a, dpm++": "a", "b, ddim": "b", "b, dpm++": "b"}
    looks = _looks(list(families), families)
    assert [look["color"] for look in looks.values()] == [COLORS[0], COLORS[0], COLORS[1], COLORS[1]]
    assert [look["linestyle"] for look in looks.values()] == [STROKES[0][0], STROKES[1][0]] * 2


# --- images

S, ZOOM, SIDE, GAP = 16, 8, 128, 8


def plain(value: float, channels: int = 3) -> np.ndarray:
    """An image that no other equals."""
    image = np.full((S, S, channels), value, np.float32)
    image[: S // 2, ..., 0] = -value
    return image


def cell(grid: np.ndarray, row: int, column: int, *, rows: int) -> np.ndarray:
    """An image of a grid that ends with `rows` rows, shrunk to its own size; columns count from the right, as -1."""
    top, left = grid.shape[0] + (row - rows) * (SIDE + GAP), grid.shape[1] + column * (SIDE + GAP)
    return to_uint8(grid[top : top + SIDE : ZOOM, left : left + SIDE : ZOOM])


def same(found: np.ndarray, image: np.ndarray) -> bool:
    return np.array_equal(found, to_uint8((image + 1) / 2))


def test_comparison_of_one_series():
    conditions, images = (np.stack([plain(v), plain(v + 0.1)]) for v in (0.1, 0.3))
    sampled = {1: np.stack([plain(0.5), plain(0.6)]), 4: np.stack([plain(0.7), plain(0.8)])}
    grid = comparison({"codi": sampled}, conditions, images)
    assert grid.shape[1] == GAP + 4 * (SIDE + GAP) and grid.shape[0] > 2 * (SIDE + GAP)
    for i in range(2):
        columns = (conditions[i], sampled[1][i], sampled[4][i], images[i])
        for place, image in enumerate(columns, start=-4):
            assert same(cell(grid, i, place, rows=2), image), (i, place)


def test_comparison_of_several_series():
    """The rows of an input stand together; what a series does not have is white."""
    conditions = np.stack([plain(0.1, 4), plain(0.2, 4)])  # with a mask, which is not shown
    images = np.stack([plain(0.3), plain(0.4)])
    series = {"codi": {1: images + 0.1, 4: images + 0.2}, "finetuned": {4: images + 0.3}}
    grid = comparison(series, conditions, images)
    white = np.ones((S, S, 3), np.float32)
    expected = {  # rows of the second input, counted from the bottom
        2: (images[1] + 0.1, images[1] + 0.2, conditions[1, ..., :3], images[1]),
        1: (white, images[1] + 0.3, white, white),
    }
    for rows, row in expected.items():
        for place, image in enumerate(row, start=-4):
            assert same(cell(grid, 0, place, rows=rows), image), (rows, place)
    one = comparison(series, conditions[:1], images[:1])
    np.testing.assert_array_equal(grid[: len(one)], one)  # the rows of the first input, with the titles


def test_comparison_with_folders_of_images():
    """Their columns stand before the original, once for each input; the rows of the other series are white there."""
    conditions, images = (np.stack([plain(v), plain(v + 0.1)]) for v in (0.1, 0.3))
    theirs, white = {"theirs": images - 0.2, "others": images - 0.4}, np.ones((S, S, 3), np.float32)
    one = comparison({"codi": {1: images + 0.1}}, conditions, images, theirs)
    for place, found in enumerate((conditions, images + 0.1, *theirs.values(), images), start=-5):
        assert same(cell(one, 1, place, rows=2), found[1]), place
    two = comparison({"codi": {1: images + 0.1}, "mine": {1: images + 0.2}}, conditions, images, theirs)
    for place, found in enumerate((images + 0.1, conditions, *theirs.values(), images), start=-5):
        assert same(cell(two, 0, place, rows=2), found[1]), place
    assert same(cell(two, 1, -5, rows=2), images[1] + 0.2)
    assert all(same(cell(two, 1, place, rows=2), white) for place in range(-4, 0))


def test_processes_are_a_triangle():
    ways = {steps: np.stack([plain(0.1 * steps + 0.01 * i) for i in range(steps)]) for steps in range(1, 5)}
    grid = processes(ways, plain(0.8, 4), plain(0.9))
    white = np.ones((S, S, 3), np.float32)
    for i, steps in enumerate(ways):
        for after in range(4):
            image = ways[steps][after] if after < steps else white
            assert same(cell(grid, i, after - 6, rows=4), image), (steps, after)
    assert same(cell(grid, 0, -2, rows=4), plain(0.8)) and same(cell(grid, 0, -1, rows=4), plain(0.9))
    assert same(cell(grid, 3, -1, rows=4), white)


def test_images_are_shown_with_128_pixels_at_least():
    def width(side):
        images = np.zeros((1, side, side, 3), np.float32)
        return (comparison({"a": {1: images}}, images, images).shape[1] - GAP) // 3 - GAP

    assert [width(side) for side in (16, 64, 96, 128, 200)] == [128, 128, 192, 128, 200]


def test_names_of_steps():
    assert [name_of_steps(count) for count in (1, 2, 50)] == ["1 step", "2 steps", "50 steps"]
