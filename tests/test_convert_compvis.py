"""Single files in the original layout, made here from diffusers' models.

The inverse that makes them is checked with diffusers' own conversion.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from tiny_pipeline import save_pipeline

import codi_tf
from codi_tf.checkpoints import compvis
from codi_tf.core.errors import UserError
from codi_tf.io.layouts import key_of
from codi_tf.io.tensor_files import StoredTensor
from codi_tf.io.weights import state_dict

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peer = pytest.importorskip("diffusers.loaders.single_file_utils")
save_file = pytest.importorskip("safetensors.torch").save_file
torch.set_num_threads(1)

TOLERANCE = 2e-5  # of the output's scale
LEVELS = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
}
HEADS_2 = {"attention_head_dim": (2, 4, 8)}
VARIANTS = {
    "1.x": ("1.x", LEVELS),
    "1.x, two levels, InstructPix2Pix": ("1.x", {"in_channels": 8}),
    "1.x, inpainting": ("1.x", {**LEVELS, "in_channels": 9, "layers_per_block": 1}),
    "2.x": ("2.x", {**LEVELS, **HEADS_2}),
    "2.x, inpainting": ("2.x", {**LEVELS, **HEADS_2, "in_channels": 9}),
}
NETWORKS = ("unet", "vae", "text_encoder")


def original_unet(weights, levels: int, layers: int) -> dict:
    """diffusers' UNet weights under the names of CompVis' openaimodel.py, which numbers modules as it appends them."""
    places, row = {"conv_in": "input_blocks.0.0"}, 1
    for level in range(levels):
        for i in range(layers):
            places[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{row}.0"
            places[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{row}.1"
            row += 1
        places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{row}.0.op"
        row += 1
    row = 0
    for level in range(levels):
        for i in range(layers + 1):
            attention = f"up_blocks.{level}.attentions.{i}"
            places[f"up_blocks.{level}.resnets.{i}"] = f"output_blocks.{row}.0"
            places[attention] = f"output_blocks.{row}.1"
            if i == layers:
                number = 2 if any(key.startswith(attention) for key in weights) else 1
                places[f"up_blocks.{level}.upsamplers.0"] = f"output_blocks.{row}.{number}"
            row += 1
    places |= {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1"}
    places |= {"mid_block.resnets.1": "middle_block.2", "conv_norm_out": "out.0", "conv_out": "out.2"}
    places |= {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    inside = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0"}
    inside |= {"conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    renamed = {}
    for key, value in weights.items():
        place = max((place for place in places if key.startswith(place + ".")), key=len)
        rest = key.removeprefix(place + ".")
        if ".resnets." in key:
            name, kind = rest.split(".")
            rest = f"{inside[name]}.{kind}"
        renamed[f"model.diffusion_model.{places[place]}.{rest}"] = value
    return renamed


def original_vae(weights, levels: int) -> dict:
    """diffusers' autoencoder weights under the names of CompVis' model.py; attention lies in 1x1 convolutions."""
    renamed = {}
    for key, value in weights.items():
        if match := re.match(r"decoder\.up_blocks\.(\d+)\.", key):
            key = key.replace(match[0], f"decoder.up.{levels - 1 - int(match[1])}.")
        key = key.replace("encoder.down_blocks", "encoder.down").replace("mid_block.resnets.0", "mid.block_1")
        key = key.replace("mid_block.resnets.1", "mid.block_2").replace("mid_block.attentions.0", "mid.attn_1")
        key = key.replace("resnets", "block").replace("conv_shortcut", "nin_shortcut").replace("group_norm", "norm")
        key = key.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        key = key.replace("conv_norm_out", "norm_out").replace("to_out.0", "proj_out")
        key = re.sub(r"attn_1\.to_([qkv])", r"attn_1.\1", key)
        if ".attn_1." in key and value.ndim == 2:
            value = value[:, :, None, None]
        renamed[f"first_stage_model.{key}"] = value
    return renamed


def original_clip(weights) -> dict:
    renamed = {f"cond_stage_model.transformer.text_model.{key}": value for key, value in weights.items()}
    renamed["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return renamed


def original_open_clip(weights, extra_layer: bool = True) -> dict:
    """transformers' weights under OpenCLIP's names, and a text projection; often with a last layer that is not used."""
    names = {"embeddings.token_embedding": "token_embedding", "embeddings.position_embedding": "positional_embedding"}
    names |= {"final_layer_norm": "ln_final", "encoder.layers": "transformer.resblocks", "self_attn": "attn"}
    names |= {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "fc1": "c_fc", "fc2": "c_proj"}
    renamed, fused = {}, {}
    for key, value in weights.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        if match := re.search(r"([qkv])_proj\.(weight|bias)$", key):
            fused.setdefault(key.replace(match[0], f"in_proj_{match[2]}"), {})[match[1]] = value
        else:
            renamed[key.replace("positional_embedding.weight", "positional_embedding")] = value
    renamed |= {key: torch.cat([parts[name] for name in "qkv"]) for key, parts in fused.items()}
    if extra_layer:
        layers = 1 + max(int(key.split(".")[2]) for key in renamed if key.startswith("transformer."))
        first = {key: value for key, value in renamed.items() if key.startswith("transformer.resblocks.0.")}
        renamed |= {key.replace("resblocks.0.", f"resblocks.{layers}."): value + 1 for key, value in first.items()}
    width = renamed["positional_embedding"].shape[1]
    renamed |= {"text_projection": torch.ones(width, width), "logit_scale": torch.tensor(4.6)}
    return {f"cond_stage_model.model.{key}": value for key, value in renamed.items()}


def schedule() -> dict:
    """The buffers of CompVis' ddpm.py, register_schedule."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    cumprod = np.cumprod(1 - betas)
    before = np.append(1.0, cumprod[:-1])
    variance = betas * (1 - before) / (1 - cumprod)
    buffers = {
        "betas": betas,
        "alphas_cumprod": cumprod,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(cumprod),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - cumprod),
        "log_one_minus_alphas_cumprod": np.log(1 - cumprod),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / cumprod),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / cumprod - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - cumprod),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - cumprod),
    }
    return {key: torch.tensor(value, dtype=torch.float32) for key, value in buffers.items()}


