"""KerasCV's Stable Diffusion, as objects and as files: the same weights, and its own numbers where they are wanted."""

from __future__ import annotations

import gzip
import math
import os
import shutil

import h5py
import keras
import numpy as np
import pytest
from keras import layers as kl

import codi_tf
from codi_tf.checkpoints.keras_cv import layers_of, load, read, renamed
from codi_tf.core.errors import UserError
from codi_tf.models.autoencoder import AutoencoderKL
from codi_tf.models.text_encoder import TextEncoder
from codi_tf.models.unet import UNet

keras_cv = pytest.importorskip("keras_cv")
from keras_cv.src.models.stable_diffusion import constants, diffusion_model, text_encoder  # noqa: E402
from keras_cv.src.models.stable_diffusion.attention_block import AttentionBlock  # noqa: E402
from keras_cv.src.models.stable_diffusion.clip_tokenizer import SimpleTokenizer  # noqa: E402
from keras_cv.src.models.stable_diffusion.padded_conv2d import PaddedConv2D  # noqa: E402
from keras_cv.src.models.stable_diffusion.resnet_block import ResnetBlock  # noqa: E402

legacy_h5_format = pytest.importorskip("keras.src.legacy.saving.legacy_h5_format")

HEADS = {"1.x": lambda width: (8, width // 8), "2.x": lambda width: (width // 64, 64)}
WIDTHS = (64, 64, 128, 128)
VAE_WIDTHS = (32, 32, 32, 64)
CONTEXT = 64
PARTS = ("diffusion_model", "text_encoder", "decoder", "image_encoder")


def randomize(model, scale: float = 1.0, seed: int = 0) -> None:
    """Give every weight a value of its own, none of them 0 or 1; `scale` is that of what a kernel makes of 1."""
    random = np.random.default_rng(seed)
    for variable in model.variables:
        value = random.standard_normal(variable.shape, "float32")
        if variable.name == "kernel":
            value *= scale * math.prod(variable.shape[:-1]) ** -0.5
        elif variable.name == "embeddings":
            value *= 0.5
        else:
            value *= 0.1 * scale
        variable.assign(value + 1.0 if variable.name == "gamma" else value)


def small_unet(family: str, size: int = 16) -> keras.Model:
    """KerasCV's blocks in the arrangement of its DiffusionModel, narrower."""
    z_t, features = (kl.Input(shape, batch_size=2) for shape in ((size, size, 4), (WIDTHS[0],)))
    context = kl.Input((77, CONTEXT), batch_size=2)
    dense = kl.Dense(4 * WIDTHS[0])(features)
    temb = kl.Dense(4 * WIDTHS[0])(kl.Activation("swish")(dense))

    def block(h, width, attention):
        h = diffusion_model.ResBlock(width)([h, temb])
        if not attention:
            return h
        transformer = diffusion_model.SpatialTransformer(*HEADS[family](width), fully_connected=family == "2.x")
        return transformer([h, context])

    h = PaddedConv2D(WIDTHS[0], 3, padding=1)(z_t)
    skips = [h]
    for level, width in enumerate(WIDTHS):
        for _ in range(2):
            h = block(h, width, attention=level < 3)
            skips.append(h)
        if level < 3:
            h = PaddedConv2D(width, 3, strides=2, padding=1)(h)
            skips.append(h)
    h = block(block(h, WIDTHS[-1], attention=True), WIDTHS[-1], attention=False)
    for level, width in reversed(list(enumerate(WIDTHS))):
        for _ in range(3):
            h = block(kl.Concatenate()([h, skips.pop()]), width, attention=level < 3)
        if level:
            h = diffusion_model.Upsample(width)(h)
    h = kl.Activation("swish")(kl.GroupNormalization(epsilon=1e-5)(h))
    return keras.Model([z_t, features, context], PaddedConv2D(4, 3, padding=1)(h))


def small_text_encoder(family: str, width: int = CONTEXT, vocabulary: int = 600) -> keras.Model:
    """KerasCV's layers in the arrangement of its TextEncoder or TextEncoderV2, narrower and fewer."""
    tokens, positions = (kl.Input((77,), dtype="int32", name=name) for name in ("tokens", "positions"))
    activation = text_encoder.quick_gelu if family == "1.x" else keras.ops.gelu
    h = text_encoder.CLIPEmbedding(vocabulary, width, 77)([tokens, positions])
    for _ in range(3):
        h = text_encoder.CLIPEncoderLayer(width, width // 64, activation=activation)(h)
    return keras.Model([tokens, positions], kl.LayerNormalization(epsilon=1e-5)(h))


def small_decoder() -> keras.Model:
    """KerasCV's layers in the arrangement of its Decoder, narrower."""
    wide = VAE_WIDTHS[-1]
    layers = [PaddedConv2D(4, 1), PaddedConv2D(wide, 3, padding=1)]
    layers += [ResnetBlock(wide), AttentionBlock(wide), ResnetBlock(wide)]
    for level, width in reversed(list(enumerate(VAE_WIDTHS))):
        layers += [ResnetBlock(width) for _ in range(3)]
        layers += [PaddedConv2D(width, 3, padding=1)] if level else []
    return keras.Sequential([kl.Input((8, 8, 4)), *layers, kl.GroupNormalization(), PaddedConv2D(3, 3, padding=1)])


def small_image_encoder() -> keras.Model:
    """KerasCV's layers in the arrangement of its ImageEncoder, narrower."""
    wide = VAE_WIDTHS[-1]
    layers = [PaddedConv2D(VAE_WIDTHS[0], 3, padding=1)]
    for level, width in enumerate(VAE_WIDTHS):
        layers += [ResnetBlock(width) for _ in range(2)]
        layers += [PaddedConv2D(width, 3, padding=((0, 1), (0, 1)), strides=2)] if level < 3 else []
    layers += [ResnetBlock(wide), AttentionBlock(wide), ResnetBlock(wide), kl.GroupNormalization()]
    return keras.Sequential([kl.Input((None, None, 3)), *layers, PaddedConv2D(8, 3, padding=1), PaddedConv2D(8, 1)])


@pytest.fixture(scope="module")
def bpe_file(tmp_path_factory):
    """A tokenizer's file in the form that KerasCV downloads."""
    path = tmp_path_factory.mktemp("tokenizer") / "bpe_simple_vocab_16e6.txt.gz"
    merges = ["t h", "th e</w>", "c a", "ca t</w>", "a n", "an d</w>", "h o"]
    path.write_bytes(gzip.compress(("#version: 0.2\n" + "\n".join(merges)).encode()))
    return path


@pytest.fixture(scope="module")
def models(bpe_file):
    """A real StableDiffusion and a real StableDiffusionV2, whose networks are narrower."""
    made, decoder, encoder = {}, small_decoder(), small_image_encoder()
    for network in (decoder, encoder):
        randomize(network)
    for family, kind in (("1.x", keras_cv.models.StableDiffusion), ("2.x", keras_cv.models.StableDiffusionV2)):
        model = made[family] = kind(jit_compile=False)
        model._diffusion_model, model._text_encoder = small_unet(family), small_text_encoder(family)
        model._decoder, model._image_encoder = decoder, encoder
        model._tokenizer = SimpleTokenizer(str(bpe_file))
        randomize(model.diffusion_model, 0.05)
        randomize(model.text_encoder)
    return made


@pytest.fixture(scope="module")
def folders(models, bpe_file, tmp_path_factory):
    """Their files, in both layouts."""
    root = tmp_path_factory.mktemp("files")
    for layout in ("Keras 2", "Keras 3"):
        for family in models:
            (root / layout / family).mkdir(parents=True)
            for i, part in enumerate(PARTS):
                path = root / layout / family / f"{i}.{'weights.h5' if layout == 'Keras 3' else 'h5'}"
                if family == "2.x" and part in ("decoder", "image_encoder"):  # they are the same
                    os.link(root / layout / "1.x" / path.name, path)
                else:
                    save(getattr(models[family], part), path, layout)
            os.link(bpe_file, root / layout / family / bpe_file.name)
    return root


def save(model, path, layout):
    if layout == "Keras 3":
        model.save_weights(path)
    else:
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)


@pytest.fixture(scope="module")
def bases(models):
    return {family: read(model) for family, model in models.items()}


def error(found, expected) -> float:
    """The largest error, as a part of the output's scale."""
    expected = np.asarray(expected)
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def in_both_numerics(kind, base_network, models: dict[str, keras.Model], changes=None):
    """Ours with the weights of KerasCV's networks: with its numbers, and with those of diffusers."""
    weights = {}
    for part, model in models.items():
        weights |= renamed(layers_of(model, part), part)
    config = {key: value for key, value in base_network.get_config().items() if key not in ("name", "numerics")}
    return [
        load(kind, config | options, "network", weights) for options in (changes or [{"numerics": n} for n in NUMERICS])
    ]


RANDOM = np.random.default_rng(1)
Z_T = RANDOM.normal(size=(2, 16, 16, 4)).astype("float32")
PROMPTS = RANDOM.normal(size=(2, 77, CONTEXT)).astype("float32")
IDS = RANDOM.integers(0, 600, (2, 77)).astype("int32")
NUMERICS = ("keras_cv", "diffusers")
NETWORKS = ("unet", "vae", "text_encoder")


@pytest.mark.parametrize(
    "scale", [0.05, 1.0]
)  # the epsilon matters with small values, the form of GELU with large ones
@pytest.mark.parametrize("family", ["1.x", "2.x"])
def test_the_diffusion_model_has_kerascvs_numbers(models, bases, family, scale):
    model = models[family].diffusion_model
    values = model.get_weights()
    randomize(model, scale)
    networks = in_both_numerics(UNet, bases[family].unet, {"diffusion_model": model})
    features = [np.asarray(models[family]._get_timestep_embedding(t, 1, dim=WIDTHS[0])) for t in (7, 930)]
    expected = model([Z_T, np.concatenate(features), PROMPTS])
    model.set_weights(values)
    theirs, trained = (network(Z_T, np.array([7, 930]), PROMPTS) for network in networks)
    assert error(theirs, expected) <= 2e-5
    assert error(trained, expected) > 6e-5


@pytest.mark.parametrize("family", ["1.x", "2.x"])
def test_the_text_encoder_has_kerascvs_numbers(models, bases, family):
    positions = np.tile(np.arange(77, dtype="int32"), (2, 1))
    expected = models[family].text_encoder([IDS, positions])
    assert error(bases[family].text_encoder(IDS), expected) <= 2e-5
    if family == "2.x":
        changes = [{"hidden_act": "gelu"}]
        model = {"text_encoder": models[family].text_encoder}
        (trained,) = in_both_numerics(TextEncoder, bases[family].text_encoder, model, changes)
        assert error(trained(IDS), expected) > 1e-4


def test_the_autoencoder_has_kerascvs_numbers(bases):
    """KerasCV's own decoder and image encoder, with values so small that an epsilon matters."""
    decoder = keras_cv.models.stable_diffusion.Decoder(64, 64, download_weights=False)
    encoder = keras_cv.models.stable_diffusion.ImageEncoder(download_weights=False)
    for model in (decoder, encoder):
        randomize(model, 0.5)
    first = next(layer for layer in encoder.layers if layer.weights)
    first.set_weights([0.02 * value for value in first.get_weights()])
    autoencoder = {"decoder": decoder, "image_encoder": encoder}
    images = np.random.default_rng(2).uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    latents = 0.05 * np.random.default_rng(3).normal(size=(2, 8, 8, 4)).astype("float32")
    encoded, decoded = encoder(images), decoder(latents)
    widths = {"block_out_channels": (128, 256, 512, 512)}
    options = [{**widths, "numerics": numerics} for numerics in NUMERICS]
    ours, trained = in_both_numerics(AutoencoderKL, bases["1.x"].vae, autoencoder, options)
    assert error(ours.encode(images).mean * 0.18215, encoded) <= 2e-5
    assert error(ours.decode(latents / 0.18215), decoded) <= 2e-5
    assert error(trained.encode(images).mean * 0.18215, encoded) > 1e-4
    assert error(trained.decode(latents / 0.18215), decoded) > 1e-4


def test_numerics_may_be_those_of_diffusers(models):
    base = read(models["2.x"], numerics="diffusers")
    assert "numerics" not in base.unet.get_config() and "numerics" not in base.vae.get_config()
    assert base.text_encoder.hidden_act == "gelu" and base.tokenizer.padding == "!"
    prompts = ["", "The cat and the hound"]
    ids = [models["2.x"].tokenizer.encode(prompt) for prompt in prompts]
    np.testing.assert_array_equal(base.tokenizer(prompts), [i + [0] * (77 - len(i)) for i in ids])


@pytest.mark.parametrize("layout", ["Keras 2", "Keras 3"])
@pytest.mark.parametrize("family", ["1.x", "2.x"])
def test_files_give_the_weights_of_the_object(folders, bases, family, layout):
    base = codi_tf.load_stable_diffusion(folders / layout / family)
    for part in NETWORKS:
        pairs = zip(getattr(base, part).variables, getattr(bases[family], part).variables, strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    assert base.unet.get_config() == bases[family].unet.get_config()
    assert base.text_encoder.hidden_act == ("quick_gelu" if family == "1.x" else "gelu_pytorch_tanh")
    np.testing.assert_array_equal(base.tokenizer(["the cat"]), bases[family].tokenizer(["the cat"]))
    assert base.path is None  # no folder that a bundle could name


@pytest.mark.parametrize("family", ["1.x", "2.x"])
def test_an_object_is_loaded_with_every_option(models, bases, folders, family):
    options = {"weights": "float16", "prediction_type": "v_prediction"}
    for source in (models[family], folders / "Keras 3" / family / "0.weights.h5"):
        base = codi_tf.load_stable_diffusion(source, **options)
        assert base.prediction_type == base.scheduler["prediction_type"] == "v_prediction"
        for part in NETWORKS:
            pairs = list(zip(getattr(base, part).variables, getattr(bases[family], part).variables, strict=True))
            assert {half.dtype for half, _ in pairs} == {"float16"}
            assert all(np.array_equal(half, full.numpy().astype("float16")) for half, full in pairs)
        with pytest.raises(UserError, match="architecture is {}: it is for single files in the original layout"):
            codi_tf.load_stable_diffusion(source, architecture={})
    trained = codi_tf.load_stable_diffusion(models[family], numerics="diffusers")
    assert trained.unet.numerics == trained.vae.numerics == "diffusers" and trained.prediction_type == "epsilon"


def test_a_part_may_be_named_and_its_neighbors_that_fit_are_read(folders, bases, models, tmp_path):
    """As in the folder of Keras' downloads, where 1.x and 2.x lie side by side."""
    for name in os.listdir(folders / "Keras 2" / "1.x"):
        os.link(folders / "Keras 2" / "1.x" / name, tmp_path / name)
    os.link(folders / "Keras 2" / "2.x" / "0.h5", tmp_path / "v2.h5")
    wide = small_text_encoder("2.x", width=128)
    save(wide, tmp_path / "wide.h5", "Keras 2")
    (tmp_path / "notes.txt").write_text("not read")
    keras.Sequential([kl.Input((3,)), kl.Dense(2)]).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(UserError, match=r"several files hold the diffusion model \(0.h5, v2.h5\)"):
        read(tmp_path)
    for name, family in (("0.h5", "1.x"), ("v2.h5", "2.x")):
        base = read(tmp_path / name)
        assert base.unet.use_linear_projection == (family == "2.x")
        np.testing.assert_array_equal(base.unet.conv_in.kernel, bases[family].unet.conv_in.kernel)
        assert base.text_encoder.hidden_size == CONTEXT and base.path == tmp_path / name
    (tmp_path / "v2.h5").unlink()
    with pytest.raises(UserError, match="wide.h5: embeds prompts in 128 channels, the diffusion model takes 64"):
        read(tmp_path / "wide.h5")
    with pytest.raises(UserError, match="other.weights.h5: not a part of KerasCV's Stable Diffusion"):
        read(tmp_path / "other.weights.h5")


@pytest.mark.parametrize("missing", [0, 1, 2, 3])
def test_a_missing_part_is_named(folders, tmp_path, missing):
    folder = tmp_path / "some"
    shutil.copytree(folders / "Keras 2" / "1.x", folder, copy_function=os.link)
    (folder / f"{missing}.h5").unlink()
    name = PARTS[missing].replace("_", " ")
    with pytest.raises(UserError) as caught:
        read(folder)
    assert f"{folder}: no .h5 file in the folder holds the {name};" in str(caught.value)
    with pytest.raises(UserError) as caught:
        read(folder / f"{(missing + 1) % 4}.h5")
    assert f"is the {PARTS[(missing + 1) % 4].replace('_', ' ')} alone" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_files_are_refused_in_one_line(folders, tmp_path):
    folder = tmp_path / "some"
    shutil.copytree(folders / "Keras 3" / "1.x", folder, copy_function=os.link)
    text = folder / "1.weights.h5"
    content = text.read_bytes()
    text.unlink()
    for broken in (content[: len(content) // 2], b"", b"no HDF5"):
        text.write_bytes(broken)
        with pytest.raises(UserError, match="1.weights.h5: truncated or not weights of Keras") as caught:
            read(folder)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="nothing.h5: no such .h5 file"):
        read(folder / "nothing.h5")


def test_weights_of_another_shape_or_number_are_refused(models, folders, tmp_path):
    folder = tmp_path / "some"
    shutil.copytree(folders / "Keras 2" / "1.x", folder, copy_function=os.link)
    path = folder / "0.h5"
    path.unlink()
    save(models["1.x"].diffusion_model, path, "Keras 2")
    with h5py.File(path, "r+") as file:
        layer = file["dense"] if "dense" in file else file[min(name for name in file if name.startswith("dense"))]
        name = layer.attrs["weight_names"][0]
        del layer[name]
        layer[name] = np.zeros((64, 255), "float32")
    with pytest.raises(UserError) as caught:
        read(folder)
    expected = "time_embedding.linear_1.weight (64, 255), wanted (64, 256)"
    assert expected in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
    with h5py.File(path, "r+") as file:
        layer = file[next(name for name in file if name.startswith("res_block"))]
        layer.attrs["weight_names"] = layer.attrs["weight_names"][:-1]
    with pytest.raises(UserError, match=r"res_block number \d+ has \d+ weights, wanted \d+"):
        read(folder)


def test_other_objects_are_refused(models):
    with pytest.raises(UserError, match="not a KerasCV Stable Diffusion, because it has no network 'diffusion_model'"):
        read(models["1.x"].diffusion_model)
    swapped = keras_cv.models.StableDiffusion(jit_compile=False)
    swapped._diffusion_model = models["1.x"].decoder
    with pytest.raises(UserError, match="diffusion_model: its layers are not those of KerasCV's diffusion model"):
        read(swapped)
    with pytest.raises(UserError, match="numerics is 'torch': use one of diffusers, keras_cv"):
        read(models["1.x"], numerics="torch")


def test_the_schedule_is_kerascvs(bases):
    for base in bases.values():
        np.testing.assert_allclose(base.schedule.alpha**2, constants._ALPHAS_CUMPROD, rtol=2e-4)
        assert base.prediction_type == "epsilon"


def test_the_tokenizer_is_kerascvs(models, bases, folders, tmp_path):
    prompts = ["", "The cat and the hound", "cats, 12 dogs!!", "naïve café 猫"]
    theirs = [models["1.x"].tokenizer.encode(prompt) for prompt in prompts]
    end = models["1.x"].tokenizer.end_of_text
    expected = np.array([ids + [end] * (77 - len(ids)) for ids in theirs])
    for base in bases.values():
        np.testing.assert_array_equal(base.tokenizer(prompts), expected)
    bases["1.x"].tokenizer.save(tmp_path / "tokenizer")
    named = read(folders / "Keras 2" / "1.x", tokenizer=tmp_path / "tokenizer")
    np.testing.assert_array_equal(named.tokenizer(prompts), expected)


def test_a_folder_may_have_either_tokenizer_or_none_but_no_broken_one(folders, bases, bpe_file, tmp_path):
    folder = tmp_path / "some"
    shutil.copytree(folders / "Keras 2" / "1.x", folder, copy_function=os.link)
    bases["1.x"].tokenizer.save(folder)
    np.testing.assert_array_equal(read(folder).tokenizer(["the cat"]), bases["1.x"].tokenizer(["the cat"]))
    (folder / bpe_file.name).unlink()
    (folder / "vocab.json").unlink()
    assert read(folder).tokenizer is None
    (folder / bpe_file.name).write_bytes(bpe_file.read_bytes()[:20])
    with pytest.raises(UserError, match="not readable"):
        read(folder)
