"""benchmarks.memory_plan: the bytes that it names are those of the trainer that is then made."""

from __future__ import annotations

import pytest
from tiny import tiny_run

from benchmarks.memory_plan import planned
from codi_tf import config
from codi_tf.core.errors import UserError
from codi_tf.training.experiment import build_trainer


@pytest.fixture
def run(tmp_path) -> dict:
    return tiny_run(tmp_path, steps=1)


def measured(variables) -> int:
    return sum(v.numpy().nbytes for v in {id(v): v for v in variables}.values() if v.shape and "float" in v.dtype)


@pytest.mark.parametrize(
    ("adaptation", "train", "memory"),
    [
        ({"train": "all"}, {"accumulate": 2}, {}),
        ({"train": "adapter"}, {"optimizer": "lion", "moments": "bfloat16"}, {"frozen_weights": "bfloat16"}),
        ({"train": "adapter", "adapter": "controlnet"}, {"optimizer": "adafactor", "result_decay": 0.0}, {}),
        ({"train": "adapter", "adapter": "concat", "lora": {"rank": 2, "targets": ["conv1"]}}, {}, {}),
    ],
    ids=["all", "adapter", "controlnet", "lora"],
)
def test_the_plan_is_what_a_trainer_holds(run, adaptation, train, memory):
    """Catches an average of frozen weights, a format that is not that of the run, and what is forgotten."""
    run = {**run, "adaptation": adaptation, "train": {**run["train"], **train}, "memory": memory}
    experiment = config.from_dict(run)
    plan, trainer = planned(experiment), build_trainer(experiment)
    base, student = trainer.base, trainer.student
    trained = measured(trainer.trainable_variables)
    made = {
        "frozen": measured((*student.variables, *base.unet.variables, *base.vae.variables)) - trained,
        "trained": trained,
        "teacher": 0,
        "gradients": trained * experiment.train.accumulate,
        "moments": measured(trainer.optimizer.variables),
    }
    held = (*student.variables, *base.unet.variables)
    made["averages"] = measured((*trainer.variables, *held)) - measured(held)
    assert plan == made and plan["averages"] == trained * (1 if train.get("result_decay") == 0.0 else 2)


@pytest.mark.slow  # the quick tier plans trainings with a task
def test_the_plan_of_a_compressed_base(run):
    """Catches a teacher that is left out, or counted as trained."""
    del run["task"], run["adaptation"]
    method = {"name": "compress", "network": {"block_out_channels": [4]}, "feature_weight": 0.0}
    experiment = config.from_dict({**run, "method": method})
    plan, trainer = planned(experiment), build_trainer(experiment)
    trained, teacher = measured(trainer.trainable_variables), measured(trainer.method.frozen.variables)
    assert (plan["trained"], plan["averages"], plan["gradients"], plan["teacher"]) == (*[trained] * 3, teacher)
    assert plan["frozen"] == measured(trainer.method.base.vae.variables) and teacher > trained > 0


def test_mistakes(run):
    with pytest.raises(UserError, match="method pretrain has no task: the plan is for adapted or distilled networks"):
        planned(config.from_dict({"method": {"name": "pretrain"}, "base": "b", "train": {"steps": 1}}))
    with pytest.raises(UserError, match="name a folder in the diffusers layout; its JSON files are enough"):
        planned(config.from_dict({**run, "base": "nowhere"}))
