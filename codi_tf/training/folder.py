"""The folder of a run: its settings, its log, and the origin of its result. Needs no TensorFlow."""

from __future__ import annotations

import json
import re
from pathlib import Path

from codi_tf import config
from codi_tf.config import places
from codi_tf.core.errors import UserError
from codi_tf.io.bundle_files import BUNDLE, WORDS
from codi_tf.io.files import check_growing_folder, check_settings, whole_file
from codi_tf.io.json_files import parse_json, read_json
from codi_tf.io.yaml_files import read_yaml, yaml_text

SETTINGS, METRICS, RESULT, STATES, LOGS, SAMPLES = (
    "config.yaml",
    "metrics.jsonl",
    "result",
    "checkpoints",
    "logs",
    "samples",
)
_STATE = re.compile(r"step-(\d{8})\.safetensors")
PROVENANCE = "provenance.json"  # of a result without a task; a bundle holds its own


def check_folder(out: Path) -> None:
    """Raises UserError where something lies in the way of a run in `out`, or its log is damaged."""
    check_growing_folder(out)
    for name in (RESULT, STATES, LOGS, SAMPLES, WORDS):
        if (out / name).exists() and not (out / name).is_dir():
            raise UserError(f"{out / name}: is a file, and a run makes a folder of that name; move it away")
    for name in (SETTINGS, METRICS):
        if (out / name).exists() and not (out / name).is_file():
            raise UserError(f"{out / name}: is no file, and a run writes one of that name; move it away")
    read_metrics(out)
    if not (out / SETTINGS).exists():
        for name in (METRICS, RESULT, STATES, LOGS, SAMPLES, WORDS):
            if (out / name).exists():
                raise UserError(f"{out}: holds {name}, but no {SETTINGS}: it is no run; choose another --out")


def earlier_settings(out: Path) -> config.Experiment | None:
    """The settings of the run in `out`; None where there is none.

    Raises:
        UserError: they cannot be read.
    """
    path = out / SETTINGS
    if not path.is_file():
        return None
    try:
        values = read_yaml(path)
        if not isinstance(values, dict):
            raise UserError("it holds no settings")
        places.resolve(values, path)
        return config.from_record(values)
    except UserError as error:
        raise UserError(
            f"{path}: the settings of the run cannot be read ({error}); choose another --out, or repair them"
        ) from None


def check_same_settings(
    earlier: config.Experiment | None, experiment: config.Experiment, out: Path, *, finish: bool = False
) -> None:
    """Check that a run goes on with the settings that it was started with.

    `train.steps` may be raised, and lowered to the updates that are done.

    A path may be written otherwise, as from another working directory, if it leads to the same.

    To finish a run, `train.steps` does not matter.

    Raises:
        UserError: another setting differs, or `train.steps` is less than what is done; names it.
    """
    if earlier is None:
        return
    before, now = plain(earlier), plain(experiment)
    places.adopt(before, now)
    wanted = now["train"].pop("steps")
    del before["train"]["steps"]
    del before["distribution"], now["distribution"]
    check_settings(out, before, now)
    done = max(states_in(out / STATES), default=0)
    if wanted < done and not finish:
        raise UserError(
            f"{out}: has done {done} updates, and train.steps is {wanted}: set at least {done}; "
            "--finish makes a result of the newest state"
        )


def states_in(states: Path) -> dict[int, Path]:
    """The files of states in a folder, by their update; none where there is no folder."""
    if not states.is_dir():
        return {}
    return {int(match[1]): path for path in states.iterdir() if (match := _STATE.fullmatch(path.name))}


def write_settings(experiment: config.Experiment, out: Path) -> None:
    """Write config.yaml, whose relative paths count from `out`. Raises UserError if it cannot be written."""
    values = plain(experiment)
    places.write_down(values, out)
    with whole_file(out / SETTINGS) as partial:
        partial.write_text(yaml_text(values), encoding="utf-8")


def settings_text(experiment: config.Experiment) -> str:
    """The settings in YAML, as `config.load` reads them."""
    return yaml_text(plain(experiment))


def plain(experiment: config.Experiment) -> dict:
    """The settings as a file holds them, with lists in place of tuples."""
    return json.loads(json.dumps(experiment.as_dict()))


def read_metrics(out: Path) -> list[tuple[int, str]]:
    """The lines of metrics.jsonl with their steps. A last line that a crash cut off is left out.

    Raises:
        UserError: another line is damaged.
    """
    path = out / METRICS
    if not path.is_file():
        return []
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last end of a line is empty, or was cut off
        return [(_step_of(line, path), f"{line.decode()}\n") for line in lines]
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        reason = "a line is no JSON" if isinstance(error, UserError) else repr(error)
        raise UserError(f"{path}: is damaged ({reason}); move it away to resume without the log so far") from None


def _step_of(line: bytes, path: Path) -> int:
    step = parse_json(line, path, with_nan=True)["step"]  # 0.1.0 wrote NaN
    if not isinstance(step, int):
        raise ValueError(f"step is {step!r}")
    return step


def steps_of_result(out: Path) -> int | None:
    """The number of updates that the result in `out` was made of; None where it does not say.

    Raises:
        UserError: the result cannot be read.
    """
    for name, key in ((BUNDLE, "provenance"), (PROVENANCE, None)):
        if (out / RESULT / name).is_file():
            about = read_json(out / RESULT / name)
            about = about if key is None else about.get(key)
            steps = about.get("steps") if isinstance(about, dict) else None
            return steps if isinstance(steps, int) else None
    return None
