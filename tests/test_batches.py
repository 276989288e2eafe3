"""What a training step is given: one line where it is not what it takes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from tiny import tiny_base, tiny_text

from codi_tf.checkpoints.stable_diffusion import with_text
from codi_tf.core.errors import UserError
from codi_tf.methods.batches import check_values

X = np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3)).astype("float32")
Z = np.random.default_rng(1).normal(size=(4, 4, 4, 4)).astype("float32")


def compiled(base=None, **options):
    model = make_model(base or tiny_base(), train="adapter", **options)
    model.compile("adamw")
    return model


@pytest.fixture(scope="module")
def model():
    return compiled()


def line_of(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


BATCHES = [
    ({"image": (X + 1) * 127.5, "condition": X}, r"image lies in \[.*, 25\d\]: fit takes \[-1, 1\]"),
    ({"image": X, "condition": (X + 1) * 127.5}, r"condition lies in \[.*, 25\d\]: fit takes \[-1, 1\]"),
    ({"image": X, "condition": (X + 1) / 2}, r"condition lies in .* image in \[-1, 1\]: fit takes .* 2 \* x - 1"),
    ({"image": X, "condition": X[:1]}, "4 of image, 1 of condition"),
    ({"image": X, "condition": X[:, ::2, ::2]}, "condition is 8 x 8, it must be 16 x 16"),
    ({"image": X, "condition": X[..., :1]}, r"condition has shape \(4, 16, 16, 1\): it must be \[B, H, W, 3\]"),
    ({"image": X[:, :15], "condition": X[:, :15]}, "image is 15 x 16: for this base both must be multiples of 4"),
    ({"image": X[0], "condition": X[0]}, r"image has shape \(16, 16, 3\): it must be \[B, H, W, 3\]"),
    ({"image": X.astype("uint8"), "condition": X}, "image is of type uint8: .* x / 127.5 - 1"),
    ({"image": X, "condition": X > 0}, "condition is of type bool"),
    ({"image": X}, "a batch has no condition: it has image"),
    ({"condition": X}, "a batch has no image: it has condition"),
    ({"images": X, "condition": X}, "a batch has no image: it has images, condition"),
    ({}, "a batch has no image: it has nothing"),
    ({"image": X[:0], "condition": X[:0]}, "a batch has no example"),
    ((X, X), "a batch is a tuple of 2: it must be a dictionary"),
    (X, "a batch is a ndarray: it must be a dictionary"),
    ({"latent": Z[..., :3], "condition_latent": Z}, r"latent has shape .* it must be \[B, H, W, 4\]"),
    ({"latent": Z, "condition_latent": Z[:, :2, :2]}, "condition_latent is 2 x 2, it must be 4 x 4"),
    ({"image": X, "condition": X, "tokens": np.zeros((4, 77), "int32")}, "the base has no text encoder"),
    ({"image": X, "condition": X, "prompt": np.array(["a"] * 4)}, "a batch has prompt, which is not used"),
    ({"image": X, "condition": X, "context": np.zeros((4, 77, 9), "float32")}, r"it must be \[B, 77, 8\]"),
]


@pytest.mark.parametrize(("batch", "message"), BATCHES)
def test_a_batch_that_cannot_be_meant_is_refused(model, batch, message):
    """Catches wrong results in silence and TensorFlow's traces, in an eager step."""
    with pytest.raises(UserError, match=message) as caught:
        model.train_step(batch)
    assert "\n" not in str(caught.value)
    assert int(model.optimizer.iterations) == 0


def test_fit_and_evaluate_refuse_it_before_the_first_update():
    """Catches a check that a compiled step leaves out, or TensorFlow's wrapping of its line."""
    model = compiled()
    start = [variable.numpy() for variable in model.variables]

    def data(**batch):
        return tf.data.Dataset.from_tensor_slices(batch).batch(2)

    high, half = (X + 1) * 127.5, (X + 1) / 2
    assert line_of(lambda: model.fit(data(image=high, condition=X), verbose=0)).startswith("image lies in [")
    for call in (model.fit, model.evaluate):
        assert line_of(lambda call=call: call(data(image=X, condition=half), verbose=0)).startswith("condition lies in")
        assert line_of(lambda call=call: call({"image": X, "condition": half})).startswith("condition lies in")
        assert line_of(lambda call=call: call(data(image=X), verbose=0)) == "a batch has no condition: it has image"
    wrong = ({"image": X, "condition": half} for _ in range(1))
    assert line_of(lambda: model.fit(wrong, verbose=0)).startswith("condition lies in")
    assert line_of(lambda: model.fit(tf.data.Dataset.from_tensors((X, X)), verbose=0)).startswith("a batch is a tuple")
    unknown = data(image=X, condition=X).map(
        lambda batch: {k: tf.py_function(lambda x: x, [v], v.dtype) for k, v in batch.items()}
    )
    assert line_of(lambda: model.fit(unknown, verbose=0)).startswith("the size of image is not known")
    assert all(map(np.array_equal, start, [variable.numpy() for variable in model.variables]))


