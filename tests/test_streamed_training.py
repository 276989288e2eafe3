"""Runs on shards, on shards with texts and on encoded examples, each as a user would start it."""

from __future__ import annotations

import numpy as np
import pytest
from shards import encoded, picture, write_tar
from tiny import tiny_base, tiny_text

from codi_tf import cache, config
from codi_tf.convert.folder import save_base
from codi_tf.data.cached import read_cache
from codi_tf.data.stream import Stream
from codi_tf.errors import UserError
from codi_tf.experiment import build_dataset, build_trainer, load_source
from codi_tf.train import train


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
                encoded(picture(i)),
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


def test_shards_with_texts(parts, tmp_path):
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


def test_a_run_ends_in_one_line_when_too_much_is_unreadable(parts, tmp_path):
    (tmp_path / "bad").mkdir()
    members = {f"{i:02}.png": encoded(picture(i)) if i % 3 else b"no picture" for i in range(36)}
    write_tar(tmp_path / "bad" / "a.tar", members)
    settings = {"image_size": 16, "source": str(tmp_path / "bad")}
    experiment = config.from_dict({**parts, "data": settings, "train": {"steps": 30, "batch_size": 4}})
    with pytest.raises(
        UserError,
        match=r"records are unreadable, more than max_unreadable 0\.01 allows: .*a\.tar: ",
    ) as e:
        train(experiment, tmp_path / "run")
    assert "\n" not in str(e.value)
