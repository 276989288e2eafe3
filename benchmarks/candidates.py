"""Networks in the shapes of Stable Diffusion 1.x with random weights: ours, KerasCV's, diffusers', 512 px, batch 1.

Each function takes a format ("float32" or "bfloat16") and returns a function without arguments that does the work once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SIDE = 64  # of the latents
STEPS = 4
Call = Callable[[], object]


def _latent(channels: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, SIDE, SIDE, channels)).astype("float32")


def _context() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1, 77, 768)).astype("float32")


def _image() -> np.ndarray:
    return np.random.default_rng(2).uniform(size=(1, 8 * SIDE, 8 * SIDE, 3)).astype("float32")


def _ours(kind, dtype: str, name: str):
    from codi_tf.core.precision import built_in, make_policy

    with built_in(make_policy(dtype, dtype)):
        network = kind(name=name)
        network.build()
    return network


def gemm_tensorflow(dtype: str) -> Call:
    """The limit of the machine: a product of two 2048 x 2048 matrices."""
    import tensorflow as tf

    a = tf.cast(tf.random.normal((2048, 2048)), dtype)
    return tf.function(lambda: tf.matmul(a, a))


def unet(dtype: str) -> Call:
    import tensorflow as tf

    from codi_tf.models.unet import UNet

    network, z, context, t = (
        _ours(UNet, dtype, "unet"),
        tf.constant(_latent()),
        tf.constant(_context()),
        tf.constant([500]),
    )
    return tf.function(lambda: network(z, t, context), autograph=False)


def unet_keras_cv(dtype: str) -> Call:
    import keras
    import tensorflow as tf
    from keras_cv.src.models.stable_diffusion.diffusion_model import DiffusionModel

    keras.config.set_dtype_policy(dtype)
    network = DiffusionModel(8 * SIDE, 8 * SIDE, 77, download_weights=False)
    inputs = {
        "latent": tf.cast(_latent(), dtype),
        "timestep_embedding": tf.cast(np.random.default_rng(3).normal(size=(1, 320)), dtype),
        "context": tf.cast(_context(), dtype),
    }
    return tf.function(lambda: network(inputs, training=False), autograph=False)


def unet_diffusers(dtype: str) -> Call:
    import benchmarks.torchvision_operators  # noqa: F401  (before anything imports torchvision)

    # isort: split
    import torch
    from diffusers import UNet2DConditionModel

    network = _torch(UNet2DConditionModel(cross_attention_dim=768), dtype)
    z, context = _channels_first(_latent(), dtype), torch.tensor(_context()).to(getattr(torch, dtype))
    t = torch.tensor([500])

    def run():
        with torch.no_grad():
            return network(z, t, context).sample

    return run


def decode(dtype: str) -> Call:
    import tensorflow as tf

    from codi_tf.models.autoencoder import AutoencoderKL

    vae, z = _ours(AutoencoderKL, dtype, "vae"), tf.constant(_latent())
    return tf.function(lambda: vae.decode(z), autograph=False)


def decode_tiny(dtype: str) -> Call:
    """TAESD's shapes."""
    import tensorflow as tf

    from codi_tf.models.tiny_decoder import TinyDecoder

    decoder, z = _ours(TinyDecoder, dtype, "decoder"), tf.constant(_latent())
    return tf.function(lambda: decoder(z), autograph=False)


def decode_tiny_diffusers(dtype: str) -> Call:
    import benchmarks.torchvision_operators  # noqa: F401  (before anything imports torchvision)

    # isort: split
    import torch
    from diffusers import AutoencoderTiny

    vae, z = _torch(AutoencoderTiny(), dtype), _channels_first(_latent(), dtype)

    def run():
        with torch.no_grad():
            return vae.decode(z).sample

    return run


def decode_keras_cv(dtype: str) -> Call:
    import keras
    import tensorflow as tf
    from keras_cv.src.models.stable_diffusion.decoder import Decoder

    keras.config.set_dtype_policy(dtype)
    network, z = Decoder(8 * SIDE, 8 * SIDE, download_weights=False), tf.cast(_latent(), dtype)
    return tf.function(lambda: network(z, training=False), autograph=False)


def decode_diffusers(dtype: str) -> Call:
    import torch

    vae, z = _torch(_vae_diffusers(), dtype), _channels_first(_latent(), dtype)

    def run():
        with torch.no_grad():
            return vae.decode(z).sample

    return run


def generate(dtype: str) -> Call:
    """CoDi's 4 steps with the paper's adapter: image encoded, adapter evaluated once, 4 evaluations, decoding."""
    return _generation(dtype, "mu")


def generate_controlnet(dtype: str) -> Call:
    """The same with the controlnet adapter, which runs in every step."""
    return _generation(dtype, "controlnet")


