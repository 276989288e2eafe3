"""CLIP's similarity of images and texts (Radford et al. 2021), for the CLIP score (Hessel et al. 2021)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from PIL import Image

from codi_tf.checkpoints.base import make_network
from codi_tf.checkpoints.kinds import TEXT_ENCODER
from codi_tf.checkpoints.networks import NUMBERS, check_positions, check_sizes, stored_tensors
from codi_tf.checkpoints.rules import POSITIONS
from codi_tf.checkpoints.tokenizer import END, LENGTH, Tokenizer
from codi_tf.core.arguments import as_prompts
from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path
from codi_tf.core.precision import built_in, make_policy
from codi_tf.core.showing import shown
from codi_tf.io.images import to_uint8
from codi_tf.io.json_files import read_json
from codi_tf.io.layouts import Origin
from codi_tf.io.weights import CONFIG, make_from
from codi_tf.models.activations import ACTIVATIONS
from codi_tf.models.text_encoder import EncoderLayer, TextEncoder

PREPROCESSOR = "preprocessor_config.json"
# transformers' defaults for the keys that a vision_config lacks.
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
PROJECTION = 512


class VisionEncoder(keras.Model):
    """A vision transformer. Normalized images [B, image_size, image_size, 3] -> the first token's state [B, D].

    The arguments are the keys of a transformers CLIPVisionConfig, with the same meaning.

    Raises:
        UserError: an unknown activation, or sizes that do not divide.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        intermediate_size: int,
        num_hidden_layers: int,
        num_attention_heads: int,
        image_size: int,
        patch_size: int,
        hidden_act: str,
        layer_norm_eps: float,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if hidden_act not in ACTIVATIONS:
            raise UserError(f"vision_config: unknown hidden_act {hidden_act!r}: use one of {', '.join(ACTIVATIONS)}")
        if hidden_size % num_attention_heads:
            raise UserError(
                f"vision_config: hidden_size {hidden_size} is no multiple of num_attention_heads {num_attention_heads}"
            )
        if patch_size > image_size:
            raise UserError(f"vision_config: patch_size {patch_size} is larger than image_size {image_size}")
        self.hidden_size, self.intermediate_size = hidden_size, intermediate_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.image_size, self.patch_size = image_size, patch_size
        self.hidden_act, self.layer_norm_eps = hidden_act, layer_norm_eps
        self.patches = (image_size // patch_size) ** 2
        self.patch_embedding = keras.layers.Conv2D(
            hidden_size,
            patch_size,
            strides=patch_size,
            use_bias=False,
            data_format="channels_last",
            name="embeddings.patch_embedding",
        )
        self.position_embedding = keras.layers.Embedding(
            self.patches + 1, hidden_size, name="embeddings.position_embedding"
        )
        # The names in transformers' files.
        self.pre_norm = keras.layers.LayerNormalization(epsilon=layer_norm_eps, name="pre_layrnorm")
        self.encoder_layers = [
            EncoderLayer(
                hidden_size,
                heads=num_attention_heads,
                hidden=intermediate_size,
                activation=hidden_act,
                epsilon=layer_norm_eps,
                causal=False,
                name=f"encoder.layers.{i}",
            )
            for i in range(num_hidden_layers)
        ]
        self.post_norm = keras.layers.LayerNormalization(epsilon=layer_norm_eps, name="post_layernorm")

    def build(self, input_shape=None):
        self.class_embedding = self.add_weight(name="embeddings.class_embedding", shape=(self.hidden_size,))
        self.patch_embedding.build((None, None, None, 3))
        self.position_embedding.build()
        for layer in self.encoder_layers:
            layer.build()
        self.pre_norm.build((None, None, self.hidden_size))
        self.post_norm.build((None, self.hidden_size))
        self.built = True

    def call(self, images):
        patches = ops.reshape(self.patch_embedding(images), (-1, self.patches, self.hidden_size))
        first = ops.zeros_like(patches[:, :1]) + self.class_embedding
        x = ops.concatenate([first, patches], axis=1) + self.position_embedding(ops.arange(self.patches + 1))
        x = self.pre_norm(x)  # [B, N, D]
        for layer in self.encoder_layers:
            x = layer(x)
        return self.post_norm(x[:, 0])

    def get_config(self):
        return {key: getattr(self, key) for key in ("name", *VISION)}


class Clip(keras.Model):
    """CLIP: both towers and their projections. A call gives the cosines of images and texts, float32 [B].

    Args:
        text, vision: the arguments of the towers.
        projection_dim: the width of the embeddings.

    Raises:
        UserError: see `VisionEncoder` and `TextEncoder`.
    """

    def __init__(self, *, text: dict, vision: dict, projection_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.text, self.vision, self.projection_dim = dict(text), dict(vision), projection_dim
        self.text_model = TextEncoder(name="text_model", **text)
        self.vision_model = VisionEncoder(name="vision_model", **vision)
        self.text_projection = keras.layers.Dense(projection_dim, use_bias=False, name="text_projection")
        self.visual_projection = keras.layers.Dense(projection_dim, use_bias=False, name="visual_projection")

    def build(self, input_shape=None):
        self.text_model.build()
        self.vision_model.build()
        self.text_projection.build((None, self.text_model.hidden_size))
        self.visual_projection.build((None, self.vision_model.hidden_size))
        self.built = True

    def embed_images(self, images):
        """Normalized images [B, image_size, image_size, 3] -> [B, projection_dim], not of unit length."""
        return self.visual_projection(self.vision_model(images))

    def embed_texts(self, ids, ends):
        """Token ids int32 [B, N] and the place of each prompt's end, int32 [B] -> [B, projection_dim]."""
        states = self.text_model(ids)  # [B, N, D]
        return self.text_projection(tf.gather(states, ends, batch_dims=1))

    def call(self, images, ids, ends):
        a, b = (ops.normalize(x, axis=-1) for x in (self.embed_images(images), self.embed_texts(ids, ends)))
        return ops.sum(a * b, axis=-1)

    def get_config(self):
        towers = {"text": dict(self.text), "vision": dict(self.vision)}
        return {"name": self.name, **towers, "projection_dim": self.projection_dim}


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of CLIPImageProcessor: shorter side to `size`, the middle square, mean and deviation.

    The resize is Pillow's bicubic one, of bytes. The defaults are CLIP's.
    """

    size: int = 224
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Images [B, H, W, 3] in [-1, 1] -> float32 [B, size, size, 3]."""
        pixels = to_uint8((np.asarray(images, np.float32) + 1) / 2)
        square = np.stack([self._square(Image.fromarray(image)) for image in pixels])
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return ((square / np.float32(255) - mean) / std).astype(np.float32)

    def _square(self, image: Image.Image) -> np.ndarray:
        short = min(image.size)
        width, height = (self.size * side // short for side in image.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))


class Embedder:
    """CLIP with its preprocessing and tokenizer. Embeddings have unit length.

    Args:
        network: a built `Clip`.
        preprocess: of images.
        tokenizer: of prompts.
    """

    def __init__(self, network: Clip, preprocess: Preprocessing, tokenizer: Tokenizer):
        self.preprocess, self.tokenizer = preprocess, tokenizer
        side = preprocess.size
        self._images = tf.function(
            lambda images: ops.normalize(network.embed_images(images), axis=-1),
            input_signature=[tf.TensorSpec([None, side, side, 3], "float32")],
        )
        self._texts = tf.function(
            lambda ids, ends: ops.normalize(network.embed_texts(ids, ends), axis=-1),
            input_signature=[tf.TensorSpec([None, LENGTH], "int32"), tf.TensorSpec([None], "int32")],
        )

    def images(self, images) -> tf.Tensor:
        """Images [B, H, W, 3] in [-1, 1] -> float32 [B, D]."""
        return self._images(self.preprocess(np.asarray(images)))

    def texts(self, prompts: str | Sequence[str]) -> tf.Tensor:
        """Prompts -> float32 [B, D]. Raises UserError for prompts that are no str."""
        ids = self.tokenizer(as_prompts(prompts))
        ends = np.argmax(ids == self.tokenizer.vocabulary[END], axis=1).astype("int32")  # the first of them
        return self._texts(ids, ends)

    def __call__(self, images, prompts: str | Sequence[str]) -> tf.Tensor:
        """The cosine of image and text, float32 [B], in [-1, 1].

        In other work "CLIP score" can be 100 or 2.5 times this value, and is clipped at 0.

        Args:
            images: [B, H, W, 3] in [-1, 1].
            prompts: one for each image, or one for all.

        Raises:
            UserError: prompts that are no str, or another number of prompts than images.
        """
        prompts = as_prompts(prompts)
        if len(prompts) not in (1, len(images)):
            raise UserError(f"{len(prompts)} prompts for {len(images)} images: give one, or one for each")
        return tf.reduce_sum(self.images(images) * self.texts(prompts), axis=-1)


def load_clip(folder: str | Path) -> Embedder:
    """Read a folder of a transformers CLIPModel: config.json, model.safetensors and the tokenizer's files.

    Raises:
        UserError: a part is missing, truncated, of another model, or not supported.
    """
    folder = as_path(folder)
    config = _read_config(folder / CONFIG)
    preprocess = _read_preprocessing(folder / PREPROCESSOR, config["vision"]["image_size"])
    tokenizer = Tokenizer.load(folder)
    if config["text"]["max_position_embeddings"] < LENGTH:
        raise UserError(f"{folder / CONFIG}: max_position_embeddings is below {LENGTH}, which is not supported")
    if max(tokenizer.vocabulary.values()) >= config["text"]["vocab_size"]:
        raise UserError(f"{folder}: the tokenizer has more tokens than the model; the files do not belong together")
    stored, path = stored_tensors(folder, "model")
    for key in [key for key in stored if re.search(POSITIONS, key)]:
        check_positions(stored.pop(key), key)
    stored.pop("logit_scale", None)  # the temperature of the training
    with built_in(make_policy()):
        network = make_from(lambda: make_network(Clip, config, "clip"), stored, path, Origin)
    network.trainable = False
    return Embedder(network, preprocess, tokenizer)


def _read_config(path: Path) -> dict:
    """The arguments of `Clip`. Keys that do not affect the two towers' numbers are ignored."""
    config = read_json(path)
    if config.get("model_type") != "clip":
        raise UserError(f"{path}: model_type is {shown(config.get('model_type'))}: name the folder of a CLIPModel")
    text = _tower(config, "text_config", TEXT_ENCODER.ours, path)
    vision = _tower(config, "vision_config", {**VISION, "num_channels": 3}, path)
    if vision.pop("num_channels") != 3:
        raise UserError(f"{path}: vision_config.num_channels is not 3, which is not supported")
    projection = config.get("projection_dim", PROJECTION)
    _check_number("projection_dim", projection, int, path)
    return {"text": text, "vision": vision, "projection_dim": projection}


def _tower(config: Mapping, name: str, defaults: Mapping[str, object], path: Path) -> dict:
    # Old files hold the configuration twice; transformers reads the one whose key ends in "_dict".
    given = next((config[key] for key in (f"{name}_dict", name) if config.get(key) is not None), {})
    if not isinstance(given, dict):
        raise UserError(f"{path}: {name} is no JSON object; copy or make it again")
    arguments = {key: given.get(key, value) for key, value in defaults.items()}
    for key, value in defaults.items():
        if not isinstance(value, str):
            _check_number(f"{name}.{key}", arguments[key], type(value), path)
    return arguments


def _check_number(key: str, value: Any, wanted: type, path: Path) -> None:
    if type(value) not in (int, wanted) or not 0 < value < float("inf"):
        raise UserError(f"{path}: {key} is {shown(value)}: it must be {NUMBERS[wanted]} above 0")
    check_sizes({key: value}, path)


def _read_preprocessing(path: Path, image_size: int) -> Preprocessing:
    """Read preprocessor_config.json; without the file, CLIP's preprocessing at the network's size."""
    config = read_json(path) if path.is_file() else {}
    size = _side(config.get("size", image_size), {"shortest_edge"})
    crop = _side(config.get("crop_size", image_size), {"height", "width"})
    default = Preprocessing()
    try:
        mean, std = (tuple(map(float, config.get(f"image_{key}", getattr(default, key)))) for key in ("mean", "std"))
    except (TypeError, ValueError):
        mean = std = ()
    switches = [config.get(f"do_{step}", True) for step in ("resize", "center_crop", "rescale", "normalize")]
    factor = config.get("rescale_factor", 1 / 255)
    bicubic = config.get("resample", 3) == 3 and isinstance(factor, int | float) and abs(factor - 1 / 255) < 1e-9
    if not (size == crop == image_size and len(mean) == len(std) == 3 and all(switches) and bicubic):
        raise UserError(
            f"{path}: only a bicubic resize of the shorter side to {image_size}, a square of {image_size} from the "
            "middle, mean and deviation of the three colors are supported"
        )
    return Preprocessing(image_size, mean, std)


def _side(value: object, keys: set[str]) -> object:
    """224 for 224 and for a mapping of just these keys to 224; None for something else."""
    if not isinstance(value, dict):
        return value
    sides = list(value.values())
    return sides[0] if value.keys() == keys and sides.count(sides[0]) == len(sides) else None
