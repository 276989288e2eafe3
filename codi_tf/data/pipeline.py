"""Deterministic, resumable tf.data pipelines: example i is a function of (source, seed, i) only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import tensorflow as tf

from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.core.errors import UserError, user_errors
from codi_tf.core.seeds import random_words
from codi_tf.data.in_memory import Photos
from codi_tf.data.prompts import check_prompts, tokenized, tokenizer_sha256
from codi_tf.data.tokens_in_graph import CUT, can_tokenize, tokenized_in_graph
from codi_tf.data.windows import Size

if TYPE_CHECKING:
    from codi_tf.tasks import Task

ONE_HOST = (0, 1)
REPLACED = "replaced"  # key of examples: the number of damaged records in whose place one stands
SEVERAL = 8  # examples that are read at once, by sources that can
SMALLEST = 8  # the side of images that are not looked at


class Source(Protocol):
    """Where examples come from."""

    @property
    def provides(self) -> tuple[str, ...]:
        """The keys of its examples besides "image": companions, "prompt", and others of its own."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its images; () where they are not known in advance."""
        ...

    @property
    def missing_prompts(self) -> int:
        """The number of images that are known to have no prompt; asked for only where prompts are used."""
        ...

    def __len__(self) -> int:
        """The number of images."""
        ...

    def drawer(
        self, *, image_size: Size, augment: bool, recolor: bool, prompts: bool = True
    ) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
        """A function (index int64 [], seed int32 [2]) -> example, to run within tf.data.

        The example depends on the source, the index and the seed only:

            "image": float32 [S, S, 3] in [-1, 1], the image to be generated;
            each companion by its name, float32 [S, S, channels] (see `codi_tf.companions`), such as
            "depth": [S, S, 1], larger is nearer, in any unit;
            "source": [S, S, 3] in [-1, 1], the image before an edit;
            "prompt": string [], UTF-8;
            whatever else it provides, under keys of its own, with static shapes.

        Args:
            image_size: S; or (height, width), in place of [S, S] below.
            augment: mirror an example with probability 1/2.
            recolor: change the colors of every example, see `in_memory.recolored`.
            prompts: whether the example has the prompt; otherwise texts are not read.
        """
        ...


def crops(
    source: Source | dict[str, np.ndarray],
    *,
    image_size: int,
    seed: int,
    start: int = 0,
    augment: bool = True,
    recolor: bool = False,
) -> tf.data.Dataset:
    """Infinite dataset of examples start, start + 1, ...; example i is a function of (source, seed, i) only.

    Args:
        source: a source, or images: name -> uint8 [H, W, 3].
        image_size: S.
        seed: any whole number of 64 bits.
        start: the first example.
        augment, recolor: see `Source.drawer`.

    Returns:
        {"image": float32 [S, S, 3] in [-1, 1], "index": int64 [], the number i}, and what the source provides.

    Raises:
        UserError: no image, or an image smaller than the crop.
    """
    source = _as_source(source)
    draw = source.drawer(image_size=image_size, augment=augment, recolor=recolor)
    return _examples(draw, None, seed, _counted(start), ("image", *source.provides, "index"))