def original(pipeline, version: str) -> dict:
    unet = pipeline.unet.config
    weights = original_unet(pipeline.unet.state_dict(), len(unet.block_out_channels), unet.layers_per_block)
    weights |= original_vae(pipeline.vae.state_dict(), len(pipeline.vae.config.block_out_channels))
    weights |= (original_clip if version == "1.x" else original_open_clip)(pipeline.text_encoder.state_dict())
    return {key: value.contiguous() for key, value in {**weights, **schedule()}.items()}


def architecture(pipeline) -> dict:
    """What the shapes of these small models do not tell."""
    unet, vae, text = pipeline.unet.config, pipeline.vae.config, pipeline.text_encoder.config
    heads = unet.attention_head_dim
    return {
        "unet": {"norm_num_groups": unet.norm_num_groups, "attention_head_dim": heads, "sample_size": unet.sample_size},
        "vae": {"norm_num_groups": vae.norm_num_groups, "scaling_factor": vae.scaling_factor},
        "text_encoder": {
            "num_attention_heads": text.num_attention_heads,
            "num_hidden_layers": text.num_hidden_layers,
        },
    }


class Single:
    """A pipeline as a single file."""

    def __init__(self, folder, version: str, changes: dict):
        self.version, self.source = version, save_pipeline(folder / "pipeline", version, **changes)
        self.pipeline = diffusers.StableDiffusionPipeline.from_pretrained(self.source)
        self.weights = original(self.pipeline, version)
        self.architecture = architecture(self.pipeline)
        self.path = folder / "model.safetensors"
        save_file(self.weights, self.path)

    def load(self, path=None, **options):
        prediction_type = None if self.version == "1.x" else "v_prediction"
        options = {"prediction_type": prediction_type, "architecture": self.architecture, **options}
        return codi_tf.load_stable_diffusion(path or self.path, **options)

    def load_changed(self, path, weights):
        """The base from a file with these weights."""
        save_file(weights, path)
        return self.load(path)


