"""Single files that are damaged, incomplete or of another kind: refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
from compvis_files import NETWORKS, Single, assert_equal, diffusers, is_read, save_file, schedule, torch

import codi_tf
from codi_tf.core.errors import UserError
from codi_tf.io.weights import state_dict


@pytest.fixture(scope="module", params=["1.x", "2.x"])
def family(request, tmp_path_factory):
    return Single(tmp_path_factory.mktemp("family"), request.param, {})


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
