"""Edits by formulas: exact, within range, drawn evenly, with instructions that fit."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageFilter
from scipy import ndimage, stats

from codi_tf import data
from codi_tf.core.errors import UserError
from codi_tf.data.edits import EDITS, Edits
from codi_tf.tasks.editing import Editing
from codi_tf.tasks.inpainting import Inpainting

S = 32
RANDOM = np.random.default_rng(0)
PHOTOS = {"a": RANDOM.integers(0, 256, (48, 64, 3), np.uint8), "b": RANDOM.integers(0, 256, (40, 40, 3), np.uint8)}
X = RANDOM.uniform(-1, 1, (S, S, 3)).astype(np.float32)
V = (X.astype(np.float64) + 1) / 2  # in [0, 1]
LUMA = V @ [0.299, 0.587, 0.114]


def of_values(values):
    return 2 * np.clip(values, 0, 1) - 1


def three(values):
    return np.repeat(values[..., None], 3, axis=-1)


# What each edit makes of X, written down a second time with NumPy and SciPy.
EXPECTED = {
    "black_and_white": of_values(three(LUMA)),
    "sepia": of_values(np.stack([LUMA**0.8, LUMA, LUMA**1.4], axis=-1)),
    "night": of_values(V * [0.2, 0.25, 0.45]),
    "warmer": of_values(V ** np.array([0.7, 1, 1.4])),
    "colder": of_values(V ** np.array([1.4, 1, 0.7])),
    "inverted": -X,
    "blurred": ndimage.gaussian_filter(X.astype(np.float64), (S / 24, S / 24, 0), radius=(4, 4, 0)),
    "mirrored": np.fliplr(X),
    "upside_down": np.rot90(X, 2),
    "brighter": of_values(np.sqrt(V)),
    "darker": of_values(V**2),
    "more_contrast": of_values(2 * V - 0.5),
    "less_contrast": 0.4 * X,
    "more_color": of_values(2 * V - three(LUMA)),
    "posterized": np.where(np.abs(X) <= 0.5, 0, np.sign(X)),
    "pencil": np.maximum(
        1 - three(np.hypot(*(ndimage.sobel(2 * LUMA - 1, axis, mode="mirror") for axis in (0, 1)))) / 2, -1
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_edits_are_their_formulae(name):
    edited = EDITS[name].apply(tf.constant(X)).numpy()
    assert edited.shape == X.shape and edited.dtype == np.float32
    np.testing.assert_allclose(edited, EXPECTED[name], atol=2e-5)


@pytest.mark.parametrize("size", [24, 32, 60])
def test_pixelated_images_are_twelve_squares_wide(size):
    x = RANDOM.uniform(-1, 1, (size, size, 3)).astype(np.float32)
    edited = EDITS["pixelated"].apply(tf.constant(x)).numpy()
    assert len(np.unique(edited.reshape(-1, 3), axis=0)) == 144
    if size % 12 == 0:
        side = size // 12
        means = x.reshape(12, side, 12, side, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(edited, means.repeat(side, axis=0).repeat(side, axis=1), atol=1e-6)


def test_every_edit_is_tested():
    assert {*EXPECTED, "pixelated"} == set(EDITS)


def test_a_pencil_draws_edges_and_leaves_the_paper_white():
    photo = np.full((S, S, 3), -0.5, np.float32)
    photo[8:24, 8:24] = 0.5
    drawn = EDITS["pencil"].apply(tf.constant(photo)).numpy()[..., 0]
    edges = np.asarray(Image.fromarray(np.uint8(photo[..., 0] > 0) * 255).filter(ImageFilter.FIND_EDGES)) > 0
    assert drawn[edges].max() < 0.2 and (drawn[2:6] == 1).all() and (drawn[12:20, 12:20] == 1).all()


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("kind", ["noise", "black", "white", "gray"])
def test_edits_keep_to_the_range_and_have_static_shapes(name, kind):
    x = {"noise": X, "black": -np.ones_like(X), "white": np.ones_like(X), "gray": np.zeros_like(X)}[kind]
    graph = tf.function(EDITS[name].apply).get_concrete_function(tf.TensorSpec(X.shape))
    edited = graph(tf.constant(x)).numpy()
    assert np.isfinite(edited).all() and edited.min() >= -1 and edited.max() <= 1
    assert graph.output_shapes == X.shape
    np.testing.assert_allclose(edited, EDITS[name].apply(tf.constant(x)), atol=1e-6)


def test_edits_differ_from_the_photo_and_from_one_another():
    smooth = ndimage.gaussian_filter(X, (3, 3, 0)) * 4
    edited = [edit.apply(tf.constant(np.clip(smooth, -1, 1))).numpy() for edit in EDITS.values()]
    everything = [np.clip(smooth, -1, 1), *edited]
    for i, one in enumerate(everything):
        assert all(np.abs(one - other).mean() > 0.02 for other in everything[:i])


# --- wordings


def test_wordings():
    all_texts = [text for edit in EDITS.values() for text in (*edit.wordings, *edit.heldout)]
    assert len(set(all_texts)) == len(all_texts)  # none asks for two things, none is both trained and held out
    for edit in EDITS.values():
        assert len(edit.wordings) >= 3 and len(edit.heldout) >= 1
    assert all(text == " ".join(text.split()) and text.isascii() and text == text.lower() for text in all_texts)


def test_heldout_wordings_are_made_of_words_of_training():
    known = {word for edit in EDITS.values() for text in edit.wordings for word in text.split()}
    unknown = {word for edit in EDITS.values() for text in edit.heldout for word in text.split()} - known
    assert not unknown


# --- examples


def drawn(count, source=None, **options):
    source = Edits(data.Photos(PHOTOS)) if source is None else source
    options = {"image_size": S, "seed": 3, "augment": False, **options}
    return list(data.crops(source, **options).take(count).as_numpy_iterator())


def test_an_example_is_a_window_an_instruction_and_what_it_asks_for():
    texts = {text: name for name, edit in EDITS.items() for text in edit.wordings}
    for example in drawn(60):
        name = texts[example["prompt"].decode()]
        np.testing.assert_allclose(example["image"], EDITS[name].apply(tf.constant(example["source"])), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"augment": True, "recolor": True}])
def test_sources_are_the_windows_of_the_photos(options):
    windows = drawn(20, data.Photos(PHOTOS), **options)
    for edited, window in zip(drawn(20, **options), windows, strict=True):
        np.testing.assert_array_equal(edited["source"], window["image"])


def test_edits_and_wordings_are_equally_likely():
    count = 3400
    texts = [one["prompt"].decode() for one in drawn(count, Edits(data.Photos({"a": PHOTOS["b"]})), image_size=8)]
    wordings = [text for edit in EDITS.values() for text in edit.wordings]
    found = np.array([texts.count(text) for text in wordings])
    expected = np.concatenate([[count / len(EDITS) / len(e.wordings)] * len(e.wordings) for e in EDITS.values()])
    assert found.sum() == count and stats.chisquare(found, expected).pvalue > 1e-4


def test_neither_the_photo_nor_its_window_tells_the_edit():
    ramps = {
        name: np.broadcast_to(np.linspace(low, low + 100, 80)[:, None, None], (80, 80, 3)).astype(np.uint8)
        for name, low in (("dark", 0), ("light", 150))
    }
    examples = drawn(1200, Edits(data.Photos(ramps)), image_size=16)
    names = {text: i for i, edit in enumerate(EDITS.values()) for text in edit.wordings}
    edits = np.array([names[one["prompt"].decode()] for one in examples])
    sources = np.array([one["source"] for one in examples])
    is_light = sources.mean(axis=(1, 2, 3)) > 0
    table = np.histogram2d(is_light, edits, bins=(2, len(EDITS)))[0]
    assert stats.chi2_contingency(table).pvalue > 1e-4
    for measure in (np.ptp(sources, axis=(1, 2, 3)), sources.mean(axis=(1, 2, 3))):  # window's side and place
        assert stats.spearmanr(edits[is_light], measure[is_light]).pvalue > 1e-4


def test_examples_are_functions_of_seed_and_number():
    first, later = drawn(6), drawn(2, start=4)
    for one, other in zip(first[4:], later, strict=True):
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key])
    assert [one["prompt"] for one in first] != [one["prompt"] for one in drawn(6, seed=4)]


def test_some_edits_and_held_out_wordings():
    source = Edits(data.Photos(PHOTOS), ("sepia", "mirrored"), wordings="heldout")
    texts = {one["prompt"].decode() for one in drawn(60, source)}
    assert texts == {*EDITS["sepia"].heldout, *EDITS["mirrored"].heldout}


def test_batches_of_the_task():
    source = Edits(data.Photos(PHOTOS), ("inverted",))
    options = {"image_size": S, "batch_size": 4, "seed": 0}
    batch = next(data.batches(source, Editing(), **options).as_numpy_iterator())
    np.testing.assert_array_equal(batch["image"], -batch["condition"])
    held = data.evaluation_set(source, Editing(), image_size=S, count=5, seed=0)
    assert set(held["prompt"]) <= set(EDITS["inverted"].wordings) and held["condition"].shape == (5, S, S, 3)
    tokens = next(data.batches(source, Editing(), tokenizer=lengths, **options).as_numpy_iterator())["tokens"]
    assert set(tokens[:, 0]) <= {len(text) for text in EDITS["inverted"].wordings}


def lengths(texts):
    return np.array([[len(text)] for text in texts], np.int32)


def test_photos_without_edits_are_no_data_for_editing():
    with pytest.raises(UserError, match="without source"):
        data.batches(PHOTOS, Editing(), image_size=S, batch_size=2, seed=0)
    batch = data.batches(Edits(data.Photos(PHOTOS)), Inpainting(), image_size=S, batch_size=2, seed=0)
    assert batch.element_spec["condition"].shape == (2, S, S, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edits": ()}, "edits is empty"),
        ({"edits": ("sepia", "cubist")}, "unknown edit 'cubist'; valid edits: black_and_white, "),
        ({"wordings": "test"}, "wordings must be train or heldout, not 'test'"),
    ],
)
def test_wrong_options_are_an_error(options, message):
    with pytest.raises(UserError, match=message) as caught:
        Edits(data.Photos(PHOTOS), **options)
    assert "\n" not in str(caught.value)