@pytest.fixture(scope="module", params=VARIANTS)
def single(request, tmp_path_factory):
    return Single(tmp_path_factory.mktemp("single"), *VARIANTS[request.param])


@pytest.fixture(scope="module", params=["1.x", "2.x"])
def family(request, tmp_path_factory):
    return Single(tmp_path_factory.mktemp("family"), request.param, {})


def test_the_inverse_is_one_of_diffusers_own_conversion(single):
    pipeline = single.pipeline
    converted = peer.convert_ldm_unet_checkpoint(dict(single.weights), dict(pipeline.unet.config))
    assert_equal(converted, pipeline.unet.state_dict())
    converted = peer.convert_ldm_vae_checkpoint(dict(single.weights), dict(pipeline.vae.config))
    assert_equal(converted, pipeline.vae.state_dict())
    expected = {f"text_model.{key}": value for key, value in pipeline.text_encoder.state_dict().items()}
    if single.version == "1.x":
        converted = peer.convert_ldm_clip_checkpoint(dict(single.weights))
        del converted["text_model.embeddings.position_ids"]
    else:
        prefix = "cond_stage_model.model."
        converted = peer.convert_open_clip_checkpoint(pipeline.text_encoder, dict(single.weights), prefix=prefix)
        last = f"encoder.layers.{pipeline.text_encoder.config.num_hidden_layers}."  # they know that of 24 layers alone
        converted = {key: value for key, value in converted.items() if last not in key}
    assert_equal(converted, expected)


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_single_file_gives_the_same_bits_and_numbers(single):
    base, pipeline = single.load(tokenizer=single.source / "tokenizer"), single.pipeline
    assert_same_bits(base, pipeline)
    random = np.random.default_rng(0)
    z = random.normal(size=(1, 8, 12, base.unet.in_channels)).astype("float32")
    ids = base.tokenizer(["the cat"])
    with torch.no_grad():
        prompt = pipeline.text_encoder(torch.tensor(ids).long()).last_hidden_state
        theirs = pipeline.unet(torch.tensor(z.transpose(0, 3, 1, 2)), torch.tensor([601]), prompt).sample
        decoded = pipeline.vae.decode(torch.tensor(z[..., :4].transpose(0, 3, 1, 2))).sample
    for mine, other in (
        (base.text_encoder(ids), prompt),
        (base.unet(z, np.array([601]), prompt.numpy()), theirs.permute(0, 2, 3, 1)),
        (base.vae.decode(z[..., :4]), decoded.permute(0, 2, 3, 1)),
    ):
        assert np.abs(np.asarray(mine) - other.numpy()).max() <= TOLERANCE * other.abs().max()
    assert base.prediction_type == ("epsilon" if single.version == "1.x" else "v_prediction")
    np.testing.assert_allclose(base.schedule.alpha**2, pipeline.scheduler.alphas_cumprod.numpy(), rtol=1e-5)


def test_the_architecture_is_that_of_the_family(single):
    derived = single.load().unet.get_config()
    config = single.pipeline.unet.config
    for key in ("in_channels", "out_channels", "layers_per_block", "cross_attention_dim", "use_linear_projection"):
        assert derived[key] == getattr(config, key), key
    for key in ("block_out_channels", "down_block_types", "up_block_types"):
        assert list(derived[key]) == list(getattr(config, key)), key


def assert_same_bits(base, pipeline):
    for part in NETWORKS:
        theirs, ours = getattr(pipeline, part).state_dict(), state_dict(getattr(base, part))
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_array_equal(ours[key], value.numpy())


def test_the_last_layer_of_open_clip_may_be_missing(tmp_path_factory):
    """Files that were written back from diffusers folders hold the layers that are used, and no other."""
    single = Single(tmp_path_factory.mktemp("layers"), "2.x", {})
    rest = {key: value for key, value in single.weights.items() if not key.startswith("cond_stage_model.")}
    weights = single.pipeline.text_encoder.state_dict()
    for extra in (True, False):
        text = {key: value.contiguous() for key, value in original_open_clip(weights, extra).items()}
        assert_same_bits(single.load_changed(single.path, {**rest, **text}), single.pipeline)
        with pytest.raises(
            UserError, match=f"24 channels and {2 + extra} layers; state how many are used: architecture="
        ):
            single.load(architecture={**single.architecture, "text_encoder": {"num_attention_heads": 2}})
    more = {**single.architecture, "text_encoder": {"num_attention_heads": 2, "num_hidden_layers": 3}}
    with pytest.raises(UserError, match="weights missing: cond_stage_model.model.transformer.resblocks.2."):
        single.load(architecture=more)


