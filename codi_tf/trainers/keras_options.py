"""Arguments of Keras' `compile`, `fit` and `evaluate` that a `Trainer` refuses, each with its replacement."""

from __future__ import annotations

from typing import Any

import keras

from codi_tf.core.errors import UserError

HALF = "read the base with load_stable_diffusion(FOLDER, compute='float16'), whose loss CoDi scales by itself"
COMPILE = {
    "loss": "the method gives the loss: choose it with CoDi(method=...)",
    "loss_weights": "the method weighs its terms, as ConditionalDistillation(guidance_weight=...)",
    "metrics": "fit reports the terms of the loss; to measure images, use codi evaluate",
    "weighted_metrics": "fit reports the terms of the loss; to measure images, use codi evaluate",
}
OPTIMIZER = {
    "gradient_accumulation_steps": "use CoDi(accumulate=...), the number of micro-batches of a batch",
    "loss_scale_factor": HALF,
    "use_ema": "theta- is the moving average: use CoDi(ema_decay=...)",
}
FIT = {
    "y": "a batch is a dictionary, as {'image': ..., 'condition': ...}; there are no targets beside it",
    "sample_weight": "all examples count equally; to see some more often, repeat them in the dataset",
    "class_weight": "all examples count equally; to see some more often, repeat them in the dataset",
}


def check_compile(options: dict[str, Any]) -> None:
    """Raises UserError for options of Keras' `compile` that have no meaning here."""
    for name, value in options.items():
        if name == "auto_scale_loss":  # for Keras' dtype policies, see `check_policy`
            continue
        if name not in COMPILE:
            raise UserError(
                f"compile has no {name}: it takes optimizer, jit_compile, run_eagerly and steps_per_execution"
            )
        if value is not None:
            raise UserError(f"compile({name}=...): {COMPILE[name]}")


def checked_optimizer(given: Any) -> keras.optimizers.Optimizer:
    """The optimizer that is given, or named. Raises UserError for options that this project has in another place."""
    try:
        optimizer = keras.optimizers.get(given)
    except (ValueError, TypeError):
        optimizer = None
    if optimizer is None:
        raise UserError(f"optimizer is {given!r}: give one of keras.optimizers, or its name, as 'adamw'")
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise UserError(f"LossScaleOptimizer: give the optimizer inside it; {HALF}")
    for name, instead in OPTIMIZER.items():
        if getattr(optimizer, name, None):
            raise UserError(f"the optimizer's {name} is {getattr(optimizer, name)}: leave it out; {instead}")
    return optimizer


def check_replicated(optimizer: keras.optimizers.Optimizer) -> None:
    """Raises UserError for an optimizer of Keras that would clip the gradient of each replica, not of the batch."""
    for name in ("clipnorm", "clipvalue", "global_clipnorm"):
        if getattr(optimizer, name) is not None:
            raise UserError(
                f"the optimizer's {name} is {getattr(optimizer, name)}, which on several replicas clips the gradient "
                "of each: use codi_tf.trainers.optimizers.FusedAdamW(global_clipnorm=...)"
            )


def check_policy() -> None:
    """Raises UserError for a dtype policy of Keras that training would ignore.

    Networks have policies of their own. That of floatx, Keras' default, says nothing.
    """
    name = keras.config.dtype_policy().name
    if name not in ("float32", keras.config.floatx()):
        raise UserError(
            f"Keras' dtype policy is {name}, which a base does not follow: {HALF}, and set the policy to 'float32'"
        )


def check_fit(caller: str, **given: Any) -> None:
    """Raises UserError for arguments of `fit` and its like that have no meaning here; None for those left out."""
    for name, value in given.items():
        if value is not None:
            raise UserError(f"{caller}({name}=...): {FIT[name]}")
