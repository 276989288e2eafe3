"""Runs on shards, on shards with texts and on encoded examples, each as a user would start it."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import yaml
from commands import run_here
from shards import encoded, new_image, write_tar
from tiny import tiny_base, tiny_text
from triplets import write_parquet, write_prompt_folders

import codi_tf
from codi_tf import config
from codi_tf.checkpoints.folder import save_base
from codi_tf.cli import cache
from codi_tf.cli.train import main as train_command
from codi_tf.cli.train import train
from codi_tf.core.errors import UserError
from codi_tf.data.cached import read_cache
from codi_tf.data.stream import Stream
from codi_tf.data.triplets import Triplets
from codi_tf.training.experiment import build_dataset, build_trainer, load_source


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    (folder / "base").mkdir()
    save_base(tiny_base(), folder / "base")
    (folder / "shards").mkdir()
    for shard in range(3):
        members = {}
        for i in range(12 * shard, 12 * shard + 12):
            members[f"{i:02}.png"], members[f"{i:02}.txt"] = (
                encoded(new_image(i)),
                f"picture {i}".encode(),
            )
        write_tar(folder / "shards" / f"{shard}.tar", members)
    return {
        "method": {"name": "codi"},
        "base": str(folder / "base"),
        "text": str(tiny_text(folder / "text", 8)),
        "task": {"name": "bicubic"},
        "data": {"image_size": 16, "source": str(folder / "shards"), "prompts": True},
        "adaptation": {"train": "adapter"},
        "train": {"steps": 2, "batch_size": 2, "save_every": 0},
    }


def test_shards_with_texts(eager, parts, tmp_path):
    experiment = config.from_dict(parts)
    splits = [load_source(experiment, split) for split in ("train", "heldout", None)]
    assert all(isinstance(source, Stream) for source in splits)
    assert len(splits[0]) + len(splits[1]) == len(splits[2]) == 36
    assert (train(experiment, tmp_path / "run") / "codi.json").is_file()


def test_encoded_examples_with_texts(parts, tmp_path):
    folder = tmp_path / "cache"
    experiment = config.from_dict(parts)
    assert cache.encode(experiment, folder, examples=40, shard=16)
    tokens = np.asarray(read_cache(folder)["tokens"])
    assert tokens.shape == (40, 77) and len(np.unique(tokens, axis=0)) > 20
    on_cache = config.from_dict({**parts, "data": {**parts["data"], "source": str(folder)}})
    assert (train(on_cache, tmp_path / "run") / "codi.json").is_file()
    trainer = build_trainer(on_cache)
    batch = next(iter(build_dataset(on_cache, trainer, 0)))
    assert {key: value.shape for key, value in batch.items()} == {
        "latent": (2, 4, 4, 4),
        "condition_latent": (2, 4, 4, 4),
        "context": (2, 77, 8),
    }
    latents = np.asarray(read_cache(folder)["latent"])
    for latent, context in zip(batch["latent"].numpy(), batch["context"].numpy(), strict=True):
        number = next(i for i in range(40) if (latents[i] == latent).all())
        np.testing.assert_allclose(
            context,
            trainer.method.base.embed_tokens(tokens[number : number + 1])[0],
            atol=1e-5,
        )
    without = {**parts["data"], "source": str(folder), "prompts": False}
    silent = config.from_dict({**parts, "data": without})
    assert set(next(iter(build_dataset(silent, trainer, 0)))) == {
        "latent",
        "condition_latent",
    }
    other = config.from_dict(
        {
            **parts,
            "task": {"name": "inpainting"},
            "data": {**parts["data"], "source": str(folder)},
        }
    )
    with pytest.raises(UserError, match="was encoded with task = "):
        build_dataset(other, build_trainer(other), 0)


def test_depth_maps_with_texts(parts, tmp_path):
    folder = tmp_path / "depth"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i}.png").write_bytes(encoded(new_image(i)))
        (folder / f"{i}.depth.png").write_bytes(encoded(new_image(100 + i)[..., 0]))
        (folder / f"{i}.txt").write_text(f"picture {i}")
    values = {
        **parts,
        "method": {"name": "codi", "drop_prompt": 0.1},
        "task": {"name": "depth"},
        "data": {**parts["data"], "source": str(folder), "heldout_fraction": 0.3},
    }
    experiment = config.from_dict(values)
    model = codi_tf.load(train(experiment, tmp_path / "run"))
    assert model.task.condition_key == "depth" and model.settings.drop_prompt == 0.1
    texts = load_source(experiment, "train").prompts.values()
    tokens = {tuple(row) for row in model.base.tokenizer(list(texts))}
    batch = next(iter(build_dataset(experiment, model, 0)))
    assert {tuple(row) for row in batch["tokens"].numpy()} <= tokens and len(tokens) == len(texts)
    one, other = (
        model.generate(new_image(0, 16, 16), prompt, steps=1, text_guidance=4.0) for prompt in ("picture 1", "another")
    )
    assert (one != other).any()


@pytest.mark.parametrize("layout", ["prompt folders", "parquet"])
def test_edits(parts, tmp_path, layout):
    if layout == "parquet":
        source = write_parquet(tmp_path / "edits.parquet", range(16))
    else:
        source = write_prompt_folders(tmp_path / "edits")
    values = {
        **parts,
        "method": {"name": "finetune", "drop_condition": 0.1, "drop_prompt": 0.1},
        "task": {"name": "editing"},
        "data": {"image_size": 16, "source": str(source), "heldout_fraction": 0.5},
    }
    experiment = config.from_dict(values)
    splits = [load_source(experiment, split) for split in ("train", "heldout")]
    assert all(isinstance(split, Triplets) and split.provides[:2] == ("source", "prompt") for split in splits)
    assert (train(experiment, tmp_path / "run") / "codi.json").is_file()
    scalars = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert np.isfinite(scalars["loss"]) and "condition_use" in scalars


def test_tokens_of_another_tokenizer_are_refused(parts, tmp_path):
    assert cache.encode(config.from_dict(parts), tmp_path / "cache", examples=4)
    shutil.copytree(parts["text"], tmp_path / "text")
    path = tmp_path / "text" / "tokenizer" / "vocab.json"
    vocabulary = json.loads(path.read_text(encoding="utf-8"))
    swapped = {**vocabulary, "a": vocabulary["b"], "b": vocabulary["a"]}
    path.write_text(json.dumps(swapped), encoding="utf-8")
    settings = {**parts["data"], "source": str(tmp_path / "cache")}
    other = config.from_dict({**parts, "text": str(tmp_path / "text"), "data": settings})
    with pytest.raises(UserError, match="was encoded with tokenizer = "):
        build_dataset(other, build_trainer(other), 0)


def test_a_cache_is_trained_on_when_its_images_are_gone(parts, tmp_path):
    for shard in range(2):
        write_tar(
            tmp_path / f"{shard}.tar",
            {f"{i}.png": encoded(new_image(i)) for i in range(18 * shard, 18 * shard + 18)},
        )
    values = {**parts, "data": {"image_size": 16, "source": f"{tmp_path}/{{0,1}}.tar"}}
    assert cache.encode(config.from_dict(values), tmp_path / "cache", examples=8)
    on_cache = {**values, "data": {**values["data"], "source": str(tmp_path / "cache")}}
    (tmp_path / "1.tar").unlink()
    with pytest.warns(UserWarning) as caught:
        result = train(config.from_dict(on_cache), tmp_path / "run")
    (line,) = (str(one.message) for one in caught if one.category is UserWarning)
    assert line.startswith("this run has no held-out images and no condition_use: ") and "1.tar" in line
    assert (result / "codi.json").is_file() and "\n" not in line
    scalars = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert "loss" in scalars and "mu_mean" in scalars and "condition_use" not in scalars


def test_encoding_says_at_its_end_what_it_could_not_read(parts, tmp_path):
    members = {f"{i:02}.png": encoded(new_image(i)) if i % 4 else b"no picture" for i in range(36)}
    settings = {"image_size": 16, "source": str(write_tar(tmp_path / "a.tar", members)), "max_unreadable": 0.5}
    with pytest.warns(UserWarning, match=r"\d of \d+ records were unreadable, .*a\.tar: "):
        cache.encode(config.from_dict({**parts, "data": settings}), tmp_path / "cache", examples=36)


def test_a_damaged_shard_is_told_once(parts, tmp_path):
    """Training opens the shards of both splits."""
    for shard in range(3):
        write_tar(
            tmp_path / f"{shard}.tar",
            {f"{i}.png": encoded(new_image(i)) for i in range(12 * shard, 12 * shard + 12)},
        )
    short = tmp_path / "1.tar"
    short.write_bytes(short.read_bytes()[:-9000])
    values = {**parts, "data": {"image_size": 16, "source": f"{tmp_path}/{{0,1,2}}.tar", "max_unreadable": 0.4}}
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values))
    done = run_here(train_command, path, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("warning: "))
    assert re.search(
        r"1 of 3 shards are damaged and read up to there: .*1\.tar: cut off at byte \d+, after \d+ records", line
    )


def test_a_run_ends_in_one_line_when_too_much_is_unreadable(parts, tmp_path):
    (tmp_path / "bad").mkdir()
    members = {f"{i:02}.png": encoded(new_image(i)) if i % 3 else b"no picture" for i in range(36)}
    write_tar(tmp_path / "bad" / "a.tar", members)
    settings = {"image_size": 16, "source": str(tmp_path / "bad")}
    experiment = config.from_dict({**parts, "data": settings, "train": {"steps": 30, "batch_size": 4}})
    with pytest.raises(
        UserError,
        match=r"records are unreadable, more than max_unreadable 0\.01 allows: .*a\.tar: ",
    ) as e:
        train(experiment, tmp_path / "run")
    assert "\n" not in str(e.value)
