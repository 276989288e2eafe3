"""Checkpoints as diffusers and transformers write them, in and out: the same numbers, the same bits, or one line."""

from __future__ import annotations

import inspect
import json
import logging
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from tiny_pipeline import save_pipeline

import codi_tf
from codi_tf.adapters.controlnet import CONTROLNET
from codi_tf.checkpoints.folder import complete_scheduler
from codi_tf.checkpoints.kinds import AUTOENCODER, TEXT_ENCODER, UNET
from codi_tf.checkpoints.networks import read_config, read_network, write_network
from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.cli import convert as command
from codi_tf.core.command_line import run_command
from codi_tf.core.errors import UserError
from codi_tf.diffusion.scheduler_config import SCHEDULERS
from codi_tf.io.json_files import read_json, write_json
from codi_tf.io.layouts import key_of
from codi_tf.io.weights import state_dict

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
load_file = pytest.importorskip("safetensors.torch").load_file
save_file = pytest.importorskip("safetensors.torch").save_file
torch.set_num_threads(1)

TOLERANCE = 2e-5  # of the output's scale
PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
LEVELS = {  # three levels: a decoder's level with attention and an upsampler is among them
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
}
VARIANTS = {
    "1.x": ("1.x", LEVELS),
    "1.x, InstructPix2Pix": ("1.x", {"in_channels": 8}),
    "1.x, inpainting": ("1.x", {"in_channels": 9}),
    "2.x": ("2.x", {**LEVELS, "attention_head_dim": (2, 4, 8)}),
    "2.x, attention in float32": ("2.x", {"upcast_attention": True}),
}


def make_pipeline(folder, version: str, **unet):
    """diffusers' pipeline from the folder that is made."""
    return diffusers.StableDiffusionPipeline.from_pretrained(save_pipeline(folder, version, **unet))


