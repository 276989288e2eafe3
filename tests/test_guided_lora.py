"""Stage 1 of guided distillation with a LoRA: the UNet stays, and its new input is trained as a whole kernel."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from conftest import make_model
from safetensors.numpy import load_file, save_file
from test_guided import latents
from tiny import randomize, tiny_base

import codi_tf
from codi_tf.adapters.lora import GUIDANCE
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.config import Lora
from codi_tf.core.errors import UserError
from codi_tf.methods.finetune import Finetune
from codi_tf.methods.guided import Guided
from codi_tf.methods.networks import denoiser

pytestmark = pytest.mark.usefixtures("eager")

STAGE_1 = Guided(stage=1, guidance=[1.0, 3.0])
STAGE_2 = Guided(stage=2, guidance=[1.0, 3.0], steps=[4, 2], updates=1)
LORA = Lora(rank=2, alpha=3, targets=["conv1", "time_emb_proj"])
FILE = "lora/pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A fine-tuned model with a LoRA that acts, on a base in a folder."""
    folder = tmp_path_factory.mktemp("tuned") / "base"
    save_base(tiny_base(), folder)
    model = make_model(load_stable_diffusion(folder), train="adapter", method=Finetune(drop_condition=0.1), lora=LORA)
    randomize(model.student.lora.variables)
    return model


def distilled(model, settings=STAGE_1, **options):
    start = (model.base, model.student.adapter, "adapter")
    return codi_tf.CoDi(*start, method=settings, lora=model.student.lora, image_size=16, **options)


def velocity(base, network, guidance=None):
    noise, c = latents().values()
    return np.asarray(denoiser(base, network, c, base.conditioning(), guidance=guidance)(noise, [500]).v_hat)


def values(part):
    return [variable.numpy() for variable in part.variables]


def equal(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_teacher_and_student_begin_as_the_tuned_network_and_the_lora_alone_learns_the_guidance(tuned):
    """Catches a teacher without the LoRA, or one that learns; a second UNet; an input that stays closed."""
    before, model = velocity(tuned.base, tuned.student), distilled(tuned, ema_decay=0.5)
    assert model.student.unet is model.method.frozen.unet is model.base.unet is not tuned.base.unet
    for network, guidance in ((model.method.frozen, None), (model.student, [2.5])):
        np.testing.assert_array_equal(velocity(model.base, network, guidance), before)
    model.compile(keras.optimizers.Adam(1e-2))
    unet, frozen = values(model.base.unet), values(model.method.frozen)
    for _ in range(2):
        model.train_step(latents())
    assert equal(values(model.base.unet), unet) and equal(values(model.method.frozen), frozen)
    (whole,), (average,) = model.student.lora.whole, model.average.lora.whole
    assert whole.shape == (256, 8) and not np.array_equal(whole.kernel, average.kernel)
    for network in (model.student, model.average):
        assert np.abs(velocity(model.base, network, [1.0]) - velocity(model.base, network, [3.0])).max() > 1e-3
    np.testing.assert_array_equal(velocity(model.base, model.method.frozen, [3.0]), before)


@pytest.fixture(scope="module")
def bundle(tuned, tmp_path_factory):
    """(A model of stage 1 whose guidance acts, its bundle)."""
    model = distilled(tuned)
    randomize(model.student.lora.variables)
    folder = tmp_path_factory.mktemp("distilled") / "bundle"
    model.save(folder)
    return model, folder


def test_a_bundle_names_the_base_and_brings_the_guidance(bundle, tmp_path):
    """Catches a base that is saved again, a kernel that is transposed, and an input that merging leaves out."""
    model, folder = bundle
    assert json.loads((folder / "codi.json").read_text())["base"] is not None and not (folder / "unet").exists()
    again, merged = codi_tf.load(folder), codi_tf.load(folder, merge=True)
    assert equal(values(again.student.lora), values(model.student.lora))
    condition = np.random.default_rng(1).random((16, 16, 3))
    images = [model.generate(condition, steps=1, guidance=guidance) for guidance in (1.0, 3.0)]
    assert (images[0] != images[1]).any()
    for guidance, image in zip((1.0, 3.0), images, strict=True):
        np.testing.assert_array_equal(again.generate(condition, steps=1, guidance=guidance), image)
        close = merged.generate(condition, steps=1, guidance=guidance).astype(int)
        assert np.abs(close - image).max() <= 1
    with pytest.raises(UserError, match=f"1 layers are not in this base: .*{GUIDANCE.replace('.', '_')}; it is for an"):
        load_stable_diffusion(model.base.path).load_lora(folder)


def test_stage_2_goes_on_from_it(bundle):
    """Catches a stage that loses the input, or trains the UNet's own."""
    model, folder = bundle
    again = distilled(codi_tf.load(folder), STAGE_2, ema_decay=0.5)
    again.compile(keras.optimizers.Adam(1e-2))
    logs = again.train_step(latents())
    assert np.isfinite(float(logs["halving"])) and not np.any(again.base.unet.time_embedding.cond_proj.kernel)
    assert not np.array_equal(again.student.lora.whole[0].kernel, model.student.lora.whole[0].kernel)
    again.save(folder.with_name("halved"))
    condition = np.random.default_rng(1).random((16, 16, 3))
    image = again.generate(condition, guidance=3.0)
    np.testing.assert_array_equal(codi_tf.load(folder.with_name("halved")).generate(condition, guidance=3.0), image)


def test_an_input_of_another_width_is_refused(bundle):
    """Catches a file that was replaced by one of another model."""
    _, folder = bundle
    kept = load_file(folder / FILE)
    name = f"lora_unet_{GUIDANCE.replace('.', '_')}"
    try:
        save_file({**kept, f"{name}.lora_down.weight": np.eye(256, 128, dtype="f")}, folder / FILE)
        with pytest.raises(UserError, match=f"{GUIDANCE} has another rank, alpha or shape; the file"):
            codi_tf.load(folder)
    finally:
        save_file(kept, folder / FILE)
