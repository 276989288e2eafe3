"""Tiles: they cover, their shares sum to 1, one tile is the whole image, many are their blend; seams, one shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_base, make_model
from scipy import ndimage
from tiny import randomize, tiny_base

import codi_tf
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.data import load_photos
from codi_tf.diffusion.process import coefficients
from codi_tf.diffusion.sampling import make_grid, trajectory
from codi_tf.inference.tiles import blended, starts, tiles, window
from codi_tf.inference.tiling import generate_tiled, tiled_denoiser
from codi_tf.io.images import resize
from codi_tf.methods.codi import ConditionalDistillation
from codi_tf.methods.finetune import Finetune
from codi_tf.methods.guided import Guided
from codi_tf.tasks import make_task

UNDISTILLED = Path(codi_tf.__file__).parents[1] / "assets" / "photos-base" / "undistilled"


def photo(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def with_mask(height: int, width: int) -> np.ndarray:
    """A photo and a mask of a disc, uint8 [H, W, 4]."""
    y, x = np.mgrid[:height, :width]
    disc = (y - 0.4 * height) ** 2 + (x - 0.6 * width) ** 2 < (0.3 * height) ** 2
    return np.concatenate([photo(height, width), np.where(disc, 255, 0).astype(np.uint8)[..., None]], axis=-1)


# --- geometry


LENGTHS = [(1, 4, 2), (4, 4, 0), (5, 4, 2), (8, 4, 2), (9, 4, 0), (13, 8, 3), (64, 16, 8), (65, 16, 8), (100, 32, 31)]


@pytest.mark.parametrize(("length", "tile", "overlap"), LENGTHS)
def test_tiles_cover_with_steps_and_end_where_the_field_does(length, tile, overlap):
    first = starts(length, tile, overlap)
    step, side = tile - overlap, min(tile, length)
    assert first[0] == 0 and first[-1] + side == length
    assert all(b - a == step for a, b in zip(first, first[1:-1], strict=False))
    assert len(first) == 1 or 1 <= first[-1] - first[-2] <= step
    assert len(first) == 1 + max(0, -(-(length - tile) // step))  # none too many


@pytest.mark.parametrize(("tile", "overlap"), [(1, 0), (4, 0), (4, 2), (16, 5), (16, 8)])
def test_windows_rise_as_sin_squared_and_sum_to_one(tile, overlap):
    weight = window(tile, overlap)
    ramp = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / max(overlap, 1)) ** 2
    np.testing.assert_allclose(weight[:overlap], ramp, rtol=1e-12)
    np.testing.assert_allclose(weight[tile - overlap :], ramp[::-1], rtol=1e-12)
    np.testing.assert_array_equal(weight[overlap : tile - overlap], 1)
    np.testing.assert_allclose(weight[:overlap] + weight[tile - overlap :], 1, rtol=1e-12)


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), [(7, 33, 8, 3), (40, 16, 16, 8), (9, 9, 4, 3)])
def test_shares_are_the_windows_and_sum_to_one(height, width, tile, overlap):
    made = tiles(height, width, tile, overlap)
    places = [(y, x) for y in starts(height, tile, overlap) for x in starts(width, tile, overlap)]
    assert [(tile.rows.start, tile.columns.start) for tile in made] == places
    sides = min(tile, height), min(tile, width)
    weight = np.outer(*(window(side, min(overlap, side)) for side in sides))
    total = np.zeros((height, width))
    for y, x in places:
        total[y : y + sides[0], x : x + sides[1]] += weight
    sums = np.zeros((height, width, 1))
    for place in made:
        assert place.share.shape == (*sides, 1) and place.share.dtype == np.float32 and np.all(place.share > 0)
        np.testing.assert_allclose(place.share[..., 0], weight / total[place.rows, place.columns], rtol=1e-6)
        sums[place.rows, place.columns] += place.share
    np.testing.assert_allclose(sums, 1, atol=1e-6)


def test_blended_parts_of_a_field_are_the_field_in_any_order():
    random = np.random.default_rng(0)
    field = random.normal(size=(1, 21, 34, 3)).astype("float32")
    places = tiles(21, 34, 8, 3)
    parts = [(place, place.of(field)) for place in places]
    np.testing.assert_allclose(blended(parts, field.shape), field, atol=1e-6)
    spoiled = [(place, part + random.normal()) for place, part in parts]
    once, again = blended(spoiled, field.shape), blended(spoiled[::-1], field.shape)
    np.testing.assert_allclose(once, again, atol=1e-6)
    assert np.abs(once - field).max() > 0.1


# --- whole images


def models():
    """What tiles have to mind: the adapters, masks, boundary scalings, guidance given and guidance by two calls."""
    tuned = make_model(tiny_base(), method=Finetune())
    stage_1 = Guided(stage=1, guidance=[1.0, 3.0])
    guided = codi_tf.CoDi(tuned.base, tuned.student.adapter, method=stage_1)
    randomize(guided.student.unet.time_embedding.cond_proj.variables)
    yield "mu", make_model(make_base()), {}
    for adapter in ("controlnet", "t2i", "concat"):
        model = codi_tf.CoDi(tiny_base(), adapter=adapter, task="inpainting")
        randomize(model.student.adapter.variables)
        yield adapter, model, {}
    yield "inpainting", make_model(tiny_base(), task=make_task("inpainting")), {}
    yield "boundary", make_model(tiny_base(), method=ConditionalDistillation(boundary=True)), {}
    yield "takes guidance", guided, {"guidance": 2.5}
    yield "guided", make_model(tiny_base(), method=Finetune(drop_condition=0.1)), {"guidance": 3.0}


MODELS = {name: (model, options) for name, model, options in models()}


@pytest.mark.parametrize("name", ["mu", "controlnet", "inpainting", "guided"])
def test_one_tile_is_the_whole_image(name):
    """Of a size that has to be padded, with samplers that look back and that add noise."""
    model, options = MODELS[name]
    image = photo(14, 13) if model.task.condition_channels == 3 else with_mask(14, 13)
    plain = model.generate(image, steps=3)
    for sampler in ("dpm++", "stochastic"):
        shared = {"steps": 3, "sampler": sampler, "seed": 5, **options}
        made = generate_tiled(model, image, tile=24, overlap=8, **shared).astype(int)
        np.testing.assert_allclose(made, model.generate(image, **shared), atol=1)
        assert np.abs(made - plain).max() > 2  # noise, guidance


@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_many_tiles_is_their_blend(name):
    """One step, by hand: condition, prediction and image are the weighted means over the tiles that see a pixel."""
    model, options = MODELS[name]
    base, tile, overlap, height, width = model.base, 16, 8, 16, 40
    image = photo(height, width) if model.task.condition_channels == 3 else with_mask(height, width)
    condition = np.asarray(model.task.condition_from_image(image[None] / np.float32(127.5) - 1))
    columns = [0, 8, 16, 24]

    def mean(parts, factor):
        """The mean over overlapping columns, weighted by windows."""
        weight = window(tile // factor, overlap // factor)[:, None]
        parts = np.stack([np.asarray(part) for part in parts])
        field, total = np.zeros((*parts.shape[1:3], width // factor, parts.shape[-1])), np.zeros((width // factor, 1))
        for x, part in zip(columns, parts, strict=True):
            field[:, :, x // factor : (x + tile) // factor] += weight * part
            total[x // factor : (x + tile) // factor] += weight
        return (field / total).astype(np.float32)

    if model.network.condition_space != "image":
        c, factor = mean([model.encode_condition(condition[:, :, x : x + tile]) for x in columns], 4), 4
    else:
        c, factor = condition, 1
    z, t, prompt = gaussian_noise(5, (1, 4, 10, 4)), tf.constant(999), base.conditioning()
    scale = tf.constant([options["guidance"] if name == "takes guidance" else model.lowest_guidance])
    predictions = []
    for x in columns:
        z_tile, c_tile = z[:, :, x // 4 : (x + tile) // 4], tf.constant(c[:, :, x // factor : (x + tile) // factor])
        answers = [
            model.generator.denoise(z_tile, t, model.network.condition(condition, prompt), prompt, scale).x_hat
            for condition in (c_tile, tf.zeros_like(c_tile))
        ]
        conditional, unconditional = (answer.numpy() for answer in answers)
        predictions.append(
            unconditional + options["guidance"] * (conditional - unconditional) if name == "guided" else conditional
        )
    x_hat = mean(predictions, 4)
    decoded = mean([model.generator.decode(x_hat[:, :, x // 4 : (x + tile) // 4]) for x in columns], 1)
    expected = np.rint(255 * (np.asarray(model.task.finish(decoded, condition))[0] + 1) / 2)

    made = generate_tiled(model, image, tile=tile, overlap=overlap, steps=1, seed=5, **options)
    np.testing.assert_allclose(made, expected, atol=1)
    if image.shape[-1] == 4:
        known = image[..., 3] == 0
        np.testing.assert_array_equal(made[known], image[known][:, :3])
        assert 0.3 < known.mean() < 0.9


def test_blended_predictions_belong_together_whatever_the_order_of_the_tiles():
    """z_t = alpha_t x_hat + sigma_t eps_hat, v_hat = alpha_t eps_hat - sigma_t x_hat, after blending as before."""
    model, _ = MODELS["mu"]
    c = gaussian_noise(1, (1, 12, 10, 4))
    places = [(place, place) for place in tiles(12, 10, 4, 2)]
    results = []
    for order in (places, places[::-1]):
        denoise = tiled_denoiser(model.generator, c, order, model.base.conditioning())
        grid = make_grid("stochastic", model.base.schedule, 3)
        z_t = tf.constant(gaussian_noise(2, (1, 12, 10, 4)))
        for step, (got, z_s) in zip(
            grid.steps, trajectory(denoise, z_t, grid, [gaussian_noise(3, z_t.shape)] * 2), strict=True
        ):
            alpha_t, sigma_t = coefficients(model.base.schedule, step.t)
            np.testing.assert_allclose(alpha_t * got.x_hat + sigma_t * got.eps_hat, z_t, atol=1e-5)
            np.testing.assert_allclose(alpha_t * got.eps_hat - sigma_t * got.x_hat, got.v_hat, atol=1e-5)
            z_t = z_s
        results.append(np.asarray(got.x_hat))
    np.testing.assert_allclose(*results, atol=1e-5)


def test_a_prompt_and_its_guidance_reach_every_tile(tmp_path):
    pytest.importorskip("transformers")
    from tiny_pipeline import save_pipeline

    base = codi_tf.load_stable_diffusion(save_pipeline(tmp_path / "sd", "1.x"))
    model = codi_tf.CoDi(base, method=Finetune(drop_prompt=0.1), train="adapter")
    randomize(model.student.adapter.variables)
    shared = {"steps": 1, "prompt": "a cat", "text_guidance": 4.0}
    made = generate_tiled(model, photo(16, 16), tile=16, overlap=8, **shared).astype(int)
    np.testing.assert_allclose(made, model.generate(photo(16, 16), **shared), atol=1)
    for other in ({"prompt": "two dogs"}, {"text_guidance": 1.0}, {"prompt": None, "text_guidance": 1.0}):
        assert np.abs(made - model.generate(photo(16, 16), **{**shared, **other})).max() > 2
    with pytest.raises(UserError, match="2 prompts for one image"):
        generate_tiled(model, photo(16, 16), tile=16, overlap=8, prompt=["a cat", "two dogs"])
    with pytest.raises(UserError, match="text_guidance is 4.0: there is no prompt"):
        generate_tiled(model, photo(16, 16), tile=16, overlap=8, text_guidance=4.0)


def test_the_networks_see_tiles_of_one_shape_and_every_tile_is_reported():
    """Whatever the image's size: nothing is compiled for another shape than a tile's."""
    model, reported = make_model(tiny_base()), []
    for size in ((40, 24), (29, 64)):
        generate_tiled(model, photo(*size), tile=16, overlap=8, steps=2, report=reported.append)
    assert reported == [*range(1, 17), *range(1, 43)]  # 4 x 2 tiles, then 3 x 7, two steps each
    for compiled in (model.generator.denoise.alone, model.generator.decode.alone):
        assert compiled.experimental_get_tracing_count() == 1
        (traced,) = compiled._list_all_concrete_functions()
        assert tuple(traced.structured_input_signature[0][0].shape) == (1, 4, 4, 4)


SEAM = 1.25  # how much larger than elsewhere things may be near the tiles' borders; without overlap they are 1.5 to 7


def test_no_seams():
    """The trained small model on an enlarged photo, tiled less in one piece: its size, its jumps, its steps of tone."""
    model, side, tile = codi_tf.load(UNDISTILLED), 192, 96
    image = load_photos("heldout")["astronaut"][100:292, 100:292] / np.float32(255)
    image = resize(resize(image, 48, 48), side, side).astype(np.float32)
    whole, ratios = model.generate(image, steps=1).astype(float), {}
    for overlap in (48, 0):
        difference = generate_tiled(model, image, tile=tile, overlap=overlap, steps=1) - whole
        first = starts(side, tile, overlap)
        borders = np.isin(np.arange(side), [x for start in first for x in (start, start + tile) if 0 < x < side])
        near = ndimage.binary_dilation(borders[:, None] | borders, np.ones((9, 9)))
        assert 0.05 < near.mean() < 0.5
        size = np.abs(difference).mean(axis=-1)
        jumps = np.abs(np.diff(difference, axis=1)).mean(axis=(0, 2))  # from each column to the next
        blocks = difference.mean(axis=-1).reshape(side // 16, 16, side).mean(axis=1)
        means = ndimage.uniform_filter1d(blocks, 16, axis=1)
        tones = np.abs(means[:, 16:] - means[:, :-16]).mean(axis=0)  # between neighboring blocks of 16 x 16
        middle = [start + overlap // 2 for start in first[1:]]  # where one tile takes over from another
        over = np.min(np.abs(np.arange(8, side - 8)[:, None] - middle), axis=1) <= 2
        ratios[overlap] = [
            size[near].mean() / size[~near].mean(),
            jumps[borders[1:]].mean() / jumps[~borders[1:]].mean(),
            tones[over].mean() / tones[~over].mean(),
        ]
    assert max(ratios[48]) < SEAM < min(ratios[0]), ratios


# --- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 20}, "tile is 20: the networks take multiples of 8, such as 16"),
        ({"tile": 0}, "tile is 0: it must be a whole number from 8"),
        ({"tile": 16.0}, "tile is 16.0: it must be a whole number"),
        ({"overlap": 3}, "overlap is 3: the networks take multiples of 8, such as 8"),
        ({"overlap": -8}, "overlap is -8"),
        ({"overlap": 16}, "overlap is 16: it must be below tile, 16"),
        ({"steps": 0}, "steps is 0"),
        ({"sampler": "euler"}, "unknown sampler 'euler'"),
        ({"guidance": 2.0}, "guidance is 2.0: this model was trained without"),
        ({"prompt": "a cat"}, "no text encoder"),
        ({"image": np.zeros((1, 16, 16, 3), np.uint8)}, "tiles are made of one image"),
        ({"image": np.zeros((16, 16, 4), np.uint8)}, r"image has shape \(16, 16, 4\)"),
    ],
)
def test_mistakes(options, message):
    model, _ = MODELS["mu"]
    options = {"image": photo(16, 16), "tile": 16, "overlap": 8, **options}
    with pytest.raises(UserError, match=message) as caught:
        generate_tiled(model, options.pop("image"), **options)
    assert "\n" not in str(caught.value)


def test_a_result_that_is_not_finite_is_refused():
    model, _ = MODELS["boundary"]
    kernel = model.network.unet.conv_out.kernel
    kept = kernel.numpy()
    kernel.assign(np.full(kept.shape, np.nan, np.float32))
    with pytest.raises(UserError, match="not finite"):
        generate_tiled(model, photo(16, 24), tile=16, overlap=8, steps=1)
    kernel.assign(kept)