def batches(
    source: Source | dict[str, np.ndarray],
    task: Task | None,
    *,
    image_size: Size,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    augment: bool = True,
    recolor: bool = False,
    num_threads: int = 0,
    tokenizer: Callable[[Sequence[str]], np.ndarray] | None = None,
    keys: Sequence[str] = (),
    shard: tuple[int, int] = ONE_HOST,
    count: int | None = None,
) -> tf.data.Dataset:
    """Infinite dataset of batches start_step, start_step + 1, ...; batch k has the examples k B .. k B + B - 1.

    Args:
        source, seed, augment, recolor: see `crops`.
        image_size: S; or (height, width), in place of [S, S] below.
        task: makes the condition of each example, with a seed of its own from (seed, i); None: no condition.
        batch_size: B, of this host.
        start_step: the first batch: a resumed training starts after its last one.
        num_threads: size of the dataset's thread pool, 0 for one per core; the values do not depend on it.
        tokenizer: texts -> int32 [B, M]; None: prompts are left out.
        keys: what else of the examples batches have, of `Source.provides`; or CUT, see `counted_keys`.
        shard: (i, n): this is host i of n, whose batches are the i-th part of batches of n B examples.
        count: the number of batches; None: they do not end.

    Returns:
        {"image": float32 [B, S, S, 3] in [-1, 1], "condition": float32 [B, S, S, task.condition_channels], with a
        tokenizer "tokens": int32 [B, M]}, and the `keys`, [B, ...].

    Raises:
        UserError: no image, or an image smaller than the crop; the source lacks the task's `condition_key`, prompts or
            one of the keys.
    """
    source, own = _as_source(source), [key for key in keys if key != CUT]
    _check(source, task, own, prompts=tokenizer is not None)
    with tf.init_scope():  # within a function, the source's arrays do not belong to it
        draw = source.drawer(image_size=image_size, augment=augment, recolor=recolor, prompts=tokenizer is not None)
    indices = _counted(start_step * batch_size)
    indices = indices if count is None else indices.take(count * batch_size)
    host, hosts = shard
    if hosts > 1:
        b = batch_size

        def of_host(i):
            return i // b * (b * hosts) + host * b + i % b

        indices = indices.map(of_host)
    written = _has_tokens(source, tokenizer)
    texts = () if tokenizer is None else ("tokens",) if written else ("prompt",)
    dataset = _examples(draw, task, seed, indices, (*_wanted(task, own, prompts=False), *texts))
    dataset = dataset.batch(batch_size, drop_remainder=True)
    if tokenizer is not None:
        check_prompts(source.missing_prompts, len(source))
    if tokenizer is not None and CUT in keys and not written:
        tokenize = tokenized_in_graph(cast(Tokenizer, tokenizer))

        def with_tokens(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            tokens, cut = tokenize(batch.pop("prompt"))
            return {**batch, "tokens": tokens, CUT: tf.cast(cut, tf.int32)}

        dataset = dataset.map(with_tokens, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    elif tokenizer is not None and not written:
        tokenize = tokenized(tokenizer, counted=isinstance(source, Photos) or source.missing_prompts > 0)
        dataset = dataset.map(tokenize, num_parallel_calls=1, deterministic=True)
    options = tf.data.Options()
    options.threading.private_threadpool_size = num_threads
    options.threading.max_intra_op_parallelism = 1  # examples are small: parallel across, not within
    return dataset.prefetch(2).with_options(options)


def counted_keys(source: Source, tokenizer: Callable | None = None) -> tuple[str, ...]:
    """The keys of batches that a run counts and no method uses, of REPLACED and CUT, for the `keys` of `batches`.

    With CUT, TensorFlow tokenizes the prompts, which are plain (`tokens_in_graph`), and whoever asks for it says how
    many are cut off. Without it, Python tokenizes them, and warns.
    """
    replaced = (REPLACED,) if REPLACED in source.provides else ()
    in_graph = can_tokenize(tokenizer, source) and not _has_tokens(source, tokenizer)
    return (*replaced, *((CUT,) if in_graph else ()))


def _has_tokens(source: Source, tokenizer: Callable | None) -> bool:
    """Whether examples have the tokens of their prompts, as this tokenizer gives them."""
    known = getattr(source, "tokenizer", None)
    return known is not None and isinstance(tokenizer, Tokenizer) and known == tokenizer_sha256(tokenizer)


def training_prompts(source: Source | dict[str, np.ndarray], count: int) -> list[str]:
    """The prompts of the first examples of a source, at most `count`, whatever seed a training has.

    Raises:
        UserError: the source has no prompts.
    """
    source = _in_python(source)
    _check(source, None, (), prompts=True)
    draw = source.drawer(image_size=SMALLEST, augment=False, recolor=False, prompts=True)

    @tf.autograph.experimental.do_not_convert
    def prompt(index: tf.Tensor) -> tf.Tensor:
        return draw(index, _seeds(0, index)[0])["prompt"]  # what only the image needs is not computed

    indices = tf.data.Dataset.range(min(count, len(source)))
    with user_errors():
        texts = list(indices.map(prompt, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).as_numpy_iterator())
    return [text.decode("utf-8") for text in cast(list[bytes], texts)]


def evaluation_set(
    source: Source | dict[str, np.ndarray],
    task: Task | None,
    *,
    image_size: int,
    count: int,
    seed: int,
    prompts: bool = True,
    keys: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """The first `count` examples as NumPy arrays, neither mirrored nor with changed colors.

    Args:
        source, image_size, seed: see `crops`.
        task: makes the conditions; None: there is no "condition".
        count: the number of examples.
        prompts: whether texts are read.
        keys: what else of the examples is wanted, of `Source.provides`.

    Returns:
        {"image": float32 [count, S, S, 3] in [-1, 1], "condition": float32 [count, S, S, task.condition_channels], if
        the source has prompts "prompt": str [count], of dtype object}, and the keys; their texts are str, too.

    Raises:
        UserError: the source lacks the task's `condition_key`; an image that is missing, damaged or too small.
    """
    source = _in_python(source)
    _check(source, task, keys, prompts=False)
    prompts = prompts and "prompt" in source.provides
    draw = source.drawer(image_size=image_size, augment=False, recolor=False, prompts=prompts)
    dataset = _examples(draw, task, seed, _counted(0), _wanted(task, keys, prompts=prompts)).batch(count)
    with user_errors():
        examples = cast(dict[str, np.ndarray], next(dataset.as_numpy_iterator()))
    texts = {key: values for key, values in examples.items() if values.dtype == object}
    return examples | {key: np.array([text.decode("utf-8") for text in texts[key]], object) for key in texts}


def low_resolution_pairs(
    source: Source | dict[str, np.ndarray], task: Task, *, image_size: int, seed: int
) -> tf.data.Dataset:
    """Infinite dataset of (image [S, S, 3] in [-1, 1], its low-resolution version [S / scale, S / scale, 3] in [0, 1]).

    Both are float32. The examples are those of `evaluation_set`; the task is one with `has_low_resolution`.

    Raises:
        UserError: see `crops`; a scale that does not divide image_size.
    """
    draw = _in_python(source).drawer(image_size=image_size, augment=False, recolor=False, prompts=False)

    @tf.autograph.experimental.do_not_convert
    def pair(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        seeds = _seeds(seed, index)
        image = draw(index, seeds[0])["image"]
        return image, task.low_resolution(image, seeds[1])

    return _counted(0).map(pair, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _as_source(source: Source | dict[str, np.ndarray]) -> Source:
    return Photos(source) if isinstance(source, dict) else source


def _in_python(source: Source | dict[str, np.ndarray]) -> Source:
    """A source as Python reads it where it can: of a few examples, without the headers of all other images."""
    source = _as_source(source)
    return source.in_python() if hasattr(source, "in_python") else source  # pyright: ignore[reportAttributeAccessIssue]


def _check(source: Source, task: Task | None, keys: Sequence[str], *, prompts: bool) -> None:
    wanted = [*((task.condition_key,) if task is not None else ()), *keys, *(("prompt",) if prompts else ())]
    for key in wanted:
        if key != "image" and key not in source.provides:
            has = ", ".join(("image", *source.provides))
            raise UserError(f"these data have images without {key} (they have: {has}); name other data")


def _counted(start: int) -> tf.data.Dataset:
    return tf.data.Dataset.range(start, np.iinfo(np.int64).max)


def _wanted(task: Task | None, keys: Sequence[str], *, prompts: bool) -> tuple[str, ...]:
    """The keys of batches."""
    return ("image", *(() if task is None else ("condition",)), *keys, *(("prompt",) if prompts else ()))


def _examples(draw, task: Task | None, seed: int, indices: tf.data.Dataset, wanted: Sequence[str]) -> tf.data.Dataset:
    """Examples with these keys. What is not wanted is left out here, so that it is not computed."""

    @tf.autograph.experimental.do_not_convert
    def several(numbers: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        seeds = tf.map_fn(lambda i: _seeds(seed, i)[0], numbers, fn_output_signature=tf.TensorSpec([2], tf.int32))
        return numbers, draw.several(numbers, seeds)

    @tf.autograph.experimental.do_not_convert  # it would wrap a UserError
    def example(index: tf.Tensor, drawn: dict[str, tf.Tensor] | None = None) -> dict[str, tf.Tensor]:
        seeds = _seeds(seed, index)
        features = (draw(index, seeds[0]) if drawn is None else drawn) | {"index": index}
        if task is not None:
            features["condition"] = task.degrade(features[task.condition_key], seeds[1])
        return {name: features[name] for name in wanted}

    if hasattr(draw, "several"):
        indices = indices.batch(SEVERAL).map(several, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()
    return indices.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _seeds(seed: int, index: tf.Tensor) -> tf.Tensor:
    """The seeds of an example's window and of its degradation: int32 [2, 2]."""
    return random_words([2, 2], [seed, index])
