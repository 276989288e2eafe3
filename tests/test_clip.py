"""CLIP's similarity against transformers: CLIPModel and CLIPImageProcessor, small, with random weights."""

from __future__ import annotations

import json
import shutil

import keras
import numpy as np
import pytest
from tiny_pipeline import make_tokenizer, torch, transformers

from codi_tf.core.errors import UserError
from codi_tf.evaluation.perception.clip import Clip, Preprocessing, _read_config, load_clip
from codi_tf.io.layouts import key_of, layout_of

processing = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
SIZE = 32
PROMPTS = ["a cat", "", "a photo of the cat and the dog, at night"]


def save_clip(folder, *, act: str = "quick_gelu", old: bool = False):
    """A CLIPModel's folder with random weights; `old`: as files were before transformers 4.31."""
    tokenizer = make_tokenizer(folder)
    torch.manual_seed(0)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "hidden_act": act,
        "bos_token_id": 0 if old else tokenizer.bos_token_id,
        "eos_token_id": 2 if old else tokenizer.eos_token_id,
    }
    vision = {
        "hidden_size": 36,
        "intermediate_size": 50,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": SIZE,
        "patch_size": 8,
        "hidden_act": act,
    }
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    peer = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) / max((1, *parameter.shape[-1:])) ** 0.5)
    peer.save_pretrained(folder)
    processor = processing.CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=SIZE)
    processor.save_pretrained(folder)
    return peer, processor, tokenizer


def random_images(height: int, width: int, count: int = 3) -> np.ndarray:
    """Bytes, uint8 [count, height, width, 3]: gradients with noise."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / max(height, width)
    slopes = random.uniform(-250, 250, (2, count, 1, 1, 3))
    values = 128 + slopes[0] * (y[..., None] - 0.4) + slopes[1] * (x[..., None] - 0.4)
    return np.clip(values + random.normal(0, 30, values.shape), 0, 255).astype("uint8")


def signed(levels: np.ndarray) -> np.ndarray:
    return (levels / 127.5 - 1).astype("float32")


def peer_score(peer, processor, tokenizer, levels, prompts) -> np.ndarray:
    values = processor(list(levels), return_tensors="pt")["pixel_values"]
    tokens = tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    with torch.no_grad():
        out = peer(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=values)
    return (out.image_embeds * out.text_embeds).sum(-1).numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "clip"
    return folder, save_clip(folder)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_the_score_is_that_of_transformers(tmp_path, act, old):
    parts = save_clip(tmp_path / "clip", act=act, old=old)
    score = load_clip(tmp_path / "clip")
    for size in ((40, 56), (SIZE, SIZE), (20, 17)):
        levels = random_images(*size)
        expected = peer_score(*parts, levels, PROMPTS)
        found = score(signed(levels), PROMPTS)
        assert found.dtype == "float32" and found.shape == (3,) and np.ptp(expected) > 0.05
        assert np.abs(np.asarray(found) - expected).max() <= 2e-5


def test_one_prompt_serves_all_images(folder):
    score = load_clip(folder[0])
    images = signed(random_images(40, 40))
    np.testing.assert_allclose(score(images, "a cat"), score(images, ["a cat"] * 3), rtol=1e-6)
    with pytest.raises(UserError, match="2 prompts for 3 images: give one, or one for each"):
        score(images, ["a", "b"])


@pytest.mark.parametrize("size", [(300, 224), (20, 31), (57, 57), (224, 641)])
def test_images_are_prepared_as_by_transformers(size):
    levels = random_images(*size)
    expected = processing.CLIPImageProcessorPil()(list(levels), return_tensors="np")["pixel_values"]
    found = Preprocessing()(signed(levels))
    assert found.dtype == "float32" and found.shape == (3, 224, 224, 3)
    np.testing.assert_allclose(found, np.moveaxis(expected, 1, -1), atol=2e-6)


def test_a_published_model_s_shapes_are_those_of_transformers(tmp_path):
    """CLIP ViT-B/32, whose configuration is the default one; nothing is allocated on either side."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with keras.StatelessScope(initialize_variables=False):
        network = Clip(name="clip", **_read_config(tmp_path / "config.json"))
        network.build()
        shapes = {key_of(v, network): layout_of(v).stored_shape(tuple(v.shape)) for v in network.variables}
    keras.utils.clear_session()  # forgets the weights that wait for their values
    with torch.device("meta"):
        peer = transformers.CLIPModel(transformers.CLIPConfig())
    expected = {key: tuple(p.shape) for key, p in peer.named_parameters() if key != "logit_scale"}
    assert shapes == expected


