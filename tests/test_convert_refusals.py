"""Checkpoints that are damaged, incomplete or of another kind: refused in one line."""

from __future__ import annotations

import shutil

import convert_cases
import pytest
from convert_cases import PARTS, TEXT_CONFIG, UNET_CONFIG, diffusers, edited, load_file, make_pipeline, save_file, torch

import codi_tf
from codi_tf.adapters.controlnet import CONTROLNET
from codi_tf.checkpoints.kinds import AUTOENCODER, TEXT_ENCODER, UNET
from codi_tf.checkpoints.networks import read_config
from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.core.errors import UserError
from codi_tf.io.json_files import read_json, write_json

pipeline, folder = convert_cases.pipeline, convert_cases.folder


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
    "no middle": (
        lambda f: edited(f / UNET_CONFIG, mid_block_type=None),
        "weights left over: mid_block.attentions.0.",
    ),
    "another middle": (
        lambda f: edited(f / UNET_CONFIG, mid_block_type="UNetMidBlock2DSimpleCrossAttn"),
        "unknown middle block 'UNetMidBlock2DSimpleCrossAttn': use one of UNetMidBlock2DCrossAttn, UNetMidBlock2D",
    ),
    "layers of other levels": (
        lambda f: edited(f / UNET_CONFIG, layers_per_block=[2, 1, 2, 1, 2]),
        "and layers_per_block 5: give one entry per level",
    ),
    "a level of no layers": (
        lambda f: edited(f / UNET_CONFIG, layers_per_block=[2, 0]),
        "unet/config.json: layers_per_block is [2, 0]: it must be a whole number above 0",
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


@pytest.mark.parametrize("kind", [UNET, AUTOENCODER, CONTROLNET, TEXT_ENCODER], ids=lambda kind: kind.peer)
def test_numbers_are_checked_where_they_are_read(tmp_path, kind):
    assert {key for key, value in kind.ours.items() if type(value) in (int, float)} - {"attention_head_dim"} <= set(
        kind.positive
    )
    path = tmp_path / "config.json"
    for key, wanted in kind.positive.items():
        bad = [0, -1, "8", True, *([] if key in kind.lists else [[1, 2]]), *([1.5] if wanted is int else [])]
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
