"""A LoRA beside an adapter: what trains, the same numbers as a merged UNet, bundles, exports, what is refused."""

from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_base, make_model
from lora_cases import ALL, ATTENTION
from safetensors.numpy import load_file, save_file
from small_runs import crash, experiment, make_start
from tiny import randomize, tiny_base

import codi_tf
from codi_tf import config
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.adapters.lora import merged_unet, new_lora
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.lora import kernels_of
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.cli.train import train
from codi_tf.config import Lora
from codi_tf.core.errors import UserError
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.methods.codi import ConditionalDistillation
from codi_tf.methods.consistency import Consistency
from codi_tf.methods.draws import Draws
from codi_tf.methods.finetune import Finetune
from codi_tf.methods.guided import Guided
from codi_tf.models.low_rank import dropping
from codi_tf.training.experiment import build_trainer
from codi_tf.training.states import state_values

TINY = Lora(rank=2, alpha=3, targets=["conv1", "time_emb_proj"])  # tiny_base has no attention
EVERY = Lora(rank=2, alpha=3, targets=[*ALL, "conv2", "proj_out"])
METHODS = {
    "codi": ConditionalDistillation(delta=5),
    "finetune": Finetune(),
    "consistency": Consistency(delta=5),
    "guidance": Guided(stage=1, guidance=[1.0, 3.0]),
    "guided": Guided(stage=2, steps=[4, 2], updates=1),
}


pytestmark = pytest.mark.usefixtures("eager")


def latents(count=2):
    random = np.random.default_rng(0)
    draw = (random.normal(size=(count, 4, 4, 4)).astype("float32") for _ in range(2))
    return dict(zip(("latent", "condition_latent"), map(tf.constant, draw), strict=True))


def values(variables):
    return [variable.numpy() for variable in variables]


def equal(ours, theirs):
    return [np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)]


def tiny_model(method="codi", lora=TINY, **options):
    """A model with a LoRA; of methods that start from a fine-tuned one, on that of such a model."""
    if METHODS[method].starts_from:
        tuned = make_model(tiny_base(), train="adapter", method=Finetune(), lora=lora)
        randomize(tuned.student.lora.variables)
        start = (tuned.base, tuned.student.adapter, "adapter")
        return codi_tf.CoDi(*start, method=METHODS[method], lora=tuned.student.lora, image_size=16, **options)
    return make_model(tiny_base(), train="adapter", method=METHODS[method], lora=lora, **options)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("finetune", "consistency")]


@pytest.mark.parametrize("method", ["codi", "guidance", "guided", *SLOW])
def test_every_method_trains_the_lora_and_the_adapter_alone(method):
    """Catches a method, or an average, that leaves the LoRA out; a base that changes; a start that is no identity."""
    model = tiny_model(method, ema_decay=0.5)
    if not METHODS[method].starts_from:
        plain = make_model(tiny_base(), train="adapter")
        np.testing.assert_array_equal(*(one.student(*inputs(one)) for one in (model, plain)))
    model.compile(keras.optimizers.AdamW(1e-2, weight_decay=0.0))
    unet, lora = values(model.base.unet.variables), values(model.student.lora.variables)
    for _ in range(2):  # the first moves B, which is zero, the second A, too
        model.train_step(latents())
    assert all(equal(values(model.base.unet.variables), unet))
    assert not any(equal(values(model.student.lora.variables), lora))
    assert not any(equal(values(model.average.lora.variables), lora))
    shares = equal(values(model.average.lora.variables), values(model.student.lora.variables))
    assert not any(shares) or method == "guided"  # where the student takes the average's weights
    assert model.average.unet is model.student.unet
    trained = {id(variable) for variable in model.trainable_variables}
    parts = (model.student.lora, model.student.adapter)
    assert trained == {id(variable) for part in parts for variable in part.variables}


def inputs(model):
    conditioning = Conditioning(np.random.default_rng(1).normal(size=(1, 77, 8)).astype("float32"), None)
    batch = latents()
    features = model.student.condition(batch["condition_latent"], conditioning)
    return batch["latent"], tf.constant([300]), features, conditioning


