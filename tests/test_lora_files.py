"""LoRAs from files: merged as by hand and as diffusers does, in every spelling, or refused in one line."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tensorflow as tf
import yaml
from commands import run_here
from conftest import make_base, make_model
from lora_cases import ALL, ATTENTION, TEXT, random_pairs, write_lora
from safetensors.numpy import save_file
from tiny import tiny_run

from codi_tf import load
from codi_tf.checkpoints.lora import kernels_of
from codi_tf.checkpoints.lora_files import check_loras
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.cli import restore, text2image, train
from codi_tf.core.errors import UserError
from codi_tf.io.images import read_image, write_png
from export import __main__ as export

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def base():
    return make_base()


@pytest.fixture(scope="module")
def pairs(base):
    return random_pairs(base.unet, ATTENTION)


@pytest.fixture(scope="module")
def file(pairs, tmp_path_factory):
    return write_lora(tmp_path_factory.mktemp("lora") / "style.safetensors", pairs, alpha=3.0)


def values(network) -> dict:
    return {variable.path: variable.numpy() for variable in network.variables}


def by_hand(kernel, pair, scale):
    """W + scale up @ down, with the axes of Keras."""
    down, up = pair
    delta = np.float32(scale) * (up.reshape(len(up), -1) @ down.reshape(len(down), -1))
    if kernel.ndim == 2:
        return kernel + delta.T
    return kernel + delta.reshape(up.shape[0], *down.shape[1:]).transpose(2, 3, 1, 0)


@pytest.mark.parametrize(("spelling", "alpha"), [("peft", None), ("old", None), ("kohya", 3.0)])
def test_merging_is_bit_equal_to_merging_by_hand(base, tmp_path, spelling, alpha):
    """Catches a wrong alpha, a wrong transposition, a layer that is left out, and a base that is changed."""
    pairs = random_pairs(base.unet, ALL)
    path = write_lora(tmp_path / "lora.safetensors", pairs, spelling, alpha=alpha)
    before = values(base.unet)
    merged = base.load_lora(path, 0.7)
    kernels = {name: kernel.path for name, kernel in kernels_of(merged.unet).items()}
    scale = 0.7 if alpha is None else alpha / 2 * 0.7
    wanted = dict(before)
    for name, pair in pairs.items():
        wanted[kernels[name]] = by_hand(before[kernels[name]], pair, scale)
    for key, value in values(merged.unet).items():
        np.testing.assert_array_equal(value, wanted[key], err_msg=key)
    for key, value in values(base.unet).items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)
    assert merged.path is None and merged.vae is base.vae


def test_several_loras_add_up(base, pairs, file, tmp_path):
    """Catches a second LoRA that replaces the first one, and a scale of 0 that does anything."""
    other = write_lora(tmp_path / "other.safetensors", random_pairs(base.unet, ("conv1",)), "peft")
    both = base.load_lora(file, 0.5).load_lora(other).load_lora(file, 0.0)
    first, second = (kernels_of(one.unet) for one in (base.load_lora(file, 0.5), base.load_lora(other)))
    for name, kernel in kernels_of(both.unet).items():
        np.testing.assert_array_equal(kernel, (first if name in pairs else second)[name], err_msg=name)


def test_a_base_in_half_precision_is_rounded_once(base, pairs, file, tmp_path):
    """Catches a product that is computed in half precision."""
    from codi_tf.checkpoints.folder import save_base

    save_base(base, tmp_path)
    half = load_stable_diffusion(tmp_path, compute="bfloat16", weights="bfloat16")
    name, pair = next(iter(pairs.items()))
    rounded = by_hand(kernels_of(half.unet)[name].numpy().astype("float32"), pair, 1.5)
    merged = kernels_of(half.load_lora(file).unet)[name]
    assert merged.dtype == "bfloat16"
    np.testing.assert_array_equal(merged.numpy(), tf.cast(rounded, "bfloat16").numpy())


# diffusers


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    from tiny_pipeline import save_pipeline

    return save_pipeline(tmp_path_factory.mktemp("pipeline") / "1.x", "1.x")


def kohya_text(pairs: dict, alpha: float) -> dict:
    tensors = {}
    for name, (down, up) in pairs.items():
        flat = "lora_te_text_model_" + name.replace(".", "_")
        tensors |= {
            flat + ".lora_down.weight": down,
            flat + ".lora_up.weight": up,
            flat + ".alpha": np.array(alpha, "f"),
        }
    return tensors


@pytest.mark.parametrize("spelling", ["kohya", "peft"])
def test_parity_with_diffusers(pipeline, tmp_path, spelling):
    """Catches another scale, or a layer that we and diffusers place differently; the text encoder's, too."""
    pytest.importorskip("peft")
    import diffusers
    import torch

    base = load_stable_diffusion(pipeline)
    targets = (*ALL, "proj_out", "conv2", "linear_1", "linear_2")
    text = random_pairs(base.text_encoder, TEXT)
    if spelling == "kohya":
        others = kohya_text(text, 4.0)
    else:
        sides = ("lora_A", "lora_B")
        names = {name: [f"text_encoder.text_model.{name}.{side}.weight" for side in sides] for name in text}
        others = {key: value for name, pair in text.items() for key, value in zip(names[name], pair, strict=True)}
    alpha = 4.0 if spelling == "kohya" else None
    file = tmp_path / "lora.safetensors"
    write_lora(file, random_pairs(base.unet, targets, seed=1), spelling, alpha=alpha, others=others)
    peer = diffusers.StableDiffusionPipeline.from_pretrained(pipeline)
    peer.load_lora_weights(str(tmp_path), weight_name=file.name)
    peer.fuse_lora(lora_scale=0.6)
    merged = base.load_lora(file, 0.6)

    random = np.random.default_rng(3)
    z = random.normal(size=(1, 8, 8, 4)).astype("float32")
    ids = np.arange(77, dtype="int32")[None]
    with torch.no_grad():
        context = peer.text_encoder(torch.from_numpy(ids.astype("int64")))[0]
        wanted = peer.unet(torch.from_numpy(z.transpose(0, 3, 1, 2)), torch.tensor([400]), context).sample.numpy()
    ours = merged.text_encoder(ids)
    np.testing.assert_allclose(ours, context.numpy(), rtol=1e-4, atol=1e-4)
    found = merged.unet(z, np.array([400]), ours)
    np.testing.assert_allclose(np.transpose(found, (0, 3, 1, 2)), wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(wanted - np.transpose(base.unet(z, np.array([400]), ours), (0, 3, 1, 2))).max() > 0.1


# Refusals


def test_a_text_part_without_a_text_encoder_is_told(base, pairs, tmp_path):
    """Catches a part of a LoRA that is left out in silence, and one that makes the whole file useless."""
    text = {"encoder.layers.0.self_attn.q_proj": (np.zeros((2, 8), "f"), np.zeros((8, 2), "f"))}
    file = write_lora(tmp_path / "both.safetensors", pairs, others=kohya_text(text, 1.0))
    with pytest.warns(UserWarning, match="its part for the text encoder is left out, the base has none"):
        merged = base.load_lora(file)
    assert not np.array_equal(merged.unet.mid_block.attentions[0].block.attn1.to_q.kernel, 0)


WRONG = {
    "another base": ({"down_blocks.7.attentions.0.to_q": (2, 2)}, "1 layers are not in this base: .*another base"),
    "another width": (
        {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": (32, 16)},
        r"attn1.to_q has \(32, 2\) x \(2, 16\), the base's weight is \(16, 16\); it is for another base",
    ),
    "no LoRA": ({}, "holds no LoRA weights"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_lora_that_does_not_fit_is_refused_in_one_line(base, tmp_path, case):
    """Catches a LoRA of another base that is merged in part."""
    shapes, message = WRONG[case]
    pairs = {name: (np.zeros((2, n), "f"), np.zeros((m, 2), "f")) for name, (m, n) in shapes.items()}
    file = write_lora(tmp_path / "wrong.safetensors", pairs, "peft", others={} if pairs else {"w": np.zeros(2, "f")})
    with pytest.raises(UserError, match=message):
        base.load_lora(file)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("lora_unet_x.hada_w1_a", "is a LoHa"),
        ("unet.x.lora_magnitude_vector", "is a DoRA"),
        ("unet.conv_in.bias", "1 weights are no LoRA's: unet.conv_in.bias"),
    ],
)
def test_other_kinds_are_refused(pairs, tmp_path, key, message):
    """Catches weights of a file that are not used and not told."""
    file = write_lora(tmp_path / "kind.safetensors", pairs, "peft", others={key: np.zeros(2, "f")})
    with pytest.raises(UserError, match=message):
        check_loras([(file, 1.0)])


@pytest.mark.parametrize("alpha", [np.array([np.nan], "f"), np.zeros(0, "f")])
def test_an_alpha_that_is_no_number_is_refused(pairs, tmp_path, alpha):
    """Catches a base of NaNs, and a traceback."""
    first = "lora_unet_" + next(iter(pairs)).replace(".", "_")
    file = write_lora(tmp_path / "nan.safetensors", pairs, others={f"{first}.alpha": alpha})
    with pytest.raises(UserError, match=f"the alpha of {first} is no finite number"):
        check_loras([(file, 1.0)])


def test_files_and_scales_that_are_none(base, tmp_path):
    """Catches tracebacks for paths that are missing, folders without a LoRA, pickles, and scales."""
    (tmp_path / "lora.pt").write_bytes(b"pickle")
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(UserError, match="no such LoRA; name a .safetensors file"):
            base.load_lora(path)
    with pytest.raises(UserError, match=r"lora.pt: a LoRA is read from a .safetensors file"):
        base.load_lora(tmp_path / "lora.pt")
    with pytest.raises(UserError, match="scale is nan"):
        base.load_lora(tmp_path, float("nan"))


def test_alphas_of_peft_are_read_from_the_header(base, pairs, tmp_path):
    """Catches a LoRA of diffusers whose alpha, which is in the header alone, has no effect."""
    import json

    keys = {name: (f"unet.{name}.lora_A.weight", f"unet.{name}.lora_B.weight") for name in pairs}
    tensors = {key: value for name, pair in pairs.items() for key, value in zip(keys[name], pair, strict=True)}
    settings = {"unet.r": 2, "unet.lora_alpha": 3, "unet.alpha_pattern": {"attn2.to_q": 5}}
    file = tmp_path / "peft.safetensors"
    save_file(tensors, file, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(settings)})
    before, after = kernels_of(base.unet), kernels_of(base.load_lora(file).unet)
    for name, pair in pairs.items():
        alpha = 5 if name.endswith("attn2.to_q") else 3
        np.testing.assert_array_equal(after[name], by_hand(before[name].numpy(), pair, alpha / 2), err_msg=name)
    save_file(tensors, file, metadata={"lora_adapter_metadata": json.dumps({"unet.use_rslora": True})})
    with pytest.raises(UserError, match="was made with use_rslora, which is not supported"):
        base.load_lora(file)


# Commands


def test_restore_takes_loras(pairs, file, tmp_path):
    """Catches an option that changes nothing, a scale that is not read, and a bundle that is changed on disk."""
    model = make_model(make_base())
    model.save(tmp_path / "bundle")
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), "uint8")
    write_png(tmp_path / "in.png", image)
    wanted = load(tmp_path / "bundle", loras=[(file, 0.5)]).generate(image, steps=1)
    plain = [tmp_path / "bundle", "--condition", tmp_path / "in.png", "--steps", 1, "--out", tmp_path / "out.png"]
    assert run_here(restore.main, *plain, "--lora", f"{file}:0.5").returncode == 0
    found = 255 * read_image(tmp_path / "out.png")
    np.testing.assert_allclose(found, wanted, atol=0.01)
    assert not np.array_equal(wanted, load(tmp_path / "bundle").generate(image, steps=1))
    (tmp_path / "out.png").unlink()
    for given, message in ((f"{file}:x", "must be a finite number"), (f"{file}x", "no such LoRA")):
        done = run_here(restore.main, *plain, "--lora", given)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_text2image_takes_loras(pipeline, tmp_path):
    """Catches a LoRA that text to image leaves out."""
    from codi_tf.inference.text_to_image import TextToImage

    base = load_stable_diffusion(pipeline)
    file = write_lora(tmp_path / "a.safetensors", random_pairs(base.unet, ATTENTION))
    arguments = [pipeline, "--prompt", "cat", "--steps", 1, "--out", tmp_path / "out.png", "--lora", file]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run_here(text2image.main, *arguments).returncode == 0
        wanted = TextToImage(base.load_lora(file)).generate("cat", steps=1, sampler="dpm++")[0]
    np.testing.assert_allclose(255 * read_image(tmp_path / "out.png"), wanted, atol=1.01)


