"""codi train CONFIG.yaml [section.key=value ...]: train; the same command resumes.

SIGTERM, which announces the end of a preemptible machine, saves the state and ends the run with exit status 75.
"""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from codi_tf import config
from codi_tf.core.arguments import integer, path_argument, text_argument
from codi_tf.core.command_line import ArgumentParser, start_tensorflow
from codi_tf.core.errors import Interrupted, UserError, user_errors
from codi_tf.io.files import check_growing_folder, check_settings, whole_file
from codi_tf.io.folders import check_folder
from codi_tf.io.yaml_files import yaml_text
from codi_tf.training.distribution import make_strategy

PARTS = ("checkpoints", "logs", "metrics.jsonl", "result", "samples")  # of the folder of a run, with config.yaml


def train(experiment: config.Experiment, out: Path, *, profile: int = 0) -> Path:
    """Run an experiment, or resume the run in `out`. Returns the folder of the result.

    Writes config.yaml, checkpoints/, logs/ (TensorBoard), samples/ (images), metrics.jsonl and result/. If there are
    several workers, the first one writes; all must share the folder.

    Args:
        experiment: what to run.
        out: the folder of the run.
        profile: number of updates to record, after the first ones, for TensorBoard's profiler.

    Raises:
        UserError: `out` holds a run with other settings, the config names files that are missing or do not fit, too
            many updates in a row were not finite, or the disk is full.
        Interrupted: SIGTERM, or another worker was lost; the same call resumes.
    """
    _check_same_settings(experiment, out)
    strategy = start_tensorflow(functools.partial(make_strategy, experiment.distribution))
    import tensorflow as tf

    from codi_tf.core.progress import Progress
    from codi_tf.data.cached import is_cache
    from codi_tf.data.stream import warn_of_unreadable
    from codi_tf.training.experiment import (
        build_trainer,
        check_batch,
        distributed_batches,
        load_source,
        result_kind,
        save_result,
    )
    from codi_tf.training.loop import STOP, make_loop
    from codi_tf.training.monitor import Monitor, heldout_examples
    from codi_tf.training.states import StateWriter, restore_newest
    from codi_tf.training.stopwatch import Stopwatch

    settings, chief = experiment.train, strategy.extended.should_checkpoint
    check_batch(settings, strategy.num_replicas_in_sync)
    with strategy.scope():
        trainer = build_trainer(experiment)
    states = out / "checkpoints"
    step = first = restore_newest(trainer, states)
    if first >= settings.steps and (out / "result").is_dir():
        print(f"{out}: all {settings.steps} steps are done; the result is {out / 'result'}")
        return out / "result"
    if chief:
        check_folder(out / "result", result_kind(experiment), inputs=_inputs(experiment))
    heldout = heldout_examples(experiment, trainer)  # before anything that takes time: it may be missing
    source = None if is_cache(experiment.data.source) else load_source(experiment, "train")
    with user_errors():
        batches = iter(distributed_batches(experiment, trainer, strategy, first, source=source))
    if chief:
        _write_settings(experiment, out)
    if first:
        print(f"resuming {out} at step {first}")
    run = make_loop(trainer, strategy, jit_compile=settings.jit_compile)
    alone = experiment.distribution.strategy != "multiworker"
    span = {"first": first, "last": settings.steps}
    stopwatch = Stopwatch(trainer, strategy, **span, profile=profile if chief else 0, logs=out / "logs")
    writer = StateWriter(trainer, states, keep=settings.keep, keep_every=settings.keep_every)
    progress = Progress(f"training ({experiment.method_name})", settings.steps, first)

    def save_now() -> None:
        if chief:
            writer.save(step)
            writer.wait()

    with _stop_on_sigterm() as stop_requested, _plain_ends(out):
        monitor = Monitor(experiment, trainer, stopwatch, out, first, heldout) if chief else None
        while step < settings.steps:
            count = 1 if stopwatch.alone(step) else _until_next(step, settings)
            with stopwatch.timed(step, count), user_errors():
                sums = run(batches, tf.constant(count), tf.constant(int(stop_requested.is_set())))
                sums = {name: float(value) for name, value in sums.items()}
            step += count
            if sums["skipped"]:
                _check_skipped(trainer, settings, range(step - count, step), sums["skipped"], save_now)
            stop = sums.pop(STOP)
            if monitor is not None:
                monitor.step(step, count, sums)
            if chief and settings.save_every and step % settings.save_every == 0 and step < settings.steps:
                writer.save(step)
            progress.update(step, monitor.note if monitor is not None else "")
            # Several workers stop together: they exchange the wish at the start of a call.
            if (stop or (alone and stop_requested.is_set())) and step < settings.steps:
                save_now()
                raise Interrupted(f"stopped at step {step} by SIGTERM, its state is saved: the same command resumes")
        save_now()
        if chief:
            save_result(experiment, trainer, out / "result", {"steps": settings.steps, "config": experiment.as_dict()})
    warn_of_unreadable(source)
    return out / "result"


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
def _stop_on_sigterm() -> Iterator[threading.Event]:
    """Set an event on SIGTERM within the block. Signals reach the main thread only."""
    stop_requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop_requested
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop_requested.set())
    try:
        yield stop_requested
    finally:
        signal.signal(signal.SIGTERM, before)


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
        lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
        if isinstance(error, lost) or "Collective" in reason:
            raise Interrupted(
                f"another worker was lost ({type(error).__name__}); start all workers again: they resume from the last "
                f"state in {out / 'checkpoints'}"
            ) from None
        raise


