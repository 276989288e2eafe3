"""python -m codi_tf.train CONFIG.yaml [--out runs/NAME] [section.key=value ...]: train; the same command resumes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from codi_tf import config
from codi_tf.cli import ArgumentParser, run_command, start_tensorflow
from codi_tf.errors import UserError, user_errors
from codi_tf.files import check_settings, whole_file


def train(experiment: config.Experiment, out: Path) -> Path:
    """Run an experiment, from where an earlier run in `out` stopped. Returns the folder of the result.

    `out` gets config.yaml, checkpoints/, logs/ (TensorBoard), samples/ (pictures), metrics.jsonl and result/.

    Raises:
        UserError: `out` holds a run with other settings, or the config's files are missing or unfit.
    """
    start_tensorflow()
    import tensorflow as tf

    from codi_tf.checkpoints import restore_newest, save_state
    from codi_tf.data.cached import is_cache
    from codi_tf.data.stream import warn_of_unreadable
    from codi_tf.experiment import build_dataset, build_trainer, load_source, save_result
    from codi_tf.monitor import Monitor, heldout_examples
    from codi_tf.progress import Progress

    settings = experiment.train
    _same_settings(experiment, out)
    trainer = build_trainer(experiment)
    states = out / "checkpoints"
    first = restore_newest(trainer, states)
    if first >= settings.steps and (out / "result").is_dir():
        print(f"{out}: all {settings.steps} steps are done; the result is {out / 'result'}")
        return out / "result"
    heldout = heldout_examples(experiment, trainer)  # before anything that takes time: it may be missing
    source = None if is_cache(experiment.data.source) else load_source(experiment, "train")
    batches = iter(build_dataset(experiment, trainer, first, source=source))
    _write_settings(experiment, out)
    if first:
        print(f"resuming {out} at step {first}")
    step_function = tf.function(trainer.train_step, autograph=False)
    monitor = Monitor(experiment, trainer, out, first, heldout)
    progress = Progress(f"training ({experiment.method_name})", settings.steps, first)
    for step in range(first + 1, settings.steps + 1):
        with user_errors():
            batch = next(batches)
        logs = step_function(batch)
        monitor.step(step, logs)
        if settings.save_every and step % settings.save_every == 0 and step < settings.steps:
            save_state(trainer, states, step, keep=settings.keep)
        progress.update(step, monitor.note)
    save_state(trainer, states, settings.steps, keep=settings.keep)
    save_result(experiment, trainer, out / "result", {"steps": settings.steps, "config": experiment.as_dict()})
    warn_of_unreadable(source)
    return out / "result"


def _same_settings(experiment: config.Experiment, out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file, not the folder of a run; choose another --out")
    path = out / "config.yaml"
    if not path.is_file():
        return
    earlier = config.from_dict(yaml.safe_load(path.read_text(encoding="utf-8")))  # with today's defaults
    check_settings(out, _plain(earlier), _plain(experiment))


def _write_settings(experiment: config.Experiment, out: Path) -> None:
    with whole_file(out / "config.yaml") as partial:
        partial.write_text(yaml.safe_dump(_plain(experiment), sort_keys=False), encoding="utf-8")


def _plain(experiment: config.Experiment) -> dict:
    """The settings as files have them: tuples are lists there."""
    return json.loads(json.dumps(experiment.as_dict()))


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m codi_tf.train", description=__doc__)
    parser.add_argument("config", help="a file of configs/")
    parser.add_argument("--out", type=Path, help="folder of the run; by default runs/NAME, NAME that of the config")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values in place of the config's")
    options = parser.parse_intermixed_args(arguments)
    experiment = config.load(options.config, options.overrides)
    result = train(experiment, options.out or Path("runs") / Path(options.config).stem)
    print(f"result: {result}")


if __name__ == "__main__":
    sys.exit(run_command(_main))
