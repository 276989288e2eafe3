"""The log of a run: scalars and sample images for TensorBoard, and the same scalars as JSON lines."""

from __future__ import annotations

import json
import os
import resource
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf

from codi_tf import config, data
from codi_tf.adapters import ADAPTERS
from codi_tf.core.errors import UserError
from codi_tf.core.replicas import Compiled
from codi_tf.data.cached import is_cache
from codi_tf.data.splits import NothingHeldOut
from codi_tf.io import images
from codi_tf.io.files import followed, whole_file
from codi_tf.io.json_files import without_nan
from codi_tf.io.remote import append
from codi_tf.model import CoDi
from codi_tf.trainers.trainer import Trainer
from codi_tf.training.experiment import build_task, load_source, takes_prompts
from codi_tf.training.folder import LOGS, METRICS, read_metrics, settings_text
from codi_tf.training.loop import WAITED
from codi_tf.training.quality import Quality
from codi_tf.training.samples import make_samples
from codi_tf.training.stopwatch import Stopwatch

SHOWN = 4  # held-out examples in a grid
PROBED = 16  # held-out examples for condition_use


class Monitor:
    """Writes the mean logs of every `log_every` updates; every `sample_every` updates samples and their quality.

    The logs hold the losses, the stopwatch's figures and the peak of memory. In TensorBoard they are grouped, and the
    settings of the run are a text.

    Args:
        experiment, trainer: of the run.
        stopwatch: its stopwatch.
        out: its folder.
        first: the update that it resumes from.
        heldout: see `heldout_examples`.

    Raises:
        UserError: the log so far is damaged, or cannot be written.

    Attributes:
        note: the latest figures, for a line of progress.
        lines: the number of lines of metrics.jsonl up to `first`.
    """

    def __init__(
        self,
        experiment: config.Experiment,
        trainer: Trainer,
        stopwatch: Stopwatch,
        out: Path,
        first: int,
        heldout: dict[str, np.ndarray] | None,
    ):
        self.settings, self.trainer, self.stopwatch, self.out = experiment.train, trainer, stopwatch, out
        self.note, self.lines = "", 0
        self._sums: dict[str, float] = {}
        self._count = 0
        self._metrics = out / METRICS
        if self._metrics.is_file():  # lines after the state that the run resumes from are written again
            lines = [line for step, line in read_metrics(out) if step <= first]
            self.lines = len(lines)
            with whole_file(self._metrics) as partial:
                partial.write_text("".join(lines), encoding="utf-8")
        logs = followed(out / LOGS)
        logs.mkdir(parents=True, exist_ok=True)  # also where a link leads to a folder that does not exist yet
        self._writer = tf.summary.create_file_writer(os.fsencode(logs))  # a name need not be UTF-8
        self._heldout = heldout
        self._conditioning, self._quality, self._samples, self._encoded = None, None, None, None
        if isinstance(trainer, CoDi):
            prompts = None if heldout is None else heldout.get("prompt")
            self._conditioning = None if prompts is None else trainer.base.conditioning(list(prompts))
            if experiment.train.sample_every and heldout is not None:
                self._quality = Quality(trainer, heldout)
        elif heldout is not None:
            self._quality = self._samples = make_samples(experiment, trainer, heldout)
        with self._writer.as_default(step=first):
            lines = settings_text(experiment).splitlines()
            tf.summary.text("config", "\n".join(f"    {line}" for line in lines))  # as code, in Markdown

    def step(self, step: int, count: int, sums: dict[str, float]) -> dict[str, float]:
        """Add the sums of the logs of the `count` updates up to `step`; see `loop.make_loop`.

        Returns:
            What was written into metrics.jsonl; {} where nothing was.
        """
        settings = self.settings
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += count
        scalars = {}
        if step % settings.log_every == 0 or step == settings.steps:
            skipped, waited = self._sums.pop("skipped"), self._sums.pop(WAITED)
            counted = self._count - skipped  # the sums do not include skipped updates
            scalars = {name: total / counted for name, total in self._sums.items()} if counted else {}
            scalars |= {"skipped": skipped} | self._probe()
            scalars |= self.stopwatch.figures(waited / self._count, settings.batch_size) | _memory()
            self._sums, self._count = {}, 0
        sampled = settings.sample_every and (step % settings.sample_every == 0 or step == settings.steps)
        if sampled and self._quality is not None:
            scalars |= self._quality.figures()
        if scalars:
            self._write(step, scalars)
        if sampled:
            self._write_samples(step)
        return scalars

    def _probe(self) -> dict[str, float]:
        rate = self.trainer.optimizer.learning_rate
        scalars = {"learning_rate": float(tf.convert_to_tensor(rate))}
        if self.trainer.scaled:
            scalars["loss_scale"] = float(self.trainer.scale.numpy())
        if isinstance(self.trainer, CoDi):
            if self._heldout is not None:
                if self._encoded is None:  # by frozen networks: once is enough
                    encoders = {"image": self.trainer.base.encode, "condition": self.trainer.encode_condition}
                    self._encoded = [Compiled(one)(tf.constant(self._heldout[key])) for key, one in encoders.items()]
                scalars["condition_use"] = float(self.trainer.condition_use(*self._encoded, self._conditioning))
            scalars |= self.trainer.student.adapter.log_scalars()
        return scalars

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        with self._writer.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(tag_of(name), value)
        self._writer.flush()
        append(self._metrics, json.dumps({"step": step, **without_nan(scalars)}) + "\n")
        shown = {"loss": ".4f", "condition_use": ".4f", "images_per_second": ".1f", "heldout_psnr": ".2f"}
        note = "  ".join(f"{name} {scalars[name]:{form}}" for name, form in shown.items() if name in scalars)
        self.note = note.replace("images_per_second", "images/s")

    def _write_samples(self, step: int) -> None:
        grid = sample_grid(self.trainer, self._heldout) if self._samples is None else self._samples.grid()
        if grid is None:
            return
        images.write_png(self.out / "samples" / f"step-{step:08d}.png", grid)
        with self._writer.as_default(step=step):
            tf.summary.image("samples", grid[None])