def test_examples_are_not_dropped_by_micro_batches():
    """Catches a third of three examples that two micro-batches leave out."""
    model = compiled(accumulate=2)
    batch = {"image": X[:3], "condition": X[:3]}
    assert line_of(lambda: model.train_step(batch)) == "accumulate is 2: it must divide the 3 examples of a batch"
    unknown = tf.data.Dataset.from_tensor_slices(batch).batch(2)
    assert "use .batch(N, drop_remainder=True)" in line_of(lambda: model.fit(unknown, verbose=0))


def test_nothing_to_train_on_says_so(model):
    """Catches Keras' KeyError of an empty set."""
    for nothing in (None, [], {}, {"image": X[:0], "condition": X[:0]}):
        assert line_of(lambda nothing=nothing: model.fit(nothing)).startswith("there are no batches")


def test_a_model_that_is_not_compiled_says_so():
    """Catches an AttributeError of None."""
    model = make_model(tiny_base(), train="adapter")
    assert "call compile(optimizer)" in line_of(lambda: model.train_step({"image": X, "condition": X}))


def test_all_formats_of_numbers_are_float32():
    """Catches images of 64 bits, NumPy's own, whose noise has 32."""
    logs = []
    for dtype in ("float32", "float64"):
        model = compiled()
        batch = {"latent": Z.astype(dtype), "condition_latent": Z.astype(dtype)}
        logs.append({name: float(value) for name, value in model.train_step(batch).items()})
    assert logs[0] == logs[1]


def test_the_values_that_are_looked_at():
    """Catches a range check that refuses what is right: bright images are warned of, NaN is skipped elsewhere."""
    dark = np.full_like(X, -1.0)
    for batch in (
        {"image": X, "condition": X},
        {"image": X, "condition": np.zeros_like(X)},
        {"image": X, "condition": np.concatenate([X, np.ones_like(X[..., :1])], -1)},
        {"image": np.where(X > 0.9, np.nan, X), "condition": X},
        {"image": dark, "condition": dark},
        {"image": 1.02 * X, "condition": X},
        {"image": np.where(X > 0.9, -0.5, 0.5), "condition": np.full_like(X, 0.4)},  # a bright photo, enlarged
        {"latent": 100 * Z},
    ):
        check_values(batch)
    with pytest.warns(UserWarning, match=r"image lies in \[.*\]: fit takes \[-1, 1\]"):
        check_values({"image": (X + 1) / 2, "condition": (X + 1) / 2})
    with pytest.raises(UserError, match="the mask of condition lies in"):
        check_values({"image": X, "condition": np.concatenate([X, -np.ones_like(X[..., :1])], -1)})


def test_an_instruction_is_part_of_editing(tmp_path):
    """Catches a task whose prompts are missing, which generate refuses as well."""
    base = with_text(tiny_base(), str(tiny_text(tmp_path, 8)), compute="float32", weights="float32")
    model = compiled(base, task="editing")
    batch = {"image": X, "condition": X}
    assert "a batch needs tokens" in line_of(lambda: model.train_step(batch))
    logs = model.train_step({**batch, "tokens": base.tokenizer(["a"] * 4)})
    assert np.isfinite(float(logs["loss"]))
    assert "tokens is of type" in line_of(lambda: model.train_step({**batch, "tokens": np.zeros((4, 77), "float32")}))


def test_generate_and_fit_name_each_others_range(model):
    """Catches the word condition, which means [-1, 1] in fit and [0, 1] in generate, without a word of it."""
    assert "(x + 1) / 2" in line_of(lambda: model.generate(X))
