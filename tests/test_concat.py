"""The concat adapter: a widened conv_in, in training, bundles and exports, and against diffusers' pipelines."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from commands import run_here
from tiny import randomize, tiny_base, tiny_photos, tiny_text

import codi_tf
from codi_tf import config
from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.adapters.concat import Concat, separated
from codi_tf.bundle import from_checkpoint
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import with_text
from codi_tf.cli import sample
from codi_tf.cli.train import train
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.io.images import read_image, write_png
from codi_tf.methods.networks import encode_condition
from codi_tf.training.experiment import build_trainer
from export import __main__ as export
from export.build import write_package
from export.emit import adapted, networks
from export.emit.counting import Counting
from export.emit.program import SamplerProgram
from export.formats import FORMATS
from export.package.manifest import read_package
from export.runtime import run as runner
from export.runtime.sampler import load_any

RANDOM = np.random.default_rng(0)
S = 16


def slow(*values):
    """A case of which the quick tier has another."""
    return pytest.param(*values, marks=pytest.mark.slow)


def condition(count: int, channels: int) -> np.ndarray:
    """Condition images in [0, 1]; masks of single pixels, of which no two poolings agree."""
    images = RANDOM.random((count, S, S, channels)).astype("float32")
    images[..., 3:] = images[..., 3:] > 0.5
    return images


def awake(task: str = "inpainting", **options) -> codi_tf.CoDi:
    """A model whose adapter acts."""
    model = codi_tf.CoDi(tiny_base(), "concat", task=task, image_size=S, **options)
    randomize(model.student.adapter.variables)
    return model


@pytest.mark.parametrize("channels", [3, 4])
def test_it_is_one_convolution_of_concatenated_maps(channels):
    """Catches another order of the channels, or another scale of the latent, than that of diffusers' pipelines."""
    base = tiny_base()
    adapter = Concat.for_base(base, channels)
    randomize(adapter.variables)
    images = tf.constant(2 * condition(2, channels) - 1)
    mask, z_t = images[:, 0::4, 0::4, 3:], RANDOM.normal(size=(2, 4, 4, 4)).astype("float32")
    latent = base.vae.encode(images[..., :3]).mean
    latent = latent * base.vae.scaling_factor if channels == 4 else latent
    network = AdaptedUNet(base.unet, adapter, has_mask=channels == 4)
    c = encode_condition(base, network, images)
    got = network(z_t, np.array([500]), network.condition(c, base.conditioning()), base.conditioning())
    wide = adapter.merged(base).unet
    expected = wide(tf.concat([z_t, mask, latent], axis=-1), np.array([500]), base.context)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
    plain = base.unet(z_t, np.array([500]), base.context)
    assert wide.in_channels == 5 + channels and np.abs(got - plain).max() > 1e-2