GROUPS = {
    "learning_rate": "optimizer",
    "loss_scale": "optimizer",
    "gradient_norm": "optimizer",
    "skipped": "optimizer",
    "condition_use": "heldout",
    "images_per_second": "speed",
    "input_share": "speed",
    "network_share": "speed",
    "average_share": "speed",
    "peak_memory_gb": "memory",
    "peak_gpu_memory_gb": "memory",
}


def tag_of(name: str) -> str:
    """The tag of a scalar in TensorBoard: its group and its name; the terms of the loss are "loss/...".

    What an adapter logs begins with its name: "mu_mean" is "mu/mean".
    """
    if name in GROUPS:
        return f"{GROUPS[name]}/{name}"
    group, _, rest = name.partition("_")
    return f"{group}/{rest}" if rest and group in ("heldout", *ADAPTERS) else f"loss/{name}"


def _memory() -> dict[str, float]:
    """The peak memory of this process and of its GPUs, in GiB."""
    peaks = {"peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    for device in tf.config.list_logical_devices("GPU"):
        used = tf.config.experimental.get_memory_info(device.name)["peak"] / 2**30
        peaks["peak_gpu_memory_gb"] = max(peaks.get("peak_gpu_memory_gb", 0.0), used)
    return peaks


def heldout_examples(experiment: config.Experiment, trainer: Trainer) -> dict[str, np.ndarray] | None:
    """The held-out examples for condition_use and sample images; None where there are none to show.

    It is None, too, where nothing was to be held out, by data.heldout_fraction or when examples were encoded, and the
    source has no held-out images of its own. Training on encoded examples does not need their images: where these are
    missing, the result is None, with a warning.

    Raises:
        UserError: the source has no held-out images, or cannot be read.
    """
    if not isinstance(trainer, CoDi) and not (experiment.train.sample_every and _shows(experiment)):
        return None
    try:
        heldout = data.evaluation_set(
            load_source(experiment, "heldout"),
            build_task(experiment),
            image_size=experiment.data.image_size,
            count=PROBED,
            seed=experiment.data.seed + 1,
            prompts=takes_prompts(experiment),
            keys=("class",) if experiment.data.classes else (),
        )
    except UserError as error:
        cached = is_cache(experiment.data.source)
        if isinstance(error, NothingHeldOut) and (cached or not experiment.data.heldout_fraction):
            return None
        if not cached:
            raise
        warnings.warn(f"this run has no held-out images and no condition_use: {error}", stacklevel=2)
        return None
    return heldout


def _shows(experiment: config.Experiment) -> bool:
    """Whether a training without a task has images to show: reconstructions, or images for prompts or classes."""
    asked = experiment.data.prompts or experiment.data.classes
    return experiment.method.reconstructs or (experiment.method.examples == "latents" and asked)


def sample_grid(trainer: Trainer, heldout: dict[str, np.ndarray] | None) -> np.ndarray | None:
    """Condition, 1-, 2- and 4-step results and original of held-out examples; None where there is no condition.

    Returns:
        An image, float32 [H, W, 3] in [0, 1].
    """
    if not isinstance(trainer, CoDi) or heldout is None:
        return None
    condition = (heldout["condition"][:SHOWN] + 1) / 2
    prompt = list(heldout["prompt"][:SHOWN]) if "prompt" in heldout else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "steps is")  # all of them are asked for, whatever the model is made for
        made = [trainer.generate(condition, prompt, steps=n) for n in (1, 2, 4)]
    columns = [condition[..., :3], *made, (heldout["image"] + 1) / 2]
    rows = [[column[i] for column in columns] for i in range(SHOWN)]
    return images.grid(rows, ["condition", "1 step", "2 steps", "4 steps", "original"], zoom=2)