@pytest.fixture(scope="module")
def loud():
    """A base, and a LoRA of all of its layers that acts."""
    base = make_base()
    lora = new_lora(base.unet, EVERY.settings())
    randomize(lora.variables)
    return base, lora


def call(unet, lora=None):
    """The output of a network, of images large enough for all forms of convolutions."""
    random = np.random.default_rng(2)
    z, context = (random.normal(size=shape).astype("float32") for shape in ((2, 8, 8, 4), (2, 77, 8)))
    return AdaptedUNet(unet, None, "adapter", lora=lora)(z, tf.constant([7, 400]), None, Conditioning(context, None))


@pytest.mark.parametrize("small_maps", [False, True])
def test_the_changes_are_those_of_merged_kernels(loud, monkeypatch, small_maps):
    """Catches a layer whose change is left out, or added at another stride, scale or place."""
    if small_maps:  # the forms of convolutions that large networks have on processors
        monkeypatch.setattr("codi_tf.models.convolution.LARGE_KERNEL", 1)
        monkeypatch.setattr("codi_tf.models.convolution.WIDE", 1)
        monkeypatch.setattr("codi_tf.models.convolution.SMALL_MAP", 16)
    base, lora = loud
    np.testing.assert_allclose(call(base.unet, lora), call(merged_unet(base.unet, lora)), atol=2e-5)
    assert np.abs(call(base.unet, lora) - call(base.unet)).max() > 0.1


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_those_of_merged_kernels(loud, recompute):
    """dL/dB = s A^T dL/dW and dL/dA = s dL/dW B^T. Catches a recomputation without the LoRA."""
    base, lora = loud
    merged = merged_unet(base.unet, lora)
    kernels = [kernel.value for kernel in kernels_of(merged).values()]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(kernels)
        loss = tf.reduce_sum(call(merged) ** 2)
    wanted = dict(zip(kernels_of(merged), tape.gradient(loss, kernels), strict=True))
    trained = [v.value for change in lora.changes for v in (change.down, change.up)]
    base.unet.recompute_blocks(recompute)
    try:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trained)
            loss = tf.reduce_sum(call(base.unet, lora) ** 2)
        found = tape.gradient(loss, trained)
    finally:
        base.unet.recompute_blocks(False)
    for change, down, up in zip(lora.changes, found[::2], found[1::2], strict=True):
        a, b = (v.numpy().reshape(-1, v.shape[-1]) for v in (change.down, change.up))
        w = wanted[change.name].numpy().reshape(-1, b.shape[1])
        scale = 1e-4 * np.abs(w).max()
        np.testing.assert_allclose(down.numpy().reshape(a.shape), 1.5 * w @ b.T, atol=scale, err_msg=change.name)
        np.testing.assert_allclose(up, 1.5 * a.T @ w, atol=10 * scale, err_msg=change.name)


# Dropout


def test_dropout_leaves_out_rows_of_a():
    """Catches dropout outside training, in the average, without its factor, or the same in every update."""
    base = make_base()
    lora = new_lora(base.unet, Lora(rank=2, targets=["to_q", "conv1"], dropout=0.25).settings())
    randomize(lora.variables)
    plain, down = call(base.unet, lora), {change.name: change.down.numpy() for change in lora.changes}
    draws, other = Draws(3, 5), Draws(3, 6)
    with dropping(draws.shared):
        dropped = call(base.unet, lora)
    with dropping(other.shared):
        assert np.abs(dropped - call(base.unet, lora)).max() > 1e-3
    assert np.array_equal(plain, call(base.unet, lora)) and np.abs(dropped - plain).max() > 1e-3
    for change in lora.changes:
        kept = draws.shared(down[change.name].shape[-2], f"dropout of {change.name}").numpy() >= 0.25
        change.down.assign(down[change.name] * kept[:, None] / np.float32(0.75))
    np.testing.assert_allclose(call(base.unet, lora), dropped, atol=1e-6)
    model = tiny_model(lora=Lora(rank=2, targets=["conv1"], dropout=0.5))
    model.compile()
    assert (model.student.lora.dropout, model.average.lora.dropout, model.target.lora.dropout) == (0.5, 0.0, 0.0)