def test_text_encoders_of_merges_may_lack_a_part_of_their_names(tmp_path_factory):
    single = Single(tmp_path_factory.mktemp("merged"), "1.x", {})
    assert any(".text_model." in key for key in single.weights)
    weights = {key.replace(".text_model.", "."): value for key, value in single.weights.items()}
    assert_same_bits(single.load_changed(single.path, weights), single.pipeline)
    missing = "cond_stage_model.transformer.final_layer_norm.bias"
    del weights[missing]
    with pytest.raises(UserError, match=f"1 weights missing: {missing};"):
        single.load_changed(single.path, weights)


def test_the_layout_of_later_code_is_read(tmp_path_factory):
    single = Single(tmp_path_factory.mktemp("later"), "2.x", {})
    names = {key: key.replace("cond_stage_model.", "conditioner.embedders.0.") for key in single.weights}
    weights = {names[key]: value for key, value in single.weights.items() if key not in schedule()}
    weights["denoiser.sigmas"] = torch.ones(1000)
    assert_same_bits(single.load_changed(single.path, weights), single.pipeline)
    both = {**weights, "cond_stage_model.model.ln_final.bias": torch.zeros(24)}
    with pytest.raises(UserError, match="tensors left over: conditioner.embedders.0.model"):
        single.load_changed(single.path, both)


def test_formats_and_numerics_hold_for_single_files(family):
    base = family.load(compute="bfloat16", weights="float16", numerics="keras_cv")
    for part in NETWORKS:
        network = getattr(base, part)
        assert network.compute_dtype == "bfloat16" and {v.dtype for v in network.variables} == {"float16"}
        theirs = getattr(family.pipeline, part).state_dict()
        for key, value in state_dict(network, "float16").items():
            np.testing.assert_array_equal(value, theirs[key].half().numpy())
    assert base.unet.numerics == base.vae.numerics == "keras_cv"
    acts = {"1.x": ("quick_gelu", "quick_gelu"), "2.x": ("gelu_pytorch_tanh", "gelu")}[family.version]
    assert (base.text_encoder.hidden_act, family.load(numerics="diffusers").text_encoder.hidden_act) == acts


def test_every_variable_is_set_once_and_every_tensor_used(family, tmp_path):
    used = [key for key in family.weights if is_read(key)]
    weights, count = dict(family.weights), 0
    for key in used:  # every number is another one
        size = weights[key].numel()
        weights[key] = torch.arange(count, count + size).reshape(weights[key].shape).float()
        count += size
    assert count < 2**24
    save_file(weights, tmp_path / "numbered.safetensors")
    base = family.load(tmp_path / "numbered.safetensors")
    numbers = [v.numpy().ravel() for part in NETWORKS for v in getattr(base, part).variables]
    np.testing.assert_array_equal(np.sort(np.concatenate(numbers)), np.arange(count))
    names = [key_of(v, base.unet) for v in base.unet.variables]
    assert len(names) == len(set(names))


def is_read(key: str) -> bool:
    """Whether a tensor is one of the weights: no buffer, no part of the last layer of OpenCLIP."""
    unread = ("position_ids", "logit_scale", "text_projection")
    return key not in schedule() and not key.endswith(unread) and ".resblocks.2." not in key


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."])
def test_each_missing_each_extra_and_each_reshaped_tensor_is_refused(family, tmp_path, prefix):
    path = tmp_path / "model.safetensors"
    keys = [key for key in family.weights if key.startswith(prefix) and is_read(key)]
    for key in keys[:: len(keys) // 4]:
        weights = dict(family.weights)
        value = weights.pop(key)
        for changed in (
            weights,
            {**family.weights, f"{key}.more": value.clone()},
            {**weights, key: value.reshape(-1)[:-1]},
            {**weights, key: value[None]},
        ):
            save_file(changed, path)
            with pytest.raises(UserError) as caught:
                family.load(path)
            line = str(caught.value)
            assert key in line and str(path) in line and "\n" not in line and len(line) < 600, line


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.05, 0.3, 0.7, 0.999])
def test_a_torn_file_is_refused(family, tmp_path, share):
    content = family.path.read_bytes()
    (tmp_path / "torn.safetensors").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="torn.safetensors: truncated or no safetensors file"):
        family.load(tmp_path / "torn.safetensors")


