"""Checkpoints as diffusers and transformers write them, in and out: the same numbers, the same bits."""

from __future__ import annotations

import inspect
import json
import logging
import warnings

import convert_cases
import numpy as np
import pytest
from convert_cases import (
    PARTS,
    UNET_CONFIG,
    assert_same_bits,
    diffusers,
    edited,
    load_file,
    make_pipeline,
    save_file,
    torch,
    transformers,
)
from tiny_pipeline import save_pipeline

import codi_tf
from codi_tf.adapters.controlnet import CONTROLNET
from codi_tf.checkpoints.folder import complete_scheduler
from codi_tf.checkpoints.kinds import AUTOENCODER, TEXT_ENCODER, UNET, UNET_2D
from codi_tf.checkpoints.networks import read_config, read_network, write_network
from codi_tf.core.errors import UserError
from codi_tf.diffusion.scheduler_config import SCHEDULERS
from codi_tf.io.json_files import read_json, write_json
from codi_tf.io.layouts import key_of
from codi_tf.io.weights import state_dict

pipeline, folder = convert_cases.pipeline, convert_cases.folder


TOLERANCE = 2e-5  # of the output's scale
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


@pytest.fixture(scope="module", params=VARIANTS)
def saved(request, tmp_path_factory):
    """(pipeline, its folder) of every family."""
    version, changes = VARIANTS[request.param]
    folder = tmp_path_factory.mktemp("pipeline") / "saved"
    return make_pipeline(folder, version, **changes), folder


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


@pytest.mark.parametrize(
    ("kind", "peer"),
    [
        (UNET, diffusers.UNet2DConditionModel),
        (UNET_2D, diffusers.UNet2DModel),
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
    own = {"numerics", "patch_size", "linear_shortcut"}  # no keys of diffusers
    own |= {"time_cond_proj_dim"} if kind is UNET_2D else set()
    assert kind.ours.keys() - own <= defaults.keys() and kind.fixed.keys() <= defaults.keys()
    assert not kind.ours.keys() & kind.fixed.keys() and not kind.inert & (kind.ours.keys() | kind.fixed.keys())
    for key, value in defaults.items():
        if key in kind.ours:
            assert kind.ours[key] == value, key
        elif key in kind.fixed:
            one = value[0] if isinstance(value, tuple) else value
            assert kind.fixed[key][0] == one and type(kind.fixed[key][0]) is type(one), key
        else:
            assert key in kind.inert or value is None, key


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


def test_saving_what_diffusers_computes_otherwise_warns(folder, tmp_path):
    with pytest.warns(UserWarning, match="its own epsilon and GELU"):
        codi_tf.save_stable_diffusion(codi_tf.load_stable_diffusion(folder, numerics="keras_cv"), tmp_path / "new")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        codi_tf.save_stable_diffusion(codi_tf.load_stable_diffusion(folder), tmp_path / "other")
