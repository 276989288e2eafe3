"""diffusers' UNet2DModel: its numbers, its folders there and back, training, sampling, exports, refusals."""

from __future__ import annotations

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from commands import run_here
from conftest import SCHEDULER
from PIL import Image
from safetensors.numpy import load_file, save_file
from tiny import randomize
from tiny_pipeline import diffusers, torch

import codi_tf
from codi_tf import config
from codi_tf.checkpoints.base import Base, make_unet
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.skeleton import read_skeleton
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.cli import convert, text2image
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.inference.text_to_image import TextToImage
from codi_tf.models.pixels import PixelFolding
from codi_tf.training.experiment import build_trainer
from export.build import make_package
from export.package.manifest import read_package
from export.runtime.sampler import load_any

SMALL = {"sample_size": 8, "block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1}
BLOCKS = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
# The options of google/ddpm-cifar10-32, of the diffusers tutorials, and of a network without attention.
VARIANTS = {
    "ddpm": {"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0, "norm_eps": 1e-6,
             "attention_head_dim": None},
    "heads": {"attention_head_dim": 4, "layers_per_block": 2},
    "classes": {"attention_head_dim": 8, "num_class_embeds": 5},
    "no middle": {"mid_block_type": None},
    "plain": {"add_attention": False, "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2},
}  # fmt: skip
RANDOM = np.random.default_rng(0)
SLOW = pytest.mark.slow  # of cases of which the quick tier has another


def theirs(variant: str):
    """diffusers' model of random weights, none of them zero or one."""
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(**{**SMALL, **BLOCKS, **VARIANTS[variant]})
    with torch.no_grad():
        for value in model.parameters():
            value += 0.05 * torch.randn_like(value)
    return model.eval()


def save_theirs(folder, variant: str):
    """A folder of their DDPMPipeline."""
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    diffusers.DDPMPipeline(theirs(variant), scheduler).save_pretrained(folder)
    return folder


def small_base(**options) -> Base:
    """A base of pixels with random weights; it predicts the velocity."""
    keras.utils.set_random_seed(0)
    network = {**SMALL, **BLOCKS, "attention_head_dim": 4, "cross_attention_dim": None, **options}
    unet = make_unet({**network, "in_channels": 3, "out_channels": 3})
    randomize(unet.variables)
    return Base(unet, PixelFolding(name="vae"), dict(SCHEDULER))


def saved(path, **options):
    path.mkdir()
    save_base(small_base(**options), path)
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_diffusers_there_and_back(variant, tmp_path):
    """The same numbers, and bit for bit the same weights and options. Catches an option that is read and not used."""
    folder, peer = save_theirs(tmp_path / "theirs", variant), theirs(variant)
    base = load_stable_diffusion(folder)
    z, t = RANDOM.normal(size=(3, 8, 8, 3)).astype("float32"), np.array([1, 500, 999])
    labels = np.array([0, 4, 2]) if variant == "classes" else None
    with torch.no_grad():
        given = {} if labels is None else {"class_labels": torch.from_numpy(labels)}
        expected = peer(torch.from_numpy(np.moveaxis(z, -1, 1).copy()), torch.from_numpy(t), **given).sample.numpy()
    got = np.asarray(base.unet(z, t, base.context, None, labels))
    np.testing.assert_allclose(got, np.moveaxis(expected, 1, -1), atol=1e-5 * np.abs(expected).max())
    assert run_here(convert.main, folder, tmp_path / "ours").returncode == 0
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "ours" / "unet")
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in peer.state_dict().items())
    known = {key: value for key, value in peer.config.items() if not key.startswith("_")}
    assert known == {key: value for key, value in again.config.items() if not key.startswith("_")}
    ours = json.loads((tmp_path / "ours" / "unet" / "config.json").read_text())
    assert not (ours.keys() - peer.config.keys() - {"_class_name"})
    read = load_stable_diffusion(tmp_path / "ours").unet, read_skeleton(tmp_path / "ours").unet
    assert all(one.get_config() == base.unet.get_config() for one in read)
    if variant != "classes":  # their pipeline passes no labels
        pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "ours")
        assert pipeline.scheduler.config.clip_sample and pipeline.unet.config.sample_size == 8