def test_known_tensors_that_are_not_read_are_accepted_and_others_refused(family, tmp_path):
    path = tmp_path / "model.safetensors"
    more = {
        "model_ema.diffusion_modelinput_blocks00weight": torch.ones(3),
        "model_ema.decay": torch.ones(()),
        "model_ema.num_updates": torch.zeros((), dtype=torch.int32),
        "first_stage_model.loss.logvar": torch.zeros(()),
        "cond_stage_model.logit_scale": torch.ones(()),
        "scale_factor": torch.tensor(0.5),
        "logvar": torch.zeros(1000),
    }
    save_file({**family.weights, **more}, path)
    for ours, theirs in zip(family.load(path).unet.variables, family.load().unet.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    save_file({**family.weights, "control_model.input_hint_block.0.weight": torch.ones(3)}, path)
    with pytest.raises(UserError, match="1 tensors left over: control_model.input_hint_block.0.weight; another kind"):
        family.load(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halved_files_are_read_and_the_schedule_is_still_checked(family, tmp_path, dtype):
    path = tmp_path / "half.safetensors"
    half = {key: value if key.endswith("position_ids") else value.to(dtype) for key, value in family.weights.items()}
    save_file(half, path)
    kernel = half["model.diffusion_model.input_blocks.0.0.weight"].float().numpy()
    np.testing.assert_array_equal(state_dict(family.load(path).unet)["conv_in.weight"], kernel)
    for key, value in list(schedule().items()):
        changed = value.clone()
        changed[500] *= 1.05
        save_file({**half, key: changed}, path)
        with pytest.raises(UserError, match=f"its {key} is not that of Stable Diffusion's schedule"):
            family.load(path)


def test_positions_are_checked(tmp_path_factory):
    single = Single(tmp_path_factory.mktemp("positions"), "1.x", {})
    key = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    save_file({**single.weights, key: torch.arange(77).flip(0)[None]}, single.path)
    with pytest.raises(UserError, match="position_ids is not 0, 1, 2, ..."):
        single.load()
    for drifted in (0.4 * torch.ones(1, 77).cos() + torch.arange(77), (torch.arange(77) - 0.01).bfloat16()):
        single.load_changed(single.path, {**single.weights, key: drifted})


def test_the_prediction_type_is_told_or_asked_for(family):
    if family.version == "1.x":
        assert family.load().prediction_type == "epsilon"
    else:
        with pytest.raises(UserError, match='give prediction_type="epsilon" .* or prediction_type="v_prediction"'):
            family.load(prediction_type=None)
    path = family.path.with_name("told.safetensors")
    for said, meant in (("v", "v_prediction"), ("epsilon", "epsilon")):
        save_file(family.weights, path, metadata={"modelspec.prediction_type": said})
        assert family.load(path, prediction_type=None).prediction_type == meant
    assert family.load(path, prediction_type="v_prediction").prediction_type == "v_prediction"
    save_file(family.weights, path, metadata={"modelspec.prediction_type": "noise"})
    with pytest.raises(UserError, match="prediction_type is 'noise': use one of epsilon"):
        family.load(path, prediction_type=None)


def test_parts_of_two_families_are_refused(tmp_path_factory):
    first, second = (Single(tmp_path_factory.mktemp("mixed"), version, {}) for version in ("1.x", "2.x"))
    unet = {key: value for key, value in second.weights.items() if key.startswith("model.")}
    rest = {key: value for key, value in first.weights.items() if not key.startswith("model.")}
    save_file({**unet, **rest}, first.path)
    with pytest.raises(UserError, match=r"a UNet of 2\.x beside a text encoder of 1\.x; they do not belong together"):
        first.load()


@pytest.mark.parametrize(
    ("prefix", "part"), [("model.", "unet"), ("first_stage_model.", "vae"), ("cond_stage_model.", "text_encoder")]
)
def test_a_file_without_a_part_is_refused(family, tmp_path, prefix, part):
    save_file({k: v for k, v in family.weights.items() if not k.startswith(prefix)}, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match=rf"not a Stable Diffusion checkpoint in the original layout: .* the {part} \("):
        family.load(tmp_path / "part.safetensors")


def test_options_that_make_no_sense_are_refused(family):
    with pytest.raises(UserError, match="architecture names 'decoder': its parts are unet, vae, text_encoder"):
        codi_tf.load_stable_diffusion(family.path, architecture={"decoder": {}}, prediction_type="epsilon")
    with pytest.raises(UserError, match="not a configuration of UNet"):
        family.load(architecture={**family.architecture, "unet": {"depth": 3}})
    with pytest.raises(UserError, match="safetensors: scaling_factor is 0: it must be a number above 0"):
        family.load(architecture={**family.architecture, "vae": {"scaling_factor": 0}})
    with pytest.raises(UserError, match="it is for single files in the original layout"):
        codi_tf.load_stable_diffusion(family.source, architecture=family.architecture)


def test_a_file_without_a_tokenizer_needs_one_to_be_written(family, tmp_path):
    base = family.load()
    assert base.tokenizer is None
    with pytest.raises(UserError, match="cannot be saved without one: load it with tokenizer=FOLDER"):
        codi_tf.save_stable_diffusion(base, tmp_path / "written")
    assert not any(tmp_path.iterdir())
    base = family.load(tokenizer=family.source / "tokenizer")
    codi_tf.save_stable_diffusion(base, tmp_path / "written")
    back = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "written")
    for part in NETWORKS:
        assert_equal(getattr(back, part).state_dict(), getattr(family.pipeline, part).state_dict())
    assert type(back.scheduler) is diffusers.DDIMScheduler and not back.scheduler.config.clip_sample


FULL_SIZE = {
    "1.x": (
        {"cross_attention_dim": 768},
        {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12},
    ),
    "2.x": (
        {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True},
        {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23},
    ),
}


@pytest.mark.parametrize(("version", "extra_layer"), [("1.x", False), ("2.x", True), ("2.x", False)])
def test_the_true_shapes_are_recognised(version, extra_layer, tmp_path):
    """Models of the true size, of which nothing but shapes exists."""
    transformers = pytest.importorskip("transformers")
    unet_config, text_config = FULL_SIZE[version]
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**unet_config)
        vae = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        text_encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text_config))
        weights = original_unet(unet.state_dict(), 4, 2) | original_vae(vae.state_dict(), 4)
        text = text_encoder.state_dict()
        weights |= original_clip(text) if version == "1.x" else original_open_clip(text, extra_layer)
    shapes = {key: tuple(value.shape) for key, value in weights.items() if not key.endswith("position_ids")}
    stored = {key: StoredTensor(tmp_path, np.dtype("float32"), shape, 0) for key, shape in shapes.items()}
    parts = compvis._parts(stored, tmp_path)
    for (config, _), peer_config in (
        (compvis._unet(parts["unet"], tmp_path), unet.config),
        (compvis._autoencoder(parts["vae"], tmp_path), vae.config),
    ):
        for key, value in config.items():
            expected = getattr(peer_config, key)
            expected = list(expected) if isinstance(expected, tuple) else expected
            assert value == expected or key == "upcast_attention", key
    if version == "1.x":
        config, _, used = compvis._clip(parts["text_encoder"], tmp_path)
    else:
        config, _, used = compvis._open_clip(parts["text_encoder"], tmp_path, None)
    assert len({key.split(".")[4] for key in used if ".resblocks." in key}) == (0 if version == "1.x" else 23)
    act = "quick_gelu" if version == "1.x" else "gelu"
    assert config == {**text_config, "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": act}