def test_names_are_not_taken_for_others(base):
    """Catches two layers of one spelling: a LoRA would be merged into the wrong one."""
    from codi_tf.checkpoints.lora_files import flat, spellings

    names = list(kernels_of(base.unet))
    assert len({flat("", name) for name in names}) == len(names)
    assert set(spellings("unet", names).values()) == set(names)


def refused_in_one_line(main, *arguments) -> str:
    """The error of a command that is refused, one line after those that say what it was doing."""
    done = run_here(main, *arguments)
    *doing, said = done.stderr.splitlines()
    assert done.returncode == 2 and said.startswith("error: "), done.stderr
    assert all(line.startswith("loading ") for line in doing), done.stderr
    return said


def test_a_lora_of_another_base_leaves_nothing(tmp_path):
    """Catches a picture or a package that is begun before the LoRA is found to be another base's."""
    bundle, image, out = (tmp_path / name for name in ("bundle", "in.png", "out"))
    make_model(make_base()).save(bundle)
    write_png(image, np.zeros((16, 16, 3), "uint8"))
    pairs = {"down_blocks.7.attentions.0.to_q": (np.zeros((2, 2), "f"), np.zeros((2, 2), "f"))}
    other = write_lora(tmp_path / "other.safetensors", pairs, "peft")
    before = sorted(tmp_path.rglob("*"))
    for main, options in (
        (restore.main, ["--condition", image, "--steps", 1, "--out", out.with_suffix(".png")]),
        (export.main, ["--format", "tflite", "--out", out]),
    ):
        said = refused_in_one_line(main, bundle, *options, "--lora", other)
        assert f"{other}: 1 layers are not in this base" in said and "it is for another base" in said
        assert sorted(tmp_path.rglob("*")) == before


def test_unknown_targets_leave_no_run(tmp_path):
    """Catches the folder of a run that cannot begin, which a corrected config would then not resume."""
    values, file, out = tiny_run(tmp_path, steps=1), tmp_path / "config.yaml", tmp_path / "run"
    values["adaptation"] = {"train": "adapter", "adapter": "concat", "lora": {"targets": ["conv1", "to_x"]}}
    file.write_text(yaml.safe_dump(values), "utf-8")
    said = refused_in_one_line(train.main, file, "--out", out)
    assert "adaptation.lora.targets: no layer's name ends with 'to_x'; the ends in this UNet are " in said
    assert not out.exists()