def test_dropout_does_not_depend_on_micro_batches():
    """Catches a mask for each micro-batch: how a batch is divided would change what is learned."""
    ends = []
    for accumulate in (1, 2):
        model = tiny_model(lora=Lora(rank=2, targets=["conv1", "time_emb_proj"], dropout=0.5), accumulate=accumulate)
        randomize(model.student.lora.variables)
        model.compile(keras.optimizers.SGD(1e-2))
        model.train_step(latents())
        ends.append(values(model.student.lora.variables))
    for one, two in zip(*ends, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


# Bundles


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """(A model with a LoRA that acts, its bundle), on a base that the bundle names."""
    folder = tmp_path_factory.mktemp("lora")
    save_base(make_base(), folder / "base")
    base = load_stable_diffusion(folder / "base")
    model = make_model(base, train="adapter", lora=Lora(rank=2, alpha=3, targets=list(ATTENTION)))
    randomize(model.student.lora.variables)
    model.save(folder / "bundle")
    return model, folder / "bundle"


def test_a_bundle_holds_the_lora_and_names_the_base(bundle, tmp_path):
    """Catches a base that is saved again, weights that change on the way, and a bundle that cannot be copied."""
    model, folder = bundle
    about = json.loads((folder / "codi.json").read_text())
    assert about["base"]["path"] == "../base" and not (folder / "unet").exists()
    assert about["adaptation"]["lora"] == {"rank": 2, "alpha": 3.0, "targets": list(ATTENTION), "dropout": 0.0}
    again = codi_tf.load(folder)
    assert all(equal(values(again.student.lora.variables), values(model.student.lora.variables)))
    condition = np.random.default_rng(1).random((16, 16, 3))
    image = model.generate(condition, steps=1)
    np.testing.assert_array_equal(again.generate(condition, steps=1), image)
    merged = codi_tf.load(folder, merge=True)
    assert merged.student.lora is None and merged.adaptation.lora is None
    assert np.abs(merged.generate(condition, steps=1).astype(int) - image).max() <= 1
    model.base.load_lora(folder)  # the bundle is a LoRA for the base, too
    for variable, merged_one in zip(
        model.base.load_lora(folder).unet.variables, merged.base.unet.variables, strict=True
    ):
        np.testing.assert_array_equal(variable, merged_one)
    network = AdaptedUNet.from_config(model.network.get_config())
    assert network.lora is not None and len(network.lora.changes) == len(model.student.lora.changes)


def test_a_model_goes_on_from_the_lora_of_another_as_a_copy(bundle):
    """Catches two models that train one LoRA, and copy=False on one that is used."""
    model, _ = bundle
    options = {"train": "adapter", "method": METHODS["consistency"], "lora": model.student.lora}
    again = codi_tf.CoDi(model.base, model.student.adapter, **options)
    assert again.student.lora is not model.student.lora
    assert all(equal(values(again.student.lora.variables), values(model.student.lora.variables)))
    with pytest.raises(UserError, match="copy is False, but another model uses these networks"):
        codi_tf.CoDi(model.base, model.student.adapter, copy=False, **options)


def test_a_lora_of_another_model_in_a_bundle_is_refused(bundle, tmp_path):
    """Catches a bundle whose LoRA was replaced by one that fits in part."""
    _, folder = bundle
    file = folder / "lora" / "pytorch_lora_weights.safetensors"
    kept = load_file(file)
    try:
        first = next(iter(kept)).split(".")[0]
        save_file({key: value for key, value in kept.items() if not key.startswith(first + ".")}, file)
        with pytest.raises(UserError, match="1 layers are missing or left over: .*; the file belongs to another model"):
            codi_tf.load(folder)
        save_file({**kept, f"{first}.alpha": np.array(7.0, "f")}, file)
        with pytest.raises(UserError, match="has another rank, alpha or shape"):
            codi_tf.load(folder)
    finally:
        save_file(kept, file)


@pytest.mark.slow  # the quick tier merges files as diffusers does, in test_lora_files.py
def test_diffusers_reads_a_trained_lora_and_makes_the_same_picture(tmp_path):
    """Catches keys, layouts or an alpha that diffusers takes for something else."""
    pytest.importorskip("peft")
    from tiny_pipeline import diffusers, save_pipeline, torch

    from codi_tf.core.noise import gaussian_noise
    from codi_tf.inference.text_to_image import TextToImage

    folder = save_pipeline(tmp_path / "base", "1.x")
    base = load_stable_diffusion(folder)
    lora = Lora(rank=4, alpha=8, targets=[*EVERY.targets, "linear_1", "linear_2"])
    model = codi_tf.CoDi(base, "concat", "adapter", method=Finetune(), lora=lora, ema_decay=0.0, image_size=16)
    model.compile(keras.optimizers.Adam(0.05))
    images = tf.constant(np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype("float32"))
    for _ in range(3):
        model.train_step({"image": images, "condition": images})
    model.save(tmp_path / "bundle")

    peer = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)
    peer = type(peer)(**{**peer.components, "scheduler": diffusers.DDIMScheduler.from_config(peer.scheduler.config)})
    peer.load_lora_weights(str(tmp_path / "bundle" / "lora"))
    peer.set_progress_bar_config(disable=True)
    noise = gaussian_noise(3, (1, 8, 8, 4))
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent"}
    wanted = peer("the cat sat", latents=torch.from_numpy(noise.transpose(0, 3, 1, 2).copy()), **options).images
    found = []
    for unet in (merged_unet(base.unet, model.network.lora), base.unet):
        ours = TextToImage(dataclasses.replace(base, unet=unet))
        prompts = ours.conditioning(["the cat sat"], negative_prompt="", guidance=1.0)
        found.append(np.asarray(ours.latents(tf.constant(noise), prompts, ours.grid("ddim", 2), guidance=1.0)))
    wanted = wanted.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found[0], wanted, atol=2e-4 * np.abs(wanted).max())
    assert np.abs(found[1] - wanted).max() > 0.1 * np.abs(wanted).max()


