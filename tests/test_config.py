"""Experiments as data: strict reading, and messages that name the key, the value and the remedy."""

from __future__ import annotations

import dataclasses

import pytest

from codi_tf import config
from codi_tf.core.errors import UserError

CODI = {
    "method": {"name": "codi"},
    "base": "somewhere",
    "task": {"name": "super_resolution"},
    "train": {"steps": 10},
}
AUTOENCODER = {"method": {"name": "autoencoder", "network": {"block_out_channels": [8]}}, "train": {"steps": 10}}


def changed(values=None, **changes):
    """A deep copy of CODI with section__key=value changed; a value of ... removes the key."""
    values = {key: dict(v) if isinstance(v, dict) else v for key, v in (values or CODI).items()}
    for path, value in changes.items():
        *sections, last = path.split("__")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return values


def refusal(values) -> str:
    with pytest.raises(UserError) as caught:
        config.from_dict(values)
    line = str(caught.value)
    assert "\n" not in line
    return line


def write(tmp_path, text):
    path = tmp_path / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_defaults_are_those_of_the_horizon():
    """They are written down as what they mean, so that a later default changes no earlier run."""
    experiment = config.from_dict(CODI)
    assert experiment.train.result_decay == 0.999
    assert dataclasses.asdict(experiment.method) == {
        "z_s": "predicted",
        "consistency": "signal",
        "guidance": "latent",
        "steps": 4,
        "guidance_weight": None,
        "t": "shared",
        "delta": None,
        "boundary": False,
        "features": None,
        "drop_prompt": 0.0,
    }
    adaptation = experiment.adaptation
    assert (adaptation.adapter, adaptation.train) == ("mu", "all")


@pytest.mark.parametrize(
    "values",
    [
        CODI,
        changed(method__delta=50, method__t="per_sample", adaptation__train="adapter", data__encode_once=64),
        changed(task__scale=2, train__learning_rate=1e-5, data__source="photos of mine"),
        changed(method={"name": "finetune", "space": "noise"}),
        AUTOENCODER,
        changed(method={"name": "decoder", "network": {}, "target": "decoding"}, task=None),
        changed(method={"name": "pretrain", "network": {}, "scheduler": {"beta_schedule": "linear"}}, task=None),
    ],
)
def test_as_dict_and_from_dict_are_inverse(values):
    experiment = config.from_dict(values)
    assert config.from_dict(experiment.as_dict()) == experiment
    assert experiment.method_name == values["method"]["name"]