def _check_same_settings(experiment: config.Experiment, out: Path) -> None:
    """Raise UserError if the run in `out` was started with other settings."""
    check_growing_folder(out)
    path = out / "config.yaml"
    if not path.is_file():
        if taken := [name for name in PARTS if (out / name).exists()]:
            raise UserError(f"{out}: holds {taken[0]}, but no config.yaml: it is no run; choose another --out")
        return
    earlier = config.load(path)  # with today's defaults
    compared = (_plain(one) for one in (earlier, experiment))
    check_settings(out, *({key: plain[key] for key in plain if key != "distribution"} for plain in compared))


def _inputs(experiment: config.Experiment) -> list[Path]:
    """The folders that a run reads and must not replace."""
    return [Path(path) for path in (experiment.base, experiment.text, experiment.adaptation.start) if path is not None]


def _write_settings(experiment: config.Experiment, out: Path) -> None:
    with whole_file(out / "config.yaml") as partial:
        partial.write_text(yaml_text(_plain(experiment)), encoding="utf-8")


def _plain(experiment: config.Experiment) -> dict:
    """The settings as a file holds them, with lists in place of tuples."""
    return json.loads(json.dumps(experiment.as_dict()))


def main(arguments: list[str], prog: str = "python -m codi_tf.train") -> None:
    parser = ArgumentParser(prog=prog, description="Train. The same command resumes.")
    parser.add_argument("config", type=text_argument, help="a file of configs/")
    parser.add_argument(
        "--out", type=path_argument, help="folder of the run; by default runs/NAME, NAME that of the config"
    )
    parser.add_argument("--strategy", choices=config.STRATEGIES, help="distribution.strategy of the config")
    parser.add_argument("--tpu", help="distribution.tpu of the config: local, or a TPU's name")
    parser.add_argument(
        "--profile",
        type=integer(0, 1_000_000),
        default=0,
        metavar="N",
        help="record N steps for TensorBoard's profiler",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values in place of the config's")
    options = parser.parse_intermixed_args(arguments)
    for name in ("strategy", "tpu"):
        if getattr(options, name) is not None:
            options.overrides.append(f"distribution.{name}={getattr(options, name)}")
    experiment = config.load(options.config, options.overrides)
    result = train(experiment, options.out or Path("runs") / Path(options.config).stem, profile=options.profile)
    print(f"result: {result}")