# Runs


OPTIONS = {"rank": 2, "targets": ["conv1"], "dropout": 0.5}
RUN = {"adaptation": {"train": "adapter", "adapter": "concat", "lora": OPTIONS}}


def test_a_config_reaches_the_model_and_its_state(tmp_path):
    """Catches a LoRA that is no part of the state, options that get lost, and a bundle whose LoRA is left out."""
    start = make_start(tmp_path)
    trainer = build_trainer(experiment(start, method={"name": "finetune"}, **RUN))
    assert trainer.adaptation.lora == Lora(rank=2, alpha=2.0, targets=["conv1"], dropout=0.5)
    sizes = [value.shape for value in state_values(trainer).values()]
    for variable in trainer.student.lora.variables:  # the student, its average, two moments
        assert sizes.count(tuple(variable.shape)) >= 4
    randomize(trainer.average.lora.variables)
    trainer.save(tmp_path / "tuned")
    after = {"method": {"name": "consistency", "delta": 5}, "base": str(tmp_path / "tuned")}
    again = build_trainer(experiment(start, **after, **RUN))
    assert all(equal(values(again.student.lora.variables), values(trainer.average.lora.variables)))
    other = {"adaptation": {**RUN["adaptation"], "lora": {**OPTIONS, "rank": 3}}}
    with pytest.raises(UserError, match=r"adaptation.lora is Lora\(rank=3, .* it is Lora\(rank=2.*: use the same"):
        build_trainer(experiment(start, **after, **other))