def test_the_first_releases_folders_are_read(tmp_path):
    """All files in one folder, the old names of attention, a side below 64. Catches the rule for Stable Diffusion."""
    new, old = save_theirs(tmp_path / "new", "ddpm"), tmp_path / "old"
    old.mkdir()
    shutil.copy(new / "scheduler" / "scheduler_config.json", old)
    shutil.copy(new / "model_index.json", old)
    settings = json.loads((new / "unet" / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({**settings, "_diffusers_version": "0.0.4"}))
    weights = {}
    for key, value in load_file(new / "unet" / "diffusion_pytorch_model.safetensors").items():
        for ours, name in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            key = key.replace(f".{ours}.", f".{name}.")
        weights[key] = value
    save_file(weights, old / "diffusion_pytorch_model.safetensors")
    ours, again = load_stable_diffusion(new), load_stable_diffusion(old)
    assert again.unet.sample_size == 8
    for a, b in zip(ours.unet.variables, again.unet.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_an_image_of_nothing(tmp_path):
    """The command and Python; their DDIM from the same noise. Catches guidance by nothing, which doubles the work."""
    folder = save_theirs(tmp_path / "theirs", "heads")
    model = TextToImage(load_stable_diffusion(folder))
    got = model.generate(sampler="ddim", steps=3, seed=2)
    scheduler = diffusers.DDIMScheduler.from_pretrained(
        folder, subfolder="scheduler", clip_sample=False, steps_offset=1
    )
    scheduler.set_timesteps(3)
    peer, z = theirs("heads"), torch.from_numpy(np.moveaxis(gaussian_noise(2, (1, 8, 8, 3)), -1, 1).copy())
    with torch.no_grad():
        for t in scheduler.timesteps:
            z = scheduler.step(peer(z, t).sample, t, z).prev_sample
    expected = np.moveaxis(z.numpy(), 1, -1).clip(-1, 1)
    assert np.abs(got / 127.5 - 1 - expected).max() < 1.01 / 127.5
    out = tmp_path / "out.png"
    done = run_here(text2image.main, folder, "--sampler", "ddim", "--steps", "3", "--seed", "2", "--out", out)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.asarray(Image.open(out)), got[0])
    for options, message in (({"guidance": 2.0}, "trained for 1 to 1"), ({"prompts": "a"}, "leave the prompt out")):
        with pytest.raises(UserError, match=message):
            model.generate(**options)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("method", ["guided 1", *(pytest.param(one, marks=SLOW) for one in ("pretrain", "guided 2"))])
def test_the_methods_train_it(method, tmp_path):
    """With classes, to a base that samples. Catches copies of the network that ask for a prompt."""
    folder = saved(tmp_path / "base", num_class_embeds=5)
    settings = {
        "pretrain": {"name": "pretrain", "drop_prompt": 0.5},
        "guided 1": {"name": "guided", "stage": 1, "guidance": [1.0, 3.0]},
        "guided 2": {"name": "guided", "stage": 2, "steps": [4, 2], "updates": 1},
    }[method]
    data = {"source": "scenes", "image_size": 8, "classes": True}
    values = {"method": settings, "base": str(folder), "data": data, "train": {"steps": 2, "warmup_steps": 0}}
    trainer = build_trainer(config.from_dict(values))
    batch = {"image": tf.constant(RANDOM.uniform(-1, 1, (2, 8, 8, 3)).astype("float32")), "class": tf.constant([1, 3])}
    before = trainer.student.unet.mid_block.attentions[0].to_q.kernel.numpy()
    assert np.isfinite(float(trainer.train_step(batch)["loss"]))
    assert np.abs(trainer.student.unet.mid_block.attentions[0].to_q.kernel.numpy() - before).max() > 0
    (tmp_path / "result").mkdir()
    trainer.method.save(trainer.average, tmp_path / "result", dict)
    model = TextToImage(load_stable_diffusion(tmp_path / "result"))
    assert model.takes_guidance == (method == "guided 1")
    images = model.generate(labels=[0, 3], steps=2, guidance=2.0 if method != "guided 2" else 1.0)
    assert images.shape == (2, 8, 8, 3) and np.ptp(images) > 0


@pytest.mark.usefixtures("eager")
def test_codi_adapts_it(tmp_path):
    """The paper's adapter and its bundle. Catches an encoder of the adapter with prompts or other options."""
    base = small_base(norm_eps=1e-3, freq_shift=1, flip_sin_to_cos=False, downsample_padding=0)
    model = codi_tf.CoDi(base, image_size=8)
    assert model.student.adapter.encoder.norm_eps == 1e-3
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.0))
    images = tf.constant(RANDOM.uniform(-1, 1, (2, 8, 8, 3)).astype("float32"))
    assert np.isfinite(float(model.train_step({"image": images, "condition": images})["loss"]))
    given = RANDOM.random((1, 8, 8, 3)).astype("float32")
    expected = model.generate(given, steps=2)
    model.save(tmp_path / "bundle")
    np.testing.assert_array_equal(codi_tf.load(tmp_path / "bundle").generate(given, steps=2), expected)
    with pytest.raises(UserError, match="this base takes none; use adapter mu"):
        codi_tf.CoDi(base, "controlnet", image_size=8)