@pytest.mark.parametrize("channels", [3, 4])
def test_it_separates_from_the_unet_as_it_merged_bit_for_bit(channels):
    base = tiny_base()
    adapter = Concat.for_base(base, channels)
    randomize(adapter.variables)
    again, kernel = separated(adapter.merged(base))
    for ours, theirs in ((kernel, adapter), (again.unet, base.unet)):
        for a, b in zip(ours.variables, theirs.variables, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert kernel.get_config() == adapter.get_config() and again.unet.get_config() == base.unet.get_config()


def test_a_step_multiplies_no_more_than_a_step_of_the_base():
    """Catches a convolution of the condition in every step."""
    model = awake()
    counts = []
    for network in (model.network, AdaptedUNet(model.base.unet)):
        blank = FORMATS["onnx"].new_graph()
        g = Counting(blank)
        c = blank.input("c", (4, 4, 5))
        features = adapted.condition_features(blank, network, c, None)
        time = g.constant(networks.of_time(500, network.unet.time_embedding))
        context = g.constant(model.base.context[0])
        adapted.evaluation(g, network, g.input("z", (4, 4, 4)), time, features, context)
        counts.append(g.multiply_adds)
    assert counts[0] == counts[1] > 0


METHODS = {
    "codi": {"name": "codi"},
    "consistency": {"name": "consistency", "delta": 30},
    "finetune": {"name": "finetune", "drop_condition": 0.1},
    "guided 1": {"name": "guided", "stage": 1, "guidance": [1.0, 3.0]},
    "guided 2": {"name": "guided", "stage": 2, "steps": [4, 2], "updates": 1},
}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "bundle"
    awake(method=codi_tf.Finetune(drop_condition=0.1)).save(folder)
    return folder


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", [name if name in ("codi", "guided 1") else slow(name) for name in METHODS])
def test_every_method_goes_on_from_it(name, tuned, tmp_path):
    """Catches a copy of the network that loses the adapter, and a kernel that gets no gradient."""
    values = {"train": {"steps": 4, "warmup_steps": 0}, "data": {"image_size": S}, "base": str(tuned)}
    values |= {"task": {"name": "inpainting"}, "adaptation": {"adapter": "concat"}, "method": METHODS[name]}
    trainer = build_trainer(config.from_dict(values))
    before = trainer.student.adapter.conv.kernel.numpy()
    images = tf.constant(2 * condition(2, 4)[..., :3] - 1)
    batch = {"image": images, "condition": tf.stack([trainer.task.degrade(image, [0, 1]) for image in images])}
    for _ in range(2):
        assert np.isfinite(float(trainer.train_step(batch)["loss"]))
    assert np.abs(trainer.student.adapter.conv.kernel.numpy() - before).max() > 1e-6
    given = condition(1, 4)
    options = {"steps": 2, **({"guidance": 2.0} if name == "guided 1" else {})}
    expected = trainer.generate(given, **options)
    trainer.save(tmp_path / "bundle")
    np.testing.assert_array_equal(codi_tf.load(tmp_path / "bundle").generate(given, **options), expected)
    x, c = trainer.base.encode(images), trainer.encode_condition(batch["condition"])
    assert float(trainer.condition_use(x, c)) > 1e-3


@pytest.mark.parametrize("train_what", ["all", slow("adapter")])
def test_from_a_config_to_an_exported_image(train_what, tmp_path):
    """Trained on examples that were encoded once; sampled and exported by the programs' own entries."""
    (tmp_path / "base").mkdir()
    save_base(tiny_base(), tmp_path / "base")
    experiment = config.from_dict(
        {
            "method": {"name": "finetune"},
            "base": str(tmp_path / "base"),
            "task": {"name": "inpainting"},
            "adaptation": {"adapter": "concat", "train": train_what},
            "data": {"source": str(tiny_photos(tmp_path / "photos")), "image_size": S, "encode_once": 8},
            "train": {"steps": 3, "batch_size": 4, "log_every": 1, "warmup_steps": 0, "ema_decay": 0.0},
        }
    )
    bundle = train(experiment, tmp_path / "run")
    model = codi_tf.load(bundle)
    kernel = model.student.adapter.conv.kernel
    assert np.abs(kernel.numpy()).max() > 1e-5
    kernel.assign(kernel.numpy() + RANDOM.normal(0, 0.1, kernel.shape))  # three steps teach it little
    model.save(tmp_path / "bundle")
    given = (255 * condition(1, 4)[0]).astype("uint8")
    write_png(tmp_path / "in.png", given[..., :3])
    write_png(tmp_path / "mask.png", given[..., 3:].repeat(3, axis=-1))
    shared = ["--condition", tmp_path / "in.png", "--mask", tmp_path / "mask.png", "--seed", "3"]
    made = run_here(sample.main, tmp_path / "bundle", *shared, "--steps", 2, "--out", tmp_path / "a.png")
    assert made.returncode == 0, made.stderr
    options = ["--format", "onnx", "--layout", "parts", "--steps", "2", "--size", f"{S}x{S}", "--out", tmp_path / "p"]
    made = run_here(export.main, tmp_path / "bundle", *options)
    assert made.returncode == 0, made.stderr
    made = run_here(runner.main, tmp_path / "p", *shared, "--out", tmp_path / "b.png")
    assert made.returncode == 0, made.stderr
    ours, exported = (read_image(tmp_path / f"{name}.png") for name in "ab")
    np.testing.assert_allclose(exported, ours, atol=1.01 / 255)
    assert np.ptp(ours) > 0.1


@pytest.mark.parametrize(
    ("format", "task"),
    [("tflite", "inpainting"), slow("saved_model", "inpainting"), slow("tflite", "super_resolution")],
)
def test_the_gate_lets_it_pass(format, task, tmp_path):
    """Catches a mask that is pooled in another way in the file; ONNX: `test_from_a_config_to_an_exported_image`."""
    model = awake(task)
    program = SamplerProgram(model, steps=2, height=S, width=S)
    write_package([program], tmp_path / "package", format=format, report=False)
    given = condition(1, model.task.condition_channels)
    made = load_any(read_package(tmp_path / "package"))(given, gaussian_noise(3, program.latent_shape))
    np.testing.assert_allclose(made, model.generate(given, steps=2, seed=3) / 255, atol=1.01 / 255)


@pytest.mark.slow
def test_it_computes_in_half_precision(tuned):
    """Catches a sum of two formats at the UNet's first convolution."""
    given = condition(1, 4)
    half = codi_tf.load(tuned, compute="bfloat16")
    assert half.network.adapter.compute_dtype == "bfloat16"
    difference = np.abs(half.generate(given, steps=2).astype(int) - codi_tf.load(tuned).generate(given, steps=2))
    assert difference.max() > 0 and difference.mean() < 6


def test_guidance_by_image_and_instruction_leaves_out_the_condition(tmp_path):
    """The third of the three answers is that of the base: all that the adapter adds is gone."""
    base = with_text(tiny_base(), tiny_text(tmp_path, 8))
    model = codi_tf.CoDi(base, "concat", task="editing", method=codi_tf.Finetune(drop_condition=0.1, drop_prompt=0.1))
    randomize(model.student.adapter.variables)
    images, z_t = tf.constant(2 * condition(1, 3) - 1), tf.constant(RANDOM.normal(size=(1, 4, 4, 4)).astype("float32"))
    denoise = model.generator.denoiser(images, base.conditioning("a cat"), guidance=0.0, text_guidance=0.0)
    plain = model.base.unet(z_t, np.array([500]), base.context)
    np.testing.assert_allclose(denoise(z_t, tf.constant(500)).v_hat, plain, atol=1e-5)


def test_one_of_other_channels_or_of_another_base_is_refused():
    base = tiny_base()
    with pytest.raises(UserError, match="gives 16 channels, the base's first level has 8"):
        Concat(4, 16, name="adapter").check(base, 3)
    with pytest.raises(UserError, match="^there is no UNet: "):
        from_checkpoint(dataclasses.replace(base, unet=None))
    with pytest.raises(UserError, match="^the UNet takes 4 channels: .* makes them 8, and 9 with a mask$"):
        separated(base)