@pytest.mark.slow  # the quick tier resumes other runs
def test_a_run_resumes_with_the_same_bits(tmp_path, monkeypatch):
    """Catches draws of the dropout that do not depend on the update alone."""
    run = experiment(make_start(tmp_path), **RUN)
    train(run, tmp_path / "straight")
    crash(monkeypatch, run, tmp_path / "resumed", 2)
    train(run, tmp_path / "resumed")
    for file in ("lora/pytorch_lora_weights.safetensors", "adapter/diffusion_pytorch_model.safetensors"):
        straight, resumed = (tmp_path / name / "result" / file for name in ("straight", "resumed"))
        assert straight.read_bytes() == resumed.read_bytes()
    assert any(np.any(change.up.numpy()) for change in codi_tf.load(tmp_path / "straight").student.lora.changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"rank": 0}}, "adaptation.lora.rank is 0: it must be from 1"),
        ({"lora": {"alpha": 0}}, "adaptation.lora.alpha is 0.0: it must be positive"),
        ({"lora": {"dropout": 1}}, "adaptation.lora.dropout is 1.0: it must be at least 0 and below 1"),
        ({"lora": {"targets": [3]}}, r"adaptation.lora.targets is \[3\]: give ends of layers' names"),
        ({"lora": {"ranks": 3}}, "unknown key adaptation.lora.ranks: did you mean 'rank'?"),
        ({"lora": 8}, "adaptation.lora is 8: it must be a mapping"),
        ({"lora": {}, "train": "all"}, "adaptation.lora is set, but adaptation.train is 'all'"),
    ],
)
def test_options_that_are_none(changes, message):
    """Catches options that fail later, or in many lines."""
    values = {"method": {"name": "codi"}, "base": "b", "task": {"name": "super_resolution"}, "train": {"steps": 1}}
    with pytest.raises(UserError, match=message):
        config.from_dict({**values, "adaptation": {"train": "adapter", **changes}})


def test_targets_and_ranks_that_do_not_fit(loud):
    """Catches a LoRA of fewer layers than were asked for."""
    base, _ = loud
    with pytest.raises(UserError, match="no layer's name ends with 'to_x'; the ends in this UNet are conv, conv1, "):
        new_lora(base.unet, Lora(targets=["to_q", "to_x"]).settings())
    with pytest.raises(UserError, match="adaptation.lora.rank is 5: it must be at most 4, the rank of conv_out"):
        new_lora(base.unet, Lora(rank=5, targets=["conv_out"]).settings())
    assert len(new_lora(base.unet, Lora(rank=4, targets=["conv_out"]).settings()).changes) == 1


# Exports


@pytest.mark.slow  # the quick tier merges a bundle's LoRA, and exports other adapters
def test_it_is_exported_merged(bundle, tmp_path, monkeypatch):
    """Catches a package without the LoRA, or with one that is given twice. The gate compares with the merged model."""
    from export.build import make_package
    from export.package.manifest import read_package
    from export.runtime import run

    tf.config.run_functions_eagerly(False)
    model, folder = bundle
    monkeypatch.setattr("subprocess.run", None)
    options = {"format": "tflite", "steps": 1, "sizes": [(16, 16)], "report": False}
    (figures,) = make_package(folder, tmp_path / "package", loras=[(folder, -0.5)], **options)
    assert figures["psnr_db"] > 70
    manifest = json.loads((tmp_path / "package" / "manifest.json").read_text())
    assert [(one["name"], one["scale"]) for one in manifest["bundle"]["loras"]] == [
        ("pytorch_lora_weights.safetensors", -0.5)
    ]
    image = np.random.default_rng(1).random((16, 16, 3), dtype=np.float32)
    found = run.generate(run.load(read_package(tmp_path / "package")), image, seed=3)
    half = model.student.lora
    kept = [change.up.numpy() for change in half.changes]
    for change, up in zip(half.changes, kept, strict=True):
        change.up.assign(up / 2)
    wanted = model.generate(image, steps=1, seed=3) / 255
    for change, up in zip(half.changes, kept, strict=True):
        change.up.assign(up)
    np.testing.assert_allclose(found, wanted, atol=1.01 / 255)