def _generation(dtype: str, adapter: str) -> Call:
    import tensorflow as tf

    from codi_tf.adapters.adapted import AdaptedUNet
    from codi_tf.adapters.controlnet import ControlNet
    from codi_tf.adapters.mu import MuAdapter
    from codi_tf.checkpoints.base import Base
    from codi_tf.core.precision import built_in, make_policy
    from codi_tf.diffusion.conditioning import Conditioning
    from codi_tf.inference.generation import Generator
    from codi_tf.models.autoencoder import AutoencoderKL
    from codi_tf.models.unet import UNet

    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    base = Base(_ours(UNet, dtype, "unet"), _ours(AutoencoderKL, dtype, "vae"), config)
    with built_in(make_policy(dtype, dtype)):
        kind = {"mu": lambda: MuAdapter(base.unet.encoder_config()), "controlnet": lambda: ControlNet()}[adapter]
        network = kind()
        network.build()
    generator = Generator(base, AdaptedUNet(base.unet, network), boundary=False)
    condition, noise, context = (tf.constant(value) for value in (2 * _image() - 1, _latent(), _context()))
    conditioning = Conditioning(context)
    return lambda: generator.decode(generator.latents(condition, noise, conditioning, steps=STEPS)).numpy()


def generate_diffusers(dtype: str) -> Call:
    """StableDiffusionControlNetPipeline, 4 steps, no guidance, the prompt embedded beforehand."""
    import benchmarks.torchvision_operators  # noqa: F401  (before anything imports torchvision)

    # isort: split
    import torch
    from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(cross_attention_dim=768, sample_size=SIDE)
    pipeline = StableDiffusionControlNetPipeline(
        vae=_torch(_vae_diffusers(), dtype),
        text_encoder=None,
        tokenizer=None,
        unet=_torch(unet, dtype),
        controlnet=_torch(ControlNetModel.from_unet(unet), dtype),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    image, context = torch.tensor(_image().transpose(0, 3, 1, 2)), torch.tensor(_context()).to(getattr(torch, dtype))

    def run():
        return pipeline(
            image=image, prompt_embeds=context, num_inference_steps=STEPS, guidance_scale=1.0, output_type="np"
        ).images

    return run


def onnx_graph(path: str) -> Call:
    """An ONNX file in ONNX Runtime, fed with random numbers."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    random, inputs = np.random.default_rng(0), {}
    for value in session.get_inputs():
        numbers = random.normal(size=value.shape)
        inputs[value.name] = numbers.astype("float32") if "float" in value.type else np.full(value.shape, 500)
    return lambda: session.run(None, inputs)[0]


def litert_graph(path: str) -> Call:
    """A flatbuffer in LiteRT, on two threads, fed with random numbers."""
    from ai_edge_litert.interpreter import Interpreter

    runner, random = Interpreter(path, num_threads=2).get_signature_runner(), np.random.default_rng(0)
    details = runner.get_input_details()
    inputs = {name: random.normal(size=value["shape"]).astype("float32") for name, value in details.items()}
    return lambda: runner(**inputs)


def package(argument: str) -> Call:
    """An exported package, with a gray condition; the argument is FOLDER, or RUNTIME=FOLDER for another runtime."""
    from pathlib import Path

    from codi_tf.core.noise import gaussian_noise
    from export.package.manifest import read_package
    from export.runtime.run import load

    runtime, _, folder = argument.rpartition("=")
    sampler = load(read_package(Path(folder)), runtime=runtime or None)
    about = sampler.package
    condition = np.full((1, about.height, about.width, about.channels), 0.5, np.float32)
    return lambda: sampler(condition, gaussian_noise(0, about.latent_shape))


def _vae_diffusers():
    import benchmarks.torchvision_operators  # noqa: F401  (before anything imports torchvision)

    # isort: split
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    )


def _torch(module, dtype: str):
    import torch

    return module.to(getattr(torch, dtype)).eval().to(memory_format=_layout(dtype))


def _layout(dtype: str):
    """The layout in which PyTorch is faster here: channels last in float32, channels first in bfloat16."""
    import torch

    return torch.channels_last if dtype == "float32" else torch.contiguous_format


def _channels_first(array: np.ndarray, dtype: str):
    import torch

    return torch.tensor(array.transpose(0, 3, 1, 2)).to(getattr(torch, dtype)).to(memory_format=_layout(dtype))


CANDIDATES = {
    "gemm": gemm_tensorflow,
    "unet": unet,
    "unet_keras_cv": unet_keras_cv,
    "unet_diffusers": unet_diffusers,
    "decode": decode,
    "decode_tiny": decode_tiny,
    "decode_tiny_diffusers": decode_tiny_diffusers,
    "decode_keras_cv": decode_keras_cv,
    "decode_diffusers": decode_diffusers,
    "generate": generate,
    "generate_controlnet": generate_controlnet,
    "generate_diffusers": generate_diffusers,
    "onnx_graph": onnx_graph,
    "litert_graph": litert_graph,
    "package": package,
}
