"""Single files in the original layout, made here from diffusers' models.

The inverse that makes them is checked with diffusers' own conversion.
"""

from __future__ import annotations

import numpy as np
import pytest
from compvis_files import (
    FULL_SIZE,
    NETWORKS,
    Single,
    assert_equal,
    diffusers,
    is_read,
    original_clip,
    original_open_clip,
    original_unet,
    original_vae,
    peer,
    save_file,
    schedule,
    torch,
)

from codi_tf.checkpoints import compvis
from codi_tf.core.errors import UserError
from codi_tf.io.layouts import key_of
from codi_tf.io.tensor_files import StoredTensor
from codi_tf.io.weights import state_dict

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


@pytest.mark.parametrize(("version", "extra_layer"), [("1.x", False), ("2.x", True), ("2.x", False)])
def test_the_true_shapes_are_recognized(version, extra_layer, tmp_path):
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
