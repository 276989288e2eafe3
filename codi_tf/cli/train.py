"""codi train CONFIG.yaml [section.key=value ...]: train; the same command resumes.

Ctrl-C, SIGTERM (which announces the end of a preemptible machine) and SIGHUP (a closed terminal) save the state and end
the run, with exit status 130 after Ctrl-C, else 75. A second Ctrl-C ends it at once.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codi_tf import config
from codi_tf.cli.device_options import add_data_service, add_devices, devices_given
from codi_tf.core.arguments import integer, path_argument, text_argument
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import Interrupted, UserError, user_errors
from codi_tf.core.paths import as_path, is_remote
from codi_tf.core.showing import clipped
from codi_tf.core.signals import stop_noted
from codi_tf.io.folders import check_folder
from codi_tf.io.locks import only_one
from codi_tf.training import folder
from codi_tf.training.callbacks import Callbacks, check_callback, make_callback
from codi_tf.training.distribution import (
    check_data_service,
    make_strategy,
    scope_of_probes,
)

if TYPE_CHECKING:
    import keras

LOCK = ".lock"  # in the folder of a run


def train(
    experiment: config.Experiment,
    out: Path,
    *,
    profile: int = 0,
    finish: bool = False,
    callbacks: Sequence[str | keras.callbacks.Callback] = (),
) -> Path:
    """Run an experiment, or resume the run in `out`. Returns the folder of the result.

    Writes config.yaml, checkpoints/, logs/ (TensorBoard), samples/ (images), metrics.jsonl and result/; and tokenizer/,
    where a vocabulary is learned. If there are several workers, the first one writes; all must share the folder.

    Args:
        experiment: what to run. That of the run in `out`, if there is one; `train.steps` may change.
        out: the folder of the run.
        profile: number of updates to record, after the first ones, for TensorBoard's profiler.
        finish: make the result of the newest state, without any more updates.
        callbacks: Keras callbacks, or their names (`callbacks.make_callback`), which the first worker calls, see
            `callbacks.Callbacks`.

    Raises:
        UserError: `out` holds a run with other settings, or one that another process is training; the config names
            files that are missing or do not fit; too many updates in a row were not finite; the disk is full; there is
            no state to make a result of.
        Interrupted: Ctrl-C, SIGTERM, SIGHUP, or another worker was lost; the same call resumes.
    """
    _check(experiment, out, finish=finish)
    for name in callbacks:
        if isinstance(name, str):
            check_callback(name)
    strategy = start_tensorflow(functools.partial(make_strategy, experiment.distribution))
    with contextlib.ExitStack() as stack:
        if strategy.extended.should_checkpoint:
            stack.enter_context(only_one(out / LOCK, f"trains in {out}"))
            _check(experiment, out, finish=finish)  # again: another process may have begun the run meanwhile
        return _train(experiment, out, strategy, profile=profile, finish=finish, callbacks=callbacks)


def _check(experiment: config.Experiment, out: Path, *, finish: bool) -> None:
    """Raises UserError where the run in `out`, if there is one, cannot go on with these settings, or these machines."""
    folder.check_folder(out)
    earlier = folder.earlier_settings(out)
    folder.check_same_settings(earlier, experiment, out, finish=finish)
    if not finish:
        check_data_service(experiment.distribution)


def _train(experiment: config.Experiment, out: Path, strategy, *, profile: int, finish: bool, callbacks) -> Path:
    import tensorflow as tf

    from codi_tf.core.progress import Progress
    from codi_tf.data.cached import is_cache
    from codi_tf.data.counts import COUNTED
    from codi_tf.data.stream import warn_of_unreadable
    from codi_tf.training.experiment import (
        build_trainer,
        check_batch,
        keep_words,
        load_source,
        result_kind,
        save_result,
    )
    from codi_tf.training.feed import open_feed
    from codi_tf.training.loop import STOP, make_loop
    from codi_tf.training.monitor import Monitor, heldout_examples
    from codi_tf.training.states import StateWriter, restore_newest
    from codi_tf.training.stopwatch import Stopwatch

    settings, chief, result = experiment.train, strategy.extended.should_checkpoint, out / folder.RESULT
    check_batch(settings, strategy.num_replicas_in_sync)
    called = [make_callback(one) if isinstance(one, str) else one for one in callbacks] if chief else []
    with strategy.scope():
        trainer = build_trainer(experiment, out)
    states = out / folder.STATES
    step = first = restore_newest(trainer, states)

    def save(step: int) -> None:
        save_result(experiment, trainer, result, {"steps": step, "config": experiment.as_dict()})

    if first >= settings.steps and not finish and result.is_dir() and folder.steps_of_result(out) in (first, None):
        print(f"{out}: all {settings.steps} steps are done; the result is {result}")
        return result
    if chief:
        check_folder(result, result_kind(experiment), inputs=_inputs(experiment))
    if finish:
        if not first:
            raise UserError(f"{out / folder.STATES}: holds no state to make a result of; train first, without --finish")
        if chief:
            save(first)
        return result
    heldout = heldout_examples(experiment, trainer)  # before anything that takes time: it may be missing
    source = None if is_cache(experiment.data.source) else load_source(experiment, "train")
    with user_errors():
        feed = open_feed(experiment, trainer, strategy, first, source=source)
    if chief:
        folder.write_settings(experiment, out)
        if experiment.method.learns_words:
            keep_words(trainer.method.base.tokenizer, out)
    if first:
        print(f"resuming {out} at step {first}")
    run = make_loop(trainer, strategy, jit_compile=settings.jit_compile)
    alone = experiment.distribution.strategy != "multiworker"
    span = {"first": first, "last": settings.steps}
    stopwatch = Stopwatch(trainer, strategy, **span, profile=profile if chief else 0, logs=out / folder.LOGS)
    writer = StateWriter(trainer, states, keep=settings.keep, keep_every=settings.keep_every)
    progress = Progress(f"training ({experiment.method_name})", settings.steps)

    def save_now() -> None:
        if chief:
            writer.save(step)
            writer.wait()

    with stop_noted("the state is saved after the updates under way") as stop, _plain_ends(out):
        with scope_of_probes(strategy):
            monitor = Monitor(experiment, trainer, stopwatch, out, first, heldout) if chief else None
        about = {"epochs": -(-settings.steps // settings.log_every), "steps": settings.log_every, "folder": str(out)}
        about["config"] = experiment.as_dict()
        hooks = Callbacks(called, trainer, epoch=0 if monitor is None else monitor.lines, about=about)
        if step < settings.steps:
            print("compiling the first update, which takes a minute or two", file=sys.stderr, flush=True)
        with hooks.running():
            while step < settings.steps and not (alone and hooks.stopped):
                batches, count = feed.at(step, 1 if stopwatch.alone(step) else _until_next(step, settings))
                hooks.before(step)
                with stopwatch.timed(step, count), user_errors():
                    sums = run(batches, tf.constant(count), tf.constant(int(bool(stop))))
                    sums = {name: float(value) for name, value in sums.items()}
                step += count
                if sums["skipped"]:
                    _check_skipped(trainer, settings, range(step - count, step), sums["skipped"], save_now)
                stopped = sums.pop(STOP)
                counted = {key: sums.pop(key, 0.0) for key in COUNTED}
                feed.count(step - count, count, settings.batch_size, counted)
                with scope_of_probes(strategy):
                    line = {} if monitor is None else monitor.step(step, count, sums)
                if chief and settings.save_every and step % settings.save_every == 0 and step < settings.steps:
                    writer.save(step)
                hooks.after(step, count, sums, line)
                progress.update(step, monitor.note if monitor is not None else "")
                if hooks.stopped and not alone:
                    stop.name = stop.name or "a callback"
                # Several workers stop together: they exchange the wish at the start of a call.
                if (stopped or (alone and stop)) and step < settings.steps:
                    save_now()
                    raise stop.interrupted(
                        f"stopped at step {step} by {{by}}, its state is saved: the same command resumes"
                    )
        if step < settings.steps:
            print(f"ended at step {step} of {settings.steps} by a callback")
        save_now()
        if chief:
            save(step)
    feed.counts.warn_of_replaced()
    for one in feed.sources:
        warn_of_unreadable(one)
    return result


def _until_next(step: int, settings: config.Train) -> int:
    """The number of updates that may run in one call: up to the next one that is logged, sampled or saved."""
    periods = [settings.log_every, settings.sample_every, settings.save_every]
    return min(
        settings.steps_per_call, settings.steps - step, *(period - step % period for period in periods if period)
    )


def _check_skipped(trainer, settings: config.Train, batches: range, skipped: float, save: Callable[[], None]) -> None:
    """Warn about the skipped updates of a call. Raises UserError if too many in a row were skipped.

    Args:
        batches: the numbers of the call's batches.
        skipped: how many of them were skipped.
        save: writes the state, which skipped updates have not changed.
    """
    in_row = int(trainer.skipped_in_row.numpy())
    if trainer.scaled and not in_row:  # the loss scale was lowered, which is no fault
        return
    size = settings.batch_size
    examples = f"examples {batches.start * size} to {batches.stop * size - 1} in the order of data.seed"
    where = (
        f"{skipped:.0f} of the steps {batches.start + 1} to {batches.stop}"
        if len(batches) > 1
        else f"step {batches.stop}"
    )
    if in_row >= settings.max_skipped:
        save()
        raise UserError(
            f"{where}: loss or gradient not finite, {in_row} times in a row by now ({examples}); the state before them "
            "is saved. Lower train.learning_rate, compute in float32, or look at these data"
        )
    warnings.warn(f"{where} skipped, loss or gradient not finite ({examples}); {in_row} in a row", stacklevel=2)


@contextlib.contextmanager
def _plain_ends(out: Path) -> Iterator[None]:
    """Turn the loss of another worker into Interrupted, and a full disk into UserError, within the block."""
    import tensorflow as tf

    try:
        yield
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); make room, then resume") from error
    except tf.errors.OpError as error:
        reason = " ".join(str(error.message).split())
        if "No space left" in reason:
            raise UserError(f"{out}: cannot be written (no space left on the device); make room, then resume") from None
        if is_remote(out) and str(out) in reason:
            raise UserError(f"{out}: cannot be written ({clipped(reason, 200)}); correct that, then resume") from None
        lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
        if isinstance(error, lost) or "Collective" in reason:
            raise Interrupted(
                f"another worker was lost ({type(error).__name__}); start all workers again: they resume from the last "
                f"state in {out / 'checkpoints'}"
            ) from None
        raise


def _inputs(experiment: config.Experiment) -> list[Path]:
    """The folders that a run reads and must not replace."""
    return [
        as_path(path) for path in (experiment.base, experiment.text, experiment.adaptation.start) if path is not None
    ]


def main(arguments: list[str], prog: str = "python -m codi_tf.train") -> None:
    """Run `codi train`. Raises UserError and Interrupted, see `train`."""
    parser = ArgumentParser(prog=prog, doc=__doc__)
    parser.add_argument("config", type=text_argument, help="a YAML file, as those of configs/")
    parser.add_argument(
        "--out", type=path_argument, help="folder of the run; by default runs/NAME, NAME that of the config"
    )
    add_devices(parser)
    add_data_service(parser)
    parser.add_argument(
        "--profile",
        type=integer(0, 1_000_000),
        default=0,
        metavar="N",
        help="record N steps for TensorBoard's profiler",
    )
    parser.add_argument(
        "--finish", action="store_true", help="make the result of the newest state, without any more steps"
    )
    parser.add_argument(
        "--callback",
        type=text_argument,
        action="append",
        default=[],
        help="a Keras callback, repeatable: wandb, mlflow, or MODULE:CLASS of your own",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values in place of the config's")
    options = parser.parse_intermixed_args(arguments)
    experiment = config.load(options.config, [*options.overrides, *devices_given(options)])
    out = options.out or Path("runs") / Path(options.config).stem
    result = train(experiment, out, profile=options.profile, finish=options.finish, callbacks=options.callback)
    print(f"result: {result}")