def test_experiments_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.from_dict(CODI).train.steps = 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trian": {}}, "unknown key trian: did you mean 'train'?"),
        ({"train__stepz": 3}, "unknown key train.stepz: did you mean 'steps'?"),
        ({"data__imagesize": 3}, "unknown key data.imagesize: did you mean 'image_size'?"),
        ({"method__delt": 3}, "unknown key method.delt: did you mean 'delta'?"),
        ({"data__xyz": 3}, "unknown key data.xyz: use one of source, heldout_fraction, image_size, buckets, augment, "),
        (
            {"method__name": "codo"},
            "method.name is 'codo': use one of autoencoder, codi, compress, consistency, decoder, finetune",
        ),
        ({"method__name": ["codi"]}, "method.name is ['codi']: use one of"),
        ({"method__name": ...}, "method.name is not set: use one of"),
        ({"method": ...}, "method.name is not set"),
        ({"method": "codi"}, "method.name is not set"),
        ({"train__steps": ...}, "train.steps is not set"),
        ({"train": ...}, "train is not set"),
        ({"train": None}, "train is None: it must be a mapping"),
        ({"data": 3}, "data is 3: it must be a mapping"),
        ({"train__steps": "many"}, "train.steps is 'many': it must be of type int"),
        ({"train__steps": 3.0}, "train.steps is 3.0: it must be of type int"),
        ({"train__steps": True}, "train.steps is True: it must be of type int"),
        ({"train__learning_rate": True}, "train.learning_rate is True: it must be of type float"),
        ({"train__learning_rate": "fast"}, "train.learning_rate is 'fast': it must be of type float"),
        ({"data__augment": 1}, "data.augment is 1: it must be of type bool"),
        ({"data__source": 1}, "data.source is 1: it must be of type str"),
        ({"task": "super_resolution"}, "task is 'super_resolution': it must be of type dict"),
        ({"base": 3}, "base is 3: it must be of type str"),
        ({"base": None}, "base is not set: name the folder"),
        ({"task": None}, "task is not set: name one"),
        ({"method__z_s": "x"}, "method.z_s is 'x': use one of predicted, own, frozen"),
        ({"method__consistency": "x"}, "method.consistency is 'x': use one of signal, noise, velocity, none"),
        ({"method__guidance": "x"}, "method.guidance is 'x': use one of latent, encoded, pixel, perceptual, none"),
        ({"method__t": "x"}, "method.t is 'x': use one of shared, per_sample"),
        ({"method__delta": 0}, "method.delta is 0: it must be at least 1"),
        ({"method__guidance_weight": -1}, "method.guidance_weight is -1.0: it must be at least 0"),
        ({"method__steps": 0}, "method.steps is 0: it must be from 1 to the number of training times"),
        (
            {"method__steps": 2, "method__guidance_weight": 1},
            "method.steps is 2 and method.guidance_weight is 1.0: steps gives the weight, so set one, and the other to",
        ),
        ({"method__consistency": "noise"}, "method.guidance_weight is not set: method.steps gives it for consistency "),
        ({"method__guidance": "pixel", "method__steps": 4}, "method.guidance_weight is not set: method.steps gives"),
        ({"train__result_decay": 1}, "train.result_decay is 1.0: it must be in [0, 1)"),
        (
            {"method": {"name": "finetune"}, "train__result_decay": 0.9},
            "train.result_decay is 0.9: this method has no target network, so its moving average is the result",
        ),
        ({"method__consistency": "none", "method__guidance": "none"}, "nothing would be trained"),
        ({"method__guidance": "perceptual"}, "set method.features"),
        ({"method": {"name": "finetune", "space": "x"}}, "method.space is 'x': use one of noise, signal, velocity"),
        ({"data__image_size": 12}, "data.image_size is 12: it must be a positive multiple of 8"),
        ({"data__image_size": 0}, "data.image_size is 0"),
        ({"data__encode_once": -1}, "data.encode_once is -1"),
        ({"adaptation__adapter": "lora"}, "adaptation.adapter is 'lora': use one of concat, controlnet, mu, t2i"),
        ({"task__name": "superresolution"}, "unknown task 'superresolution': did you mean 'super_resolution'?"),
        ({"task__name": ...}, "task.name is not set, for example {name: super_resolution}"),
        ({"adaptation__train": "x"}, "adaptation.train is 'x': use one of all, adapter"),
        ({"adaptation__mu_rate": 0}, "adaptation.mu_rate is 0.0: it must be positive"),
        ({"train__decay": "x"}, "train.decay is 'x': use one of cosine, constant"),
        ({"train__steps": 0}, "train.steps is 0: it must be at least 1"),
        ({"data__seed": -1}, "data.seed is -1: it must be from 0"),
        ({"data__seed": 2**63}, "data.seed is 9223372036854775808: the number is too large"),
        ({"train__steps": 2**31}, "train.steps is 2147483648: the number is too large"),
        ({"method__delta": 10**20}, "method.delta is 100000000000000000000: the number is too large"),
        ({"adaptation__mu_rate": 1e300}, "adaptation.mu_rate is 1e+300: it must be finite, also in float32"),
        ({"data__image_size": 80_000}, "data.image_size is 80000: it must be at most 8192"),
        ({"train__batch_size": 0}, "train.batch_size is 0: it must be at least 1"),
        ({"train__keep": 0}, "train.keep is 0: it must be at least 1"),
        ({"train__log_every": 0}, "train.log_every is 0: it must be at least 1"),
        ({"train__save_every": -1}, "train.save_every is -1: it must not be negative"),
        ({"train__warmup_steps": -1}, "train.warmup_steps is -1: it must not be negative"),
        ({"train__weight_decay": -1}, "train.weight_decay is -1.0: it must not be negative"),
        ({"train__learning_rate": 0}, "train.learning_rate is 0.0: it must be positive"),
        ({"train__clip_norm": 0}, "train.clip_norm is 0.0: it must be positive"),
        ({"train__ema_decay": 1}, "train.ema_decay is 1.0: it must be in [0, 1)"),
        ({"train__ema_decay": float("nan")}, "train.ema_decay is nan"),
        ({"train__learning_rate": float("nan")}, "train.learning_rate is nan"),
        ({"train__learning_rate": float("inf")}, "train.learning_rate is inf"),
        ({"method__guidance_weight": float("nan")}, "method.guidance_weight is nan"),
        ({"train__seed": -1}, "train.seed is -1"),
        ({"train__seed": 2**40}, "train.seed is 1099511627776"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    assert message in refusal(changed(**changes))


def test_a_task_is_refused_where_there_is_no_condition():
    assert "remove task" in refusal(changed(AUTOENCODER, task={"name": "super_resolution"}))
    assert "base is not set" in refusal(changed(AUTOENCODER, method__network=...))


def test_numbers_are_read_as_they_are_meant():
    train = config.from_dict(changed(train__learning_rate=1, train__clip_norm=1e-4, train__ema_decay=0)).train
    assert (train.learning_rate, train.clip_norm, train.ema_decay) == (1.0, 1e-4, 0.0)
    assert all(isinstance(v, float) for v in (train.learning_rate, train.clip_norm, train.ema_decay))


# Files and overrides

TEXT = "method: {name: codi}\nbase: somewhere\ntask: {name: super_resolution}\ntrain: {steps: 10}\n"


def test_a_file_and_its_overrides(tmp_path):
    path = write(tmp_path, TEXT)
    assert config.load(path) == config.from_dict(CODI)
    overrides = ["train.steps=7", "train.learning_rate=1e-4", "method.t=per_sample", "data.augment=false", "base=x=y"]
    experiment = config.load(path, [*overrides, "task.scale=2", "task.jpeg_quality=[5, 9]"])
    assert experiment.train.steps == 7 and experiment.train.learning_rate == 1e-4
    assert experiment.method.t == "per_sample" and experiment.data.augment is False and experiment.base == "x=y"
    assert experiment.task == {"name": "super_resolution", "scale": 2, "jpeg_quality": [5, 9]}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "'train.steps' is no override: write section.key=value, for example train.steps=100"),
        ("=3", "is no override"),
        ("base.folder=3", "override 'base.folder=3': base has no keys below it"),
        ("train.steps=[", "override 'train.steps=[': '[' is not a YAML value"),
        ("train.stepz=3", "unknown key train.stepz: did you mean 'steps'?"),
        ("train.steps=x", "train.steps is 'x': it must be of type int"),
    ],
)
def test_bad_overrides(tmp_path, override, message):
    with pytest.raises(UserError) as caught:
        config.load(write(tmp_path, TEXT), [override])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", "line 1: not valid YAML"),
        ("a: 1\nb: : 2", "line 2: not valid YAML"),
        ("a: !!python/object/apply:os.system [true]", "not valid YAML"),
        ("", "a config is a mapping of sections"),
        ("- 1", "a config is a mapping of sections"),
        (TEXT + "x: 1", "unknown key x"),
        (TEXT + "1: 1", "line 5: not valid YAML (the key 1 is no text: put it in quotes)"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        config.load(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match="no such config file"):
        config.load(tmp_path / "missing.yaml")
    with pytest.raises(UserError, match="cannot be read as a config"):
        config.load(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(UserError, match="picture.png"):
        config.load(tmp_path / "picture.png")