def test_halved_files_and_old_configurations(folder, tmp_path):
    """Weights in float16, position numbers among them, and the towers' configurations under their old names, too."""
    source, (peer, *others) = folder
    shutil.copytree(source, tmp_path / "clip")
    path = tmp_path / "clip" / "config.json"
    config = json.loads(path.read_text())
    for tower in ("text_config", "vision_config"):
        config[f"{tower}_dict"] = config[tower]
        config[tower] = {**config[tower], "num_hidden_layers": 7}
    path.write_text(json.dumps(config))
    state = {key: value.half() for key, value in peer.state_dict().items() if not key.endswith("position_ids")}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(state, tmp_path / "clip" / "model.safetensors")
    levels = random_images(40, 40)
    found = load_clip(tmp_path / "clip")(signed(levels), PROMPTS)
    np.testing.assert_allclose(found, peer_score(peer, *others, levels, PROMPTS), atol=2e-3)
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None].flip(1)
    save_file(state, tmp_path / "clip" / "model.safetensors")
    with pytest.raises(UserError, match="is not 0, 1, 2"):
        load_clip(tmp_path / "clip")


def test_folders_that_do_not_fit_are_refused_in_one_line(folder, tmp_path):
    def refused(file: str, changes: dict | None) -> str:
        copy = tmp_path / "copy"
        shutil.copytree(folder[0], copy)
        path = copy / file
        if changes is None:
            path.unlink()
        else:
            path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        with pytest.raises(UserError) as caught:
            load_clip(copy)
        shutil.rmtree(copy)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    config = json.loads((folder[0] / "config.json").read_text())

    def tower(name, **changes):
        return {name: {**config[name], **changes}}

    assert "config.json: no such file" in refused("config.json", None)
    assert "model.safetensors: no such weight file" in refused("model.safetensors", None)
    assert "model_type is 'siglip'" in refused("config.json", {"model_type": "siglip"})
    assert "text_config is no JSON object" in refused("config.json", {"text_config": [1]})
    assert "projection_dim is -1" in refused("config.json", {"projection_dim": -1})
    assert "weights of another shape: " in refused("config.json", {"projection_dim": 21})
    assert "weights missing: vision_model" in refused("config.json", tower("vision_config", num_hidden_layers=4))
    assert "weights left over: text_model" in refused("config.json", tower("text_config", num_hidden_layers=1))
    assert "unknown hidden_act 'relu'" in refused("config.json", tower("vision_config", hidden_act="relu"))
    assert "patch_size is '8'" in refused("config.json", tower("vision_config", patch_size="8"))
    assert "num_channels is not 3" in refused("config.json", tower("vision_config", num_channels=4))
    assert "hidden_size 36 is no multiple of num_attention_heads 5" in refused(
        "config.json", tower("vision_config", num_attention_heads=5)
    )
    assert "below 77" in refused("config.json", tower("text_config", max_position_embeddings=76))
    assert "more tokens than the model" in refused("config.json", tower("text_config", vocab_size=9))
    for changes in (
        {"size": {"height": SIZE, "width": SIZE}},
        {"crop_size": {"height": SIZE, "width": SIZE + 1}},
        {"resample": 2},
        {"do_center_crop": False},
        {"image_mean": [0.5]},
        {"image_std": "0.5"},
        {"rescale_factor": 1 / 127.5},
    ):
        assert f"only a bicubic resize of the shorter side to {SIZE}" in refused("preprocessor_config.json", changes)


def test_the_preprocessor_file_is_used_and_may_be_missing(folder, tmp_path):
    """Old ones say `size` and `crop_size` as numbers."""
    source, (peer, _, tokenizer) = folder
    shutil.copytree(source, tmp_path / "clip")
    path = tmp_path / "clip" / "preprocessor_config.json"
    levels = random_images(40, 60)
    without = load_clip(source)(signed(levels), PROMPTS)
    path.unlink()
    np.testing.assert_array_equal(load_clip(tmp_path / "clip")(signed(levels), PROMPTS), without)
    path.write_text(
        json.dumps({"size": SIZE, "crop_size": SIZE, "image_mean": [0.2, 0.3, 0.4], "image_std": [0.5] * 3})
    )
    processor = processing.CLIPImageProcessorPil.from_pretrained(tmp_path / "clip")
    expected = peer_score(peer, processor, tokenizer, levels, PROMPTS)
    assert np.abs(expected - without).max() > 1e-3
    np.testing.assert_allclose(load_clip(tmp_path / "clip")(signed(levels), PROMPTS), expected, atol=2e-5)