@pytest.fixture(scope="module", params=VARIANTS)
def saved(request, tmp_path_factory):
    """(pipeline, its folder) of every family."""
    version, changes = VARIANTS[request.param]
    folder = tmp_path_factory.mktemp("pipeline") / "saved"
    return make_pipeline(folder, version, **changes), folder


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline of the family 1.x."""
    return make_pipeline(tmp_path_factory.mktemp("pipeline") / "saved", "1.x")


@pytest.fixture
def folder(pipeline, tmp_path):
    """A fresh folder with it."""
    pipeline.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def close(ours, theirs):
    theirs = theirs.detach().numpy()
    assert np.abs(np.asarray(ours) - theirs).max() <= TOLERANCE * np.abs(theirs).max()


def assert_same_numbers(base, pipeline):
    """The base's networks say what the pipeline's say, on latents that are no squares."""
    random = np.random.default_rng(0)
    z = random.normal(size=(2, 8, 12, base.unet.in_channels)).astype("float32")
    t, ids = np.array([981, 20]), random.integers(0, base.text_encoder.vocab_size, (2, 77))
    with torch.no_grad():
        prompt = pipeline.text_encoder(torch.tensor(ids)).last_hidden_state
        theirs = pipeline.unet(torch.tensor(z.transpose(0, 3, 1, 2)), torch.tensor(t), prompt).sample
        decoded = pipeline.vae.decode(torch.tensor(z[..., :4].transpose(0, 3, 1, 2))).sample
        encoded = pipeline.vae.encode(decoded).latent_dist.mean
    close(base.text_encoder(ids), prompt)
    close(base.unet(z, t, prompt.numpy()), theirs.permute(0, 2, 3, 1))
    close(base.vae.decode(z[..., :4]), decoded.permute(0, 2, 3, 1))
    close(base.vae.encode(decoded.permute(0, 2, 3, 1).numpy()).mean, encoded.permute(0, 2, 3, 1))
    assert base.vae.scaling_factor == pipeline.vae.config.scaling_factor
    np.testing.assert_allclose(base.schedule.alpha**2, pipeline.scheduler.alphas_cumprod.numpy(), rtol=1e-5)


def assert_same_bits(base, pipeline):
    for part in PARTS:
        theirs, ours = getattr(pipeline, part).state_dict(), state_dict(getattr(base, part))
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_array_equal(ours[key], value.float().numpy())


def test_a_folder_gives_the_same_numbers(saved):
    pipeline, folder = saved
    base = codi_tf.load_stable_diffusion(folder)
    assert_same_bits(base, pipeline)
    assert_same_numbers(base, pipeline)
    assert base.unet.sample_size == 8 and base.path == folder
    prompts = ["the cat", "at the cat"]
    expected = pipeline.tokenizer(prompts, padding="max_length", max_length=77, return_tensors="np").input_ids
    np.testing.assert_array_equal(base.tokenizer(prompts), expected)


def test_diffusers_reads_what_is_written_without_a_warning_and_makes_the_same_image(saved, tmp_path):
    pipeline, folder = saved
    codi_tf.save_stable_diffusion(codi_tf.load_stable_diffusion(folder), tmp_path / "written")
    heard = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = heard.append
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        back = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "written", low_cpu_mem_usage=False)
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    assert not [record.getMessage() for record in heard]
    for part in PARTS:
        before, after = getattr(pipeline, part), getattr(back, part)
        assert type(before) is type(after)
        theirs, ours = before.state_dict(), after.state_dict()
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)
    for part in ("unet", "vae"):
        before, after = (dict(getattr(p, part).config) for p in (pipeline, back))
        differing = {key for key in before | after if before.get(key) != after.get(key)}
        assert not {key for key in differing if not key.startswith("_")} - {"sample_size"}  # the autoencoder's is inert
    assert back.unet.config.sample_size == 8
    scheduler = "scheduler/scheduler_config.json"
    assert read_json(tmp_path / "written" / scheduler) == read_json(folder / scheduler)
    written = {p.name: p.read_bytes() for p in (tmp_path / "written/tokenizer").iterdir()}
    assert written == {name: (folder / "tokenizer" / name).read_bytes() for name in written} and written
    if type(back) is diffusers.StableDiffusionPipeline:
        images = [image(p) for p in (pipeline, back)]
        np.testing.assert_array_equal(*images)
    else:
        channels = {8: "StableDiffusionInstructPix2PixPipeline", 9: "StableDiffusionInpaintPipeline"}
        assert type(back).__name__ == channels[pipeline.unet.config.in_channels]


def test_a_scheduler_of_ours_is_completed_so_that_diffusers_does_not_clip(base, tmp_path):
    """Ours says only what is trained; DDIMScheduler would clip where it is not told otherwise."""
    codi_tf.save_stable_diffusion(base, tmp_path / "written")
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / "written/scheduler")
    assert not scheduler.config.clip_sample and scheduler.config.steps_offset == 1
    np.testing.assert_allclose(base.schedule.alpha**2, scheduler.alphas_cumprod.numpy(), rtol=1e-4, atol=1e-7)
    assert not (tmp_path / "written/model_index.json").exists()  # no pipeline of diffusers without a text encoder
    diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "written/unet")
    back = codi_tf.load_stable_diffusion(tmp_path / "written")
    assert back.text_encoder is None and back.unet.get_config() == base.unet.get_config()


@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler")
@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler"])
def test_a_scheduler_that_clips_is_corrected_as_the_pipeline_does_it(folder, tmp_path, name):
    edited(folder / "scheduler/scheduler_config.json", _class_name=name, clip_sample=True)
    edited(folder / "model_index.json", scheduler=["diffusers", name])
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    assert not getattr(theirs.scheduler.config, "clip_sample", False)
    codi_tf.save_stable_diffusion(codi_tf.load_stable_diffusion(folder), tmp_path / "written")
    scheduler = "scheduler/scheduler_config.json"
    assert read_json(tmp_path / "written" / scheduler) == {**read_json(folder / scheduler), "clip_sample": False}


def test_schedulers_that_would_clip_are_told_not_to():
    for name in SCHEDULERS:
        knows = "clip_sample" in inspect.signature(getattr(diffusers, name).__init__).parameters
        assert complete_scheduler({"_class_name": name}).get("clip_sample") == (False if knows else None), name


def test_no_pipeline_of_diffusers_takes_other_channels(tmp_path):
    folder = save_pipeline(tmp_path / "saved", "1.x", in_channels=7)
    codi_tf.save_stable_diffusion(codi_tf.load_stable_diffusion(folder), tmp_path / "written")
    assert not (tmp_path / "written/model_index.json").exists()
    assert codi_tf.load_stable_diffusion(tmp_path / "written").unet.in_channels == 7


def image(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    made = pipeline("the cat", num_inference_steps=3, generator=generator, output_type="np", height=16, width=24)
    return made.images


def sharded(pipeline, folder):
    for part, limit in (("unet", "60KB"), ("vae", "20KB"), ("text_encoder", "30KB")):
        shutil.rmtree(folder / part)
        getattr(pipeline, part).save_pretrained(folder / part, max_shard_size=limit)
        assert len(list((folder / part).glob("*.safetensors"))) > 2


def called_fp16(pipeline, folder):
    for part, stem in PARTS.items():
        (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16.safetensors")


def sharded_and_called_fp16(pipeline, folder):
    for part, limit in (("unet", "60KB"), ("text_encoder", "30KB")):
        shutil.rmtree(folder / part)
        getattr(pipeline, part).save_pretrained(folder / part, max_shard_size=limit, variant="fp16")
        assert not (folder / part / f"{PARTS[part]}.safetensors.index.json").exists()


def both_precisions(pipeline, folder):
    for part, stem in PARTS.items():
        (folder / part / f"{stem}.fp16.safetensors").write_bytes(b"another one, which is not read")


def old_attention(pipeline, folder, ones=()):
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    for key in list(weights):
        for ours, theirs in names.items():
            if f".attentions.0.{ours}." in key:
                value = weights.pop(key)
                value = value.reshape(*value.shape, *ones) if key.endswith("weight") else value
                weights[key.replace(ours, theirs)] = value
    save_file(weights, folder / "vae/diffusion_pytorch_model.safetensors")
    assert sum(".query." in key or ".proj_attn." in key for key in weights) == 8


def old_attention_as_convolutions(pipeline, folder):
    old_attention(pipeline, folder, (1, 1))


def old_attention_as_convolutions_1d(pipeline, folder):
    old_attention(pipeline, folder, (1,))


def old_text_encoder(pipeline, folder):
    path = folder / "text_encoder/model.safetensors"
    weights = {f"text_model.{key}": value for key, value in load_file(path).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, path)


def old_configs(pipeline, folder):
    """What the first files lack, and what transformers wrote into its own."""
    config = read_json(folder / "unet/config.json")
    for key in UNET.fixed:
        config.pop(key, None)
    write_json(folder / "unet/config.json", {**config, "dropout": 0.0, "only_cross_attention": [False, False]})
    config = read_json(folder / "text_encoder/config.json")
    write_json(folder / "text_encoder/config.json", {**config, "torch_dtype": "float32", "dropout": 0.0})


FORMS = (
    sharded,
    called_fp16,
    sharded_and_called_fp16,
    both_precisions,
    old_attention,
    old_attention_as_convolutions,
    old_attention_as_convolutions_1d,
    old_text_encoder,
    old_configs,
)


@pytest.mark.parametrize("change", FORMS, ids=[form.__name__ for form in FORMS])
def test_every_form_of_a_folder_is_read(pipeline, folder, change):
    change(pipeline, folder)
    assert_same_bits(codi_tf.load_stable_diffusion(folder), pipeline)


def test_a_tokenizer_may_come_from_elsewhere(folder):
    (folder / "tokenizer").rename(folder.parent / "words")
    base = codi_tf.load_stable_diffusion(folder, tokenizer=folder.parent / "words")
    assert base.embed(["the cat"]).shape == (1, 77, 24)


def test_the_user_may_know_the_prediction_type_better(folder):
    base = codi_tf.load_stable_diffusion(folder, prediction_type="v_prediction")
    assert base.prediction_type == base.scheduler["prediction_type"] == "v_prediction"
    with pytest.raises(UserError, match="prediction_type is 'v': use one of epsilon, "):
        codi_tf.load_stable_diffusion(folder, prediction_type="v")


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_comes_and_goes_bit_by_bit(folder, tmp_path, name):
    dtype = getattr(torch, name)
    for part, stem in PARTS.items():
        path = folder / part / f"{stem}.safetensors"
        save_file({key: value.to(dtype) for key, value in load_file(path).items()}, path, metadata={"format": "pt"})
    base = codi_tf.load_stable_diffusion(folder)
    codi_tf.save_stable_diffusion(base, tmp_path / "half", dtype=name)
    codi_tf.save_stable_diffusion(base, tmp_path / "full")
    kept = codi_tf.load_stable_diffusion(folder, weights=name)
    codi_tf.save_stable_diffusion(kept, tmp_path / "kept", dtype=name)
    for part, stem in PARTS.items():
        network, half = getattr(base, part), getattr(kept, part)
        assert {v.dtype for v in network.variables} == {"float32"} and {v.dtype for v in half.variables} == {name}
        first = load_file(folder / part / f"{stem}.safetensors")
        for target in ("half", "kept", "full"):
            second = load_file(tmp_path / target / part / f"{stem}.safetensors")
            second = {key.removeprefix("text_model."): value for key, value in second.items()}
            assert first.keys() == second.keys()
            for key, value in first.items():
                expected = value.float() if target == "full" else value
                assert second[key].dtype == expected.dtype and torch.equal(second[key], expected)
        config = read_json(tmp_path / "half" / part / "config.json")
        assert config.get("dtype") == (name if part == "text_encoder" else None)
        ours = state_dict(half)
        assert all(np.array_equal(ours[key], value.float().numpy()) for key, value in first.items())


def test_the_format_of_computation_is_that_of_all_networks(folder):
    base = codi_tf.load_stable_diffusion(folder, compute="bfloat16")
    assert {n.compute_dtype for n in (base.unet, base.vae, base.text_encoder, base.unet.conv_in)} == {"bfloat16"}
    assert base.unet.conv_in.kernel.dtype == "float32"
    with pytest.raises(UserError, match="compute is 'half': use one of float32"):
        codi_tf.load_stable_diffusion(folder, compute="half")


@pytest.mark.parametrize(("version", "acts"), [("1.x", ["quick_gelu"] * 2), ("2.x", ["gelu", "gelu_pytorch_tanh"])])
def test_numerics_are_an_option_and_are_kept(tmp_path, version, acts):
    folder = save_pipeline(tmp_path / "saved", version)
    base = codi_tf.load_stable_diffusion(folder)
    assert base.unet.numerics == base.vae.numerics == "diffusers" and base.text_encoder.hidden_act == acts[0]
    base = codi_tf.load_stable_diffusion(folder, numerics="keras_cv")
    codi_tf.save_stable_diffusion(base, tmp_path / "written")
    again = codi_tf.load_stable_diffusion(tmp_path / "written")
    for loaded in (base, again):
        assert loaded.unet.numerics == loaded.vae.numerics == "keras_cv" and loaded.text_encoder.hidden_act == acts[1]
    back = codi_tf.load_stable_diffusion(tmp_path / "written", numerics="diffusers")
    assert back.unet.numerics == back.vae.numerics == "diffusers" and back.text_encoder.hidden_act == acts[0]
    with pytest.raises(UserError, match="numerics is 'torch': use one of diffusers, keras_cv"):
        codi_tf.load_stable_diffusion(folder, numerics="torch")


@pytest.mark.filterwarnings("ignore:The configuration file of the unet")
@pytest.mark.parametrize("version", ["0.6.0", "0.8.1.dev0", "0.9.0.dev0", "0.9.0", "0.30.0", None])
def test_the_side_of_old_files_is_corrected_as_the_pipeline_does_it(folder, version):
    edited(folder / UNET_CONFIG, _diffusers_version=version)
    if version is None:
        config = read_json(folder / UNET_CONFIG)
        del config["_diffusers_version"]
        write_json(folder / UNET_CONFIG, config)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder).unet.config.sample_size
    assert codi_tf.load_stable_diffusion(folder).unet.sample_size == theirs
    assert theirs == (64 if version in ("0.6.0", "0.8.1.dev0") else 8)


def test_a_value_out_of_range_is_refused(folder, tmp_path):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["mid_block.resnets.0.conv1.bias"][1] = 7e4
    save_file(weights, path)
    with pytest.raises(UserError, match=r"mid_block.resnets.0.conv1.bias has values beyond the range of float16; keep"):
        codi_tf.load_stable_diffusion(folder, weights="float16")
    base = codi_tf.load_stable_diffusion(folder)  # nothing is left behind by the failure
    with pytest.raises(UserError, match=r"mid_block.resnets.0.conv1.bias has values beyond the range of float16; save"):
        codi_tf.save_stable_diffusion(base, tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()
    codi_tf.save_stable_diffusion(base, tmp_path / "half", dtype="bfloat16")


def test_every_variable_is_set_once_from_a_tensor_of_its_own(folder, monkeypatch):
    weights = {part: load_file(folder / part / f"{stem}.safetensors") for part, stem in PARTS.items()}
    for part, stem in PARTS.items():  # every number of the checkpoint is another one
        count = 0
        for key, value in weights[part].items():
            weights[part][key] = torch.arange(count, count + value.numel()).reshape(value.shape).float()
            count += value.numel()
        assert count < 2**24
        save_file(weights[part], folder / part / f"{stem}.safetensors")
    base = codi_tf.load_stable_diffusion(folder)
    for part in PARTS:
        network = getattr(base, part)
        assert sorted(key_of(v, network) for v in network.variables) == sorted(weights[part])
        numbers = np.sort(np.concatenate([v.numpy().ravel() for v in network.variables]))
        np.testing.assert_array_equal(numbers, np.arange(numbers.size))
        assert all(v.trainable for v in network.variables)


def edited(path: Path, **changes):
    write_json(path, {**read_json(path), **changes})


def without(folder, part, key):
    path = folder / part / f"{PARTS[part]}.safetensors"
    weights = load_file(path)
    del weights[key]
    save_file(weights, path)


def with_more(folder, part, **more):
    path = folder / part / f"{PARTS[part]}.safetensors"
    save_file({**load_file(path), **more}, path)


def pickled(folder, part):
    stem = folder / part / PARTS[part]
    stem.with_suffix(".safetensors").rename(stem.with_suffix(".bin"))


SHARD_INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"


def in_shards(folder, **places):
    """The UNet in four shards, of which the index says something else of some keys; None: nothing."""
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", max_shard_size="60KB")
    weight_map = {**read_json(folder / SHARD_INDEX)["weight_map"], **places}
    edited(folder / SHARD_INDEX, weight_map={key: name for key, name in weight_map.items() if name is not None})


def shard(number: int) -> str:
    return f"diffusion_pytorch_model-{number:05d}-of-00004.safetensors"


def shard_missing(folder):
    in_shards(folder)
    sorted((folder / "unet").glob("*.safetensors"))[-1].unlink()


def index_broken(folder):
    in_shards(folder)
    edited(folder / SHARD_INDEX, weight_map={"a": "../b.safetensors"})


def network_alone(folder):
    shutil.copytree(folder / "vae", folder, dirs_exist_ok=True)
    for part in ("vae", "model_index.json"):
        (folder / part).rename(folder.parent / part)


def pickle_beside_safetensors(folder, part):
    stem = folder / part / PARTS[part]
    stem.with_suffix(".bin").write_bytes(b"")
    stem.with_suffix(".safetensors").rename(folder / part / "other.safetensors")


UNET_CONFIG, TEXT_CONFIG = "unet/config.json", "text_encoder/config.json"
REFUSALS = {
    "UNet of 2.x": (
        lambda f: edited(f / UNET_CONFIG, cross_attention_dim=32),
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight (16, 24), wanted (16, 32)",
    ),
    "weight missing": (
        lambda f: without(f, "unet", "conv_in.bias"),
        "model.safetensors: 1 weights missing: conv_in.bias; the file belongs to another network",
    ),
    "weight left over": (
        lambda f: with_more(f, "vae", extra=torch.zeros(1)),
        "1 weights left over: extra; the file belongs to another network",
    ),
    "many left over": (
        lambda f: with_more(f, "vae", **{f"extra.{i}": torch.zeros(1) for i in range(9)}),
        "9 weights left over: extra.0, extra.1, extra.2, extra.3, extra.4 and 4 more;",
    ),
    "integers": (
        lambda f: with_more(f, "vae", **{"quant_conv.bias": torch.zeros(8, dtype=torch.int32)}),
        "1 weights of another type than float32, float16, bfloat16: quant_conv.bias int32",
    ),
    "positions": (
        lambda f: with_more(f, "text_encoder", **{"embeddings.position_ids": torch.arange(77).flip(0)}),
        "embeddings.position_ids is not 0, 1, 2, ...",
    ),
    "attention of the autoencoder as convolutions of 2.x's UNet": (
        lambda f: with_more(f, "vae", **{"encoder.mid_block.attentions.0.to_q.weight": torch.zeros(16, 16, 1, 1)}),
        "encoder.mid_block.attentions.0.to_q.weight (16, 16, 1, 1), wanted (16, 16)",
    ),
    "no UNet": (lambda f: shutil.rmtree(f / "unet"), "its model_index.json names unet, and the folder unet is missing"),
    "no autoencoder": (lambda f: shutil.rmtree(f / "vae"), "names vae, and the folder vae is missing"),
    "no text encoder": (lambda f: shutil.rmtree(f / "text_encoder"), "names text_encoder, and the folder"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "names tokenizer, and the folder tokenizer is missing"),
    "no config": (lambda f: (f / UNET_CONFIG).unlink(), "unet/config.json: no such file"),
    "no weights": (lambda f: (f / "vae/diffusion_pytorch_model.safetensors").unlink(), "no such weight file"),
    "no scheduler": (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "scheduler_config.json: no such file"),
    "pickle": (lambda f: pickled(f, "text_encoder"), "text_encoder/model.bin: a pickle, which can run any code"),
    "pickle beside safetensors": (
        lambda f: pickle_beside_safetensors(f, "unet"),
        "unet/diffusion_pytorch_model.safetensors: no such weight file",
    ),
    "a network alone": (
        network_alone,
        "saved: this is one network (AutoencoderKL); name the folder of the whole model",
    ),
    "shard of another model": (
        lambda f: in_shards(f, **{"conv_in.bias": None}),
        f"{SHARD_INDEX}: conv_in.bias is missing in the index; the files do not belong together",
    ),
    "index of another model": (
        lambda f: in_shards(f, other=shard(1)),
        f"{SHARD_INDEX}: other is missing in {shard(1)}; the files do not belong together",
    ),
    "key in another shard": (
        lambda f: in_shards(f, **{"conv_out.bias": shard(1)}),
        f"{SHARD_INDEX}: conv_out.bias is missing in {shard(1)}; the files do not belong together",
    ),
    "shard missing": (shard_missing, "no such weight file"),
    "index broken": (index_broken, "holds no weight_map of keys and file names"),
    "another class": (
        lambda f: edited(f / UNET_CONFIG, _class_name="UNet3DConditionModel"),
        "a UNet3DConditionModel, expected a UNet2DConditionModel",
    ),
    "scale and shift": (
        lambda f: edited(f / UNET_CONFIG, resnet_time_scale_shift="scale_shift"),
        "unet/config.json: resnet_time_scale_shift is 'scale_shift', which is not supported: only 'default' is",
    ),
    "SDXL": (lambda f: edited(f / UNET_CONFIG, addition_embed_type="text_time"), "addition_embed_type is 'text_time'"),
    "numbers that are no truth values": (
        lambda f: edited(f / UNET_CONFIG, flip_sin_to_cos=1),
        "flip_sin_to_cos is 1, which is not supported: only True is",
    ),
    "no middle": (lambda f: edited(f / UNET_CONFIG, mid_block_type=None), "mid_block_type is None"),
    "levels that differ": (
        lambda f: edited(f / UNET_CONFIG, layers_per_block=[1, 2]),
        "unet/config.json: layers_per_block is [1, 2]: it must be a whole number above 0",
    ),
    "side as a text": (
        lambda f: edited(f / UNET_CONFIG, sample_size="8"),
        "unet/config.json: sample_size is '8': it must be a whole number above 0",
    ),
    "scale of latents": (
        lambda f: edited(f / "vae/config.json", scaling_factor=None),
        "vae/config.json: scaling_factor is None: it must be a number above 0",
    ),
    "no heads": (lambda f: edited(f / UNET_CONFIG, attention_head_dim=0), "channels cannot be split into 0 heads"),
    "key from the future": (
        lambda f: edited(f / UNET_CONFIG, twist=0.5),
        "config.json: twist is 0.5, which is not",
    ),
    "shift of latents": (lambda f: edited(f / "vae/config.json", shift_factor=0.1), "shift_factor is 0.1"),
    "no such activation": (lambda f: edited(f / TEXT_CONFIG, hidden_act="relu"), "unknown hidden_act 'relu'"),
    "schedule": (
        lambda f: edited(f / "scheduler/scheduler_config.json", beta_schedule="sigmoid"),
        "scheduler/scheduler_config.json: ",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_fit_is_refused_in_a_line(folder, case):
    change, said = REFUSALS[case]
    change(folder)
    with pytest.raises(UserError) as caught:
        codi_tf.load_stable_diffusion(folder)
    line = str(caught.value)
    assert said in line and "\n" not in line and len(line) < 700


@pytest.mark.parametrize("kept", [0, 5, 300, 5000, -4])
@pytest.mark.parametrize("part", PARTS)
def test_torn_files_are_refused(folder, part, kept):
    path = folder / part / f"{PARTS[part]}.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="truncated or no safetensors file") as caught:
        codi_tf.load_stable_diffusion(folder)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_parts_of_different_families_are_refused(folder, tmp_path):
    make_pipeline(tmp_path / "other", "1.x", cross_attention_dim=32).unet.save_pretrained(folder / "unet")
    with pytest.raises(UserError, match=r"prompts of 32 channels \(768 in 1.x, .*, the text encoder gives 24"):
        codi_tf.load_stable_diffusion(folder)
    make_pipeline(tmp_path / "third", "1.x", in_channels=16, out_channels=16).unet.save_pretrained(folder / "unet")
    with pytest.raises(UserError, match="latents of 16 channels, the autoencoder takes 4"):
        codi_tf.load_stable_diffusion(folder)


def test_sources_that_are_no_checkpoint_are_refused(tmp_path):
    for name in ("model.ckpt", "model.bin", "model.pt", "model.pth"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(UserError, match=r"a pickle, which can run any code when it is read; .*torch.save_file"):
            codi_tf.load_stable_diffusion(tmp_path / name)
    with pytest.raises(UserError, match="a pickle"):
        codi_tf.load_stable_diffusion(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="vae/config.json: no such file"):
        codi_tf.load_stable_diffusion(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="not a known kind of checkpoint"):
        codi_tf.load_stable_diffusion(tmp_path / "model.onnx")
    with pytest.raises(UserError, match="no such model folder"):
        codi_tf.load_stable_diffusion(tmp_path / "none.safetensors")


def test_a_folder_in_use_is_not_touched(folder, tmp_path):
    base = codi_tf.load_stable_diffusion(folder)
    with pytest.raises(UserError, match="already exists; name a new folder"):
        codi_tf.save_stable_diffusion(base, folder)
    (tmp_path / "empty").mkdir()
    codi_tf.save_stable_diffusion(base, tmp_path / "empty")
    with pytest.raises(UserError, match="dtype is 'int8': use one of float32, float16, bfloat16"):
        codi_tf.save_stable_diffusion(base, tmp_path / "other", dtype="int8")
    with pytest.raises(UserError, match="cannot be saved without one: load it with tokenizer=FOLDER"):
        base.tokenizer = None
        codi_tf.save_stable_diffusion(base, tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "saved"]


@pytest.mark.parametrize(
    ("kind", "peer"),
    [
        (UNET, diffusers.UNet2DConditionModel),
        (AUTOENCODER, diffusers.AutoencoderKL),
        (CONTROLNET, diffusers.ControlNetModel),
        (TEXT_ENCODER, transformers.CLIPTextConfig),
    ],
)
def test_the_tables_know_every_key_of_the_peer_and_its_default(kind, peer):
    if kind is TEXT_ENCODER:
        defaults = {key: value for key, value in peer().to_dict().items() if not key.startswith("_")}
    else:
        parameters = list(inspect.signature(peer.__init__).parameters.values())[1:]
        defaults = {p.name: p.default for p in parameters}
    assert kind.ours.keys() - {"numerics"} <= defaults.keys() and kind.fixed.keys() <= defaults.keys()
    assert not kind.ours.keys() & kind.fixed.keys() and not kind.inert & (kind.ours.keys() | kind.fixed.keys())
    for key, value in defaults.items():
        if key in kind.ours:
            assert kind.ours[key] == value, key
        elif key in kind.fixed:
            one = value[0] if isinstance(value, tuple) else value
            assert kind.fixed[key][0] == one and type(kind.fixed[key][0]) is type(one), key
        else:
            assert key in kind.inert or value is None, key


@pytest.mark.parametrize("kind", [UNET, AUTOENCODER, CONTROLNET, TEXT_ENCODER], ids=lambda kind: kind.peer)
def test_numbers_are_checked_where_they_are_read(tmp_path, kind):
    assert {key for key, value in kind.ours.items() if type(value) in (int, float)} - {"attention_head_dim"} <= set(
        kind.positive
    )
    path = tmp_path / "config.json"
    for key, wanted in kind.positive.items():
        bad = [0, -1, "8", True, [1, 2], float("nan"), float("inf"), *([1.5] if wanted is int else [])]
        for value in bad if kind.ours[key] is None else [*bad, None]:
            write_json(path, {key: value})
            with pytest.raises(UserError, match=rf"config.json: {key} is .*: it must be a .*number above 0$"):
                read_config(kind, path)
        write_json(path, {key: 2 if wanted is int else 0.5})
        assert read_config(kind, path)[key] in (2, 0.5)


def test_an_index_with_an_empty_place_names_nothing(folder):
    shutil.rmtree(folder / "unet")
    edited(folder / "model_index.json", unet=[])
    assert codi_tf.load_stable_diffusion(folder).unet is None


def test_missing_keys_have_diffusers_defaults(tmp_path):
    write_json(tmp_path / "config.json", {"_class_name": "UNet2DConditionModel"})
    config = read_config(UNET, tmp_path / "config.json")
    with torch.device("meta"):
        peer = diffusers.UNet2DConditionModel()
    assert config["cross_attention_dim"] == peer.config.cross_attention_dim == 1280


def test_a_controlnet_comes_and_goes(pipeline, tmp_path):
    torch.manual_seed(1)
    peer = diffusers.ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(4, 8))
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    peer.save_pretrained(tmp_path / "peer")
    ours = read_network(CONTROLNET, tmp_path / "peer", name="adapter")
    write_network(CONTROLNET, ours, tmp_path / "ours")
    back = diffusers.ControlNetModel.from_pretrained(tmp_path / "ours")
    theirs, again = peer.state_dict(), back.state_dict()
    assert theirs.keys() == again.keys() and all(torch.equal(theirs[key], again[key]) for key in theirs)
    before, after = (json.loads(model.to_json_string()) for model in (peer, back))
    assert not {key for key in before | after if before.get(key) != after.get(key) and not key.startswith("_")}


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["convert", *map(str, arguments)])
    status = run_command(command.main)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_writes_a_folder(folder, tmp_path, monkeypatch, capsys):
    (folder / "tokenizer").rename(tmp_path / "words")
    edited(folder / "model_index.json", tokenizer=[None, None])
    target = tmp_path / "target"
    options = ("--tokenizer", tmp_path / "words", "--dtype", "bfloat16", "--prediction-type", "v_prediction")
    status, out, err = run(monkeypatch, capsys, folder, target, *options)
    assert status == 0 and out.splitlines()[-1] == str(target)
    assert re.search(r"Stable Diffusion 1\.x, 4 input channels, v_prediction prediction: UNet 0\.\dM, ", out)
    assert err.splitlines() == ["writing vae", "writing unet", "writing text_encoder"]
    base = codi_tf.load_stable_diffusion(target)
    assert base.prediction_type == "v_prediction"
    kept = load_file(target / "unet/diffusion_pytorch_model.safetensors").values()
    assert {value.dtype for value in kept} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda f: shutil.rmtree(f / "vae"), (), "the folder vae is missing"),
        (lambda f: None, ("--dtype", "int4"), "--dtype: invalid choice: 'int4'"),
        (lambda f: None, ("--prediction-type", "noise"), "--prediction-type: invalid choice: 'noise'"),
        (lambda f: None, ("--tokenizer", "/nowhere"), "/nowhere"),
        (lambda f: None, ("--format", "onnx"), "--format"),
    ],
)
def test_a_mistake_is_a_line_and_the_target_is_not_made(folder, tmp_path, monkeypatch, capsys, change, options, said):
    change(folder)
    status, out, err = run(monkeypatch, capsys, folder, tmp_path / "target", *options)
    assert status == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and said in err
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]
    before = json.dumps(sorted(p.name for p in folder.iterdir()))
    assert run(monkeypatch, capsys, folder, folder)[0] == 2
    assert json.dumps(sorted(p.name for p in folder.iterdir())) == before


def test_an_unwritable_target_and_a_missing_source_are_told_at_once(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    for source, target, said in (
        (folder, tmp_path / "file" / "x", "cannot write into"),
        (tmp_path / "no", "x", "no such"),
    ):
        status, out, err = run(monkeypatch, capsys, source, target)
        assert status == 2 and out == "" and err.startswith("error: ") and said in err and err.count("\n") == 1


def test_a_bundle_with_an_adapter_alone_is_no_checkpoint(folder, tmp_path):
    codi_tf.CoDi(codi_tf.load_stable_diffusion(folder), train="adapter", image_size=16).save(tmp_path / "bundle")
    with pytest.raises(UserError, match="an adapter alone"):
        codi_tf.load_stable_diffusion(tmp_path / "bundle")


def test_a_tokenizer_of_another_text_encoder_is_refused(folder, tmp_path):
    words = Tokenizer.load(folder / "tokenizer")
    vocabulary = {**words.vocabulary, "a word too many": max(words.vocabulary.values()) + 1}
    Tokenizer(vocabulary, words.merges).save(tmp_path / "words")
    with pytest.raises(UserError, match="the tokenizer gives 77 ids up to"):
        codi_tf.load_stable_diffusion(folder, tokenizer=tmp_path / "words")


def test_saving_what_diffusers_computes_otherwise_warns(folder, tmp_path):
    with pytest.warns(UserWarning, match="its own epsilon and GELU"):
        codi_tf.save_stable_diffusion(codi_tf.load_stable_diffusion(folder, numerics="keras_cv"), tmp_path / "new")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        codi_tf.save_stable_diffusion(codi_tf.load_stable_diffusion(folder), tmp_path / "other")