@pytest.mark.parametrize(
    ("format", "layout", "classes"),
    [
        ("onnx", "parts", False),
        *(pytest.param(format, "whole", True, marks=SLOW) for format in ("tflite", "saved_model", "onnx")),
    ],
)
def test_a_package_makes_the_same_image(format, layout, classes, tmp_path):
    """Catches a head too few, other features of time, and a padding on the other side."""
    options = {"norm_eps": 1e-3, "freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0}
    folder = saved(tmp_path / "base", **options, **({"num_class_embeds": 5} if classes else {}))
    label = 3 if classes else None
    shared = {"sampler": "ddim", "steps": 2, "guidance": 1.0}
    make_package(folder, tmp_path / "out", format=format, layout=layout, label=label, report=False, **shared)
    package = read_package(tmp_path / "out")
    image = load_any(package)(None, gaussian_noise(3, package.latent_shape))[0]
    model = TextToImage(load_stable_diffusion(folder))
    np.testing.assert_allclose(image, model.generate(labels=label, seed=3, **shared)[0] / 255, atol=1.01 / 255)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"resnet_time_scale_shift": "scale_shift"},
            "resnet_time_scale_shift is 'scale_shift', which is not supported",
        ),
        ({"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier', which is not supported"),
        ({"class_embed_type": "timestep"}, "class_embed_type is 'timestep', which is not supported: only null is"),
        ({"attn_norm_num_groups": 2}, "attn_norm_num_groups is 2, which is not supported"),
        ({"downsample_type": "resnet"}, "downsample_type is 'resnet', which is not supported"),
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "unknown down block 'SkipDownBlock2D'"),
        ({"attention_head_dim": 3}, "attention_head_dim is 3: it must divide 8, 16"),
        ({"downsample_padding": 2}, "downsample_padding is 2: only 0 or 1 is built here"),
        ({"cross_attention_dim": 8}, "cross_attention_dim is 8, which is not supported: only null is"),
        ({"in_channels": 1, "out_channels": 1}, "the UNet makes 1 channels, images of RGB"),
    ],
)
def test_what_is_not_built_is_refused_in_one_line(changes, message, tmp_path):
    folder = save_theirs(tmp_path / "theirs", "heads")
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    if "in_channels" in changes:
        unet = diffusers.UNet2DModel(**{**SMALL, **BLOCKS, **VARIANTS["heads"], **changes})
        unet.save_pretrained(folder / "unet")
    with pytest.raises(UserError) as error:
        load_stable_diffusion(folder)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_folders_that_lack_a_part_are_refused(tmp_path):
    folder = save_theirs(tmp_path / "theirs", "plain")
    (folder / "vqvae").mkdir()
    (folder / "vqvae" / "config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    with pytest.raises(UserError, match="vqvae: a VQModel, which is not built here"):
        load_stable_diffusion(folder)
    with pytest.raises(UserError, match="a UNet2DModel without its scheduler"):
        load_stable_diffusion(folder / "unet")
    with pytest.raises(UserError, match="a batch has context, but the base's UNet takes no prompts"):
        build_trainer(
            config.from_dict(
                {
                    "method": {"name": "pretrain"},
                    "base": str(saved(tmp_path / "base")),
                    "data": {"image_size": 8},
                    "train": {"steps": 1},
                }
            )
        ).train_step({"latent": tf.zeros((2, 8, 8, 3)), "context": tf.zeros((2, 77, 1))})


def test_a_network_with_prompts_keeps_stable_diffusions_options():
    """Catches an option that a folder of UNet2DConditionModel could not be read with."""
    with pytest.raises(UserError, match="norm_eps is 0.001: with prompts, only 1e-05 is built here"):
        make_unet({"norm_eps": 1e-3})
