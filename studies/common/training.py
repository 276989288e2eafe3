"""Training that seeds share: an update is compiled once for all seeds of a row.

Compiling an update takes as long as a hundred updates, so it would be most of a short training. Nothing is logged and
no state is saved: what was stopped is begun anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import keras
import tensorflow as tf

from codi_tf import config
from codi_tf.trainers.trainer import Trainer
from codi_tf.training.experiment import build_trainer
from codi_tf.training.feed import open_feed
from codi_tf.training.loop import make_loop
from studies.common.memory import give_memory_back

CALL = 20  # updates between which a signal can end the process


class Shared:
    """The compiled update of one experiment, whose seeds and base may be others in each training."""

    def __init__(self, experiment: config.Experiment):
        self.trainer = build_trainer(experiment)
        self._run: Callable = make_loop(self.trainer, tf.distribute.get_strategy())
        self._seed = tf.Variable(0, trainable=False)
        self._used = False

    def train(self, experiment: config.Experiment) -> Trainer:
        """The trainer after all updates of the experiment; the next call changes it.

        Raises:
            UserError: a model or the examples cannot be read.
        """
        trainer, seed = self.trainer, experiment.train.seed
        if self._used:
            _copy(build_trainer(experiment), trainer)
        self._used = True
        self._seed.assign(seed)
        trainer.seed = self._seed  # a function that is traced now takes the seed that it has later
        feed, step = open_feed(experiment, trainer, tf.distribute.get_strategy(), 0), 0
        while step < experiment.train.steps:
            batches, count = feed.at(step, min(CALL, experiment.train.steps - step))
            self._run(batches, tf.constant(count), tf.constant(0))
            step += count
        trainer.seed = seed
        return trainer


_shared: dict[str, Shared] = {}  # the last one


def shared_training(row: str, experiment: config.Experiment) -> Shared:
    """The training of an experiment: that of the last call, if it was of this row and other seeds, or another base.

    Bases of one row may differ in the weights of their UNets alone: the empty prompt's embedding is compiled.
    """
    about = {"row": row, **experiment.as_dict()}
    about["base"] = about["train"]["seed"] = about["data"]["seed"] = None
    key = json.dumps(about, sort_keys=True)
    if key not in _shared:
        forget()
        _shared[key] = Shared(experiment)
    return _shared[key]


def forget() -> None:
    """Give back the memory of the last training."""
    _shared.clear()
    give_memory_back()


def _copy(fresh: Trainer, trainer: Trainer) -> None:
    """Give a trainer the weights of another one of the same experiment, the optimizer's and the frozen ones, too."""
    for target, source in zip(_variables(trainer), _variables(fresh), strict=True):
        target.assign(source.value)


def _variables(trainer: Trainer) -> list:
    held = [*vars(trainer.method).values(), *vars(trainer.method.base).values()]
    networks = [one for one in held if isinstance(one, keras.layers.Layer)]
    return [
        *trainer.variables,
        *trainer.optimizer.variables,
        *(variable for network in networks for variable in network.variables),
    ]
