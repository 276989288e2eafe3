"""`CoDi`: a pre-trained latent diffusion model, adapted, trained, sampled, saved."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path

import numpy as np
import tensorflow as tf

from codi_tf import config
from codi_tf.checkpoints.adapters import Adapter, check_adapter, kind_of, make_adapter, read_adapter, write_adapter
from codi_tf.checkpoints.base import Base
from codi_tf.checkpoints.folder import save_base
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.core.arguments import as_prompts, whole_number
from codi_tf.core.errors import UserError
from codi_tf.core.formats import check_format
from codi_tf.core.noise import gaussian_noise
from codi_tf.diffusion.process import Denoise
from codi_tf.diffusion.sampling import few_step
from codi_tf.inference.generation import Generator, check_finite
from codi_tf.io import images
from codi_tf.io.files import whole_folder
from codi_tf.io.hashing import folder_sha256
from codi_tf.io.json_files import read_json, write_json
from codi_tf.methods.codi import CodiMethod
from codi_tf.methods.consistency import ConsistencyMethod
from codi_tf.methods.finetune import FinetuneMethod
from codi_tf.methods.guided import GuidanceMethod, HalvingMethod
from codi_tf.methods.method import Method
from codi_tf.methods.networks import copy_of, denoiser_with, encode_condition, fresh_unet, with_guidance
from codi_tf.models.adapter import AdaptedUNet
from codi_tf.models.tiny_decoder import TinyDecoder
from codi_tf.tasks import TASKS, Task, make_task
from codi_tf.trainers.trainer import Trainer

BUNDLE = "codi.json"


class CoDi(Trainer):
    """An adapted latent diffusion model that `compile`, `fit`, `generate` and `save` work on.

    Training "all" changes the weights of the base that it was made with.

    Args:
        base: from `load_stable_diffusion`; its UNet becomes part of the model.
        adapter: "mu" (Eq. 12), "controlnet", "t2i", or an adapter that is there already (`load_controlnet`,
            `load_t2i_adapter`, that of another model).
        train: "all" (CoDi) or "adapter" (PE-CoDi: the base's weights stay as they are, and may be in half precision).
        method: `config.ConditionalDistillation` (CoDi, the default), `Finetune` (the undistilled model), `Consistency`
            or `Guided`; the last two go on from an adapter that was fine-tuned.
        task: what the condition is: a task from `codi_tf.tasks`, or its name. None: super-resolution.
        ema_decay: gamma of theta-, the target network, which is also the network that generates.
        mu_rate: learning rate of mu as a multiple of the others'.
        seed: seed of all draws of the loss.
        accumulate, scaled: see `trainer.Trainer`.
        image_size: side of the training crops; the default size of an export.
        perceptual: feature network of the perceptual distances, images in [-1, 1] -> list of feature maps.
        pretrained: whether the UNet keeps its weights; False: it starts from random ones.

    Raises:
        UserError: for an unknown option, or a base without a UNet.
    """

    def __init__(
        self,
        base: Base,
        adapter: str | Adapter = "mu",
        train: str = "all",
        *,
        method: config.Finetune | config.ConditionalDistillation | config.Consistency | config.Guided | None = None,
        task: Task | str | None = None,
        ema_decay: float = 0.95,
        mu_rate: float = 30.0,
        seed: int = 0,
        accumulate: int = 1,
        scaled: bool = False,
        image_size: int = 64,
        perceptual=None,
        pretrained: bool = True,
        name: str = "codi",
    ):
        settings, task = method or config.ConditionalDistillation(), task or "super_resolution"
        task = make_task(task) if isinstance(task, str) else task
        if isinstance(adapter, str) and isinstance(settings, config.Consistency | config.Guided):
            raise UserError(
                "this method goes on from a fine-tuned model: give its base and adapter=tuned.student.adapter"
            )
        kind = adapter if isinstance(adapter, str) else kind_of(adapter)
        adaptation = config.Adaptation(adapter=kind, train=train, mu_rate=mu_rate, pretrained=pretrained)
        _check_base(base, train)
        if not pretrained:
            if not isinstance(adapter, str):
                raise UserError(
                    "pretrained is False, but the adapter was trained for another UNet: name one to be made"
                )
            base = dataclasses.replace(base, unet=fresh_unet(base.unet, "unet"), path=None)
        base.unet.trainable = train == "all"
        if train == "all":
            base.path = None  # what is there is no longer what is here
        if isinstance(adapter, str):
            adapter = make_adapter(adapter, base, task.condition_channels)
        check_adapter(adapter, base, task.condition_channels)
        runs, base = _make_method(settings, base, adapter, perceptual)
        options = {"ema_decay": ema_decay, "mu_rate": mu_rate, "seed": seed}
        super().__init__(runs, accumulate=accumulate, scaled=scaled, **options, name=name)
        self.base, self.settings, self.adaptation = base, settings, adaptation
        self.task, self.image_size = task, image_size
        self._generator = None

    @property
    def network(self) -> AdaptedUNet:
        """The network that generates: theta- once there is one, the student before."""
        return self.student if self.average is None else self.average

    @property
    def boundary(self) -> bool:
        """Whether the network carries the boundary scalings (Eq. 17)."""
        return getattr(self.settings, "boundary", False)

    @property
    def can_be_guided(self) -> bool:
        """Whether a guidance other than 1 means anything to this model."""
        return self.network.takes_guidance or getattr(self.settings, "drop_condition", 0.0) > 0.0

    @property
    def lowest_guidance(self) -> float:
        """The guidance that a network which takes one was trained for, from here on; 1, none, for the others."""
        trained = isinstance(self.settings, config.Guided) and self.network.takes_guidance
        return float(self.settings.guidance[0]) if trained else 1.0

    @property
    def generator(self) -> Generator:
        """The compiled parts that generate; made again when another network generates."""
        if self._generator is None or self._generator.network is not self.network:
            guidance = self.lowest_guidance
            self._generator = Generator(self.base, self.network, boundary=self.boundary, guidance=guidance)
        return self._generator

    def encode_condition(self, images):
        """c, what the adapter takes of condition images [B, H, W, 3 or 4] in [-1, 1]: their latents or the images."""
        return encode_condition(self.base, self.network, images)

    def denoiser(self, c, context=None) -> Denoise:
        """(z_t, t) -> Prediction for a condition (see `see`), whose features are computed here, once.

        `context` are embedded prompts [1 or B, 77, D]; None: an empty one.
        """
        context = self.base.context if context is None else context
        features, guidance = self.network.condition(c, context), self.lowest_guidance
        return denoiser_with(self.base, self.network, features, context, guidance=guidance, boundary=self.boundary)

    def sample_latents(self, c, noise, *, steps: int, context=None):
        """A condition (see `see`) and noise [B, h, w, 4] -> clean latents, in `steps` network evaluations, unrolled."""
        return few_step(self.denoiser(c, context), noise, self.base.schedule, steps)

    def generate_step(self, condition, noise, steps: int, context=None):
        """Condition [B, H, W, 3 or 4] in [-1, 1], noise [B, h, w, 4] -> images [B, H, W, 3] in [-1, 1]; compiled.

        H and W must be multiples of `base.multiple`. `context` are embedded prompts [1 or B, 77, D]; None: an empty
        one.
        """
        context = tf.constant(self.base.context if context is None else context)
        images = self.generator.decode(self.generator.latents(condition, noise, context, steps=steps))
        return self.task.finish(images, condition)

    def generate(
        self,
        condition,
        prompt: str | Sequence[str] | None = None,
        *,
        steps: int = 4,
        seed: int = 0,
        sampler: str = "ddim",
        guidance: float | None = None,
        text_guidance: float | None = None,
        report: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Images for condition images.

        Args:
            condition: uint8, or float in [0, 1], [B, H, W, C] or [H, W, C], C the task's `condition_channels`; of any
                size: it is padded inside.
            prompt: one for all images, or one an image; only for a base with a text encoder.
            steps: network evaluations, 1 to the number of training times.
            seed: the same seed gives the same noise in every runtime.
            sampler: "ddim" (Eq. 7, for most models), "dpm", "dpm++", "stochastic" or "consistency": see `sampling`.
            guidance: 1 is none. For models of guided distillation, and for models that were fine-tuned with
                `drop_condition`: those need two evaluations a step then.
            text_guidance: 1, the default, is none. The prompt's, for models that were fine-tuned with `drop_prompt`:
                one more evaluation a step.
            report: is called with the number of steps that are done.

        Returns:
            uint8 [B, H, W, 3] (or [H, W, 3]), of the condition's size.

        Raises:
            UserError: for a condition of another shape or type, a bad number of steps, seed, sampler or guidance, or a
                useless prompt; a result that is not finite.
        """
        steps = whole_number("steps", steps, 1, self.base.schedule.num_steps)
        batch = images.as_batch("condition", condition, channels=self.task.condition_channels)
        if prompt is None and self.task.prompted:
            raise UserError('this model does what a prompt says: give one, or "" for none')
        context = tf.constant(self.base.context if prompt is None else self._embed(prompt, len(batch)))
        padded = [images.pad_to_multiple(image, self.base.multiple) for image in batch]
        inputs = np.asarray(self.task.condition_from_image(np.stack([2.0 * image - 1.0 for image, _ in padded])))
        noise = gaussian_noise(seed, self.latent_shape(*inputs.shape[:3]))
        options = {"steps": steps, "sampler": sampler, "guidance": self.check_guidance(guidance), "seed": seed}
        options["text_guidance"] = self.check_text_guidance(text_guidance, prompted=prompt is not None)
        z = self.generator.latents(tf.constant(inputs), tf.constant(noise), context, report=report, **options)
        check_finite(z)
        outputs = np.asarray(self.task.finish(check_finite(self.generator.decode(z)), inputs))
        height, width = batch.shape[1:3]
        result = images.to_uint8((outputs[:, :height, :width] + 1.0) / 2.0)
        return result[0] if np.ndim(condition) == 3 else result

    def check_guidance(self, guidance: float | None) -> float | None:
        """The guidance as the generator takes it. Raises UserError for one that this model knows nothing of."""
        if guidance is None:
            return None
        if not isinstance(guidance, Real) or not math.isfinite(guidance):
            raise UserError(f"guidance is {guidance!r}: it must be a number, 1 for none")
        if self.network.takes_guidance and isinstance(self.settings, config.Guided):
            low, high = self.settings.guidance
            if not low <= guidance <= high:
                raise UserError(f"guidance is {guidance}: this model was trained for {low} to {high}")
        elif guidance != 1.0 and not self.can_be_guided:
            raise UserError(f"guidance is {guidance}: this model was trained without; use 1 or leave it out")
        return float(guidance)

    def check_text_guidance(self, guidance: float | None, *, prompted: bool) -> float | None:
        """The prompt's guidance as the generator takes it. Raises UserError for one that this model cannot take."""
        knows = getattr(self.settings, "drop_prompt", 0.0) > 0.0
        if guidance is None:
            return 1.0 if knows and prompted else None
        if not isinstance(guidance, Real) or not math.isfinite(guidance):
            raise UserError(f"text_guidance is {guidance!r}: it must be a number, 1 for none")
        if guidance != 1.0 and not prompted:
            raise UserError(f"text_guidance is {guidance}: there is no prompt to be guided by; give one or use 1")
        if guidance != 1.0 and not knows:
            raise UserError(f"text_guidance is {guidance}: this model was trained without (method.drop_prompt); use 1")
        return float(guidance) if knows and prompted else None

    def _embed(self, prompt: str | Sequence[str], count: int) -> np.ndarray:
        prompts = as_prompts(prompt)
        if len(prompts) not in (1, count):
            raise UserError(f"{len(prompts)} prompts for {count} images: give one, or one an image")
        return self.base.embed(prompts)

    def task_config(self) -> dict:
        """The task as plain data: its name and options, as in a config."""
        return _named(self.task, TASKS)

    def latent_shape(self, count: int, height: int, width: int) -> tuple[int, int, int, int]:
        """The shape of the latents of `count` images."""
        factor = self.base.vae.factor
        return (count, height // factor, width // factor, self.base.vae.latent_channels)

    def condition_use(self, latent, c, context=None):
        """How much the output moves when conditions are swapped: ||w(z_t, c) - w(z_t, c')|| / ||w(z_t, c)||.

        c' are the conditions of the neighbours in the batch, t is 3/4 of the schedule, the noise is always the same.
        0 means that the condition is ignored. Takes latents [B, h, w, 4], B at least 2, conditions (see `see`) and
        embedded prompts [1 or B, 77, D], None for an empty one; returns a float32 scalar.
        """
        schedule = self.base.schedule
        t = 3 * schedule.num_steps // 4
        eps = tf.random.stateless_normal(tf.shape(latent), (0, 0))
        z_t = float(schedule.alpha[t]) * latent + float(schedule.sigma[t]) * eps
        context = tf.constant(self.base.context if context is None else context)
        guidance = tf.constant([self.lowest_guidance])
        features = self.network.condition(c, context)
        swapped = [tf.roll(feature, 1, axis=0) for feature in features]
        told, untold = (
            self.generator.denoise(z_t, tf.constant(t), f, context, guidance).v_hat for f in (features, swapped)
        )
        return tf.norm(told - untold) / tf.norm(told)

    def save(self, filepath, overwrite: bool = True, *, dtype: str = "float32", provenance: dict | None = None) -> None:
        """Write the bundle: a folder in the diffusers layout, with `adapter/` and `codi.json`, whole or not at all.

        PE-CoDi of a base that was read from a diffusers folder, as it is there, holds the adapter alone and names the
        base by path and SHA-256.

        Args:
            filepath: the folder.
            overwrite: whether a bundle that is there is replaced.
            dtype: "float32", "float16" or "bfloat16", of the weights on disk.
            provenance: anything about the making of it that is to be kept.

        Raises:
            UserError: the folder is there and is no bundle, or must not be replaced; an unknown dtype.
        """
        path = Path(filepath)
        check_format("dtype", dtype)
        if path.exists() and not is_bundle(path):
            raise UserError(f"{path}: exists and is no bundle; choose another place")
        if path.exists() and not overwrite:
            raise UserError(f"{path}: exists; allow overwriting or choose another place")
        adapter_alone = self.adaptation.train == "adapter" and self.base.path is not None
        with whole_folder(path) as folder:
            network = self.network
            write_adapter(network.adapter, folder / "adapter", dtype=dtype)
            if not adapter_alone:
                save_base(dataclasses.replace(self.base, unet=network.unet), folder, dtype=dtype)
            write_json(
                folder / BUNDLE,
                {
                    "format": 1,
                    "method": _named(self.settings, config.METHODS),
                    "task": self.task_config(),
                    "adaptation": dataclasses.asdict(self.adaptation),
                    "ema_decay": self.ema_decay,
                    "seed": self.seed,
                    "image_size": self.image_size,
                    "base": _reference(self.base.path) if adapter_alone else None,
                    "provenance": provenance or {},
                },
            )


def is_bundle(path: str | Path) -> bool:
    """Whether a folder holds a bundle."""
    return (Path(path) / BUNDLE).is_file()


def load(
    path: str | Path, *, compute: str = "float32", weights: str = "float32", decoder: TinyDecoder | None = None
) -> CoDi:
    """Read a bundle. Executes nothing from it: safetensors and JSON only.

    Args:
        path: the folder.
        compute: the format of activations, "float32", "bfloat16" or "float16".
        weights: the format that the base's weights are kept in; below float32 only if the adapter alone is trained.
        decoder: from `load_decoder`, takes the place of the autoencoder's decoder.

    Raises:
        UserError: for a folder that is no bundle, or a missing, truncated or foreign part; an unknown format; a decoder
            of other latents.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such bundle; train one or name another")
    about = read_json(path / BUNDLE)
    try:
        if about["format"] != 1:
            raise UserError(f"{path / BUNDLE}: format {about['format']!r} is not known; update codi_tf")
        options = dict(about["method"])
        settings = config.METHODS[options.pop("name")](**options)
        task_options = dict(about["task"])
        task = make_task(task_options.pop("name"), **task_options)
        adaptation, reference = about["adaptation"], about["base"]
        kept = {key: about[key] for key in ("ema_decay", "seed", "image_size")}
        kept["mu_rate"] = adaptation["mu_rate"]
        source = path if reference is None else _referenced(path, reference)
        base = load_stable_diffusion(source, compute=compute, weights=weights)
        base = dataclasses.replace(base, decoder=decoder)
        _check_base(base, adaptation["train"])
        adapter = read_adapter(adaptation["adapter"], path / "adapter", base, task.condition_channels)
        model = CoDi(base, adapter, adaptation["train"], method=settings, task=task, **kept)
        started = adaptation.get("pretrained", True)
        model.adaptation = dataclasses.replace(model.adaptation, pretrained=started)  # it says how it was trained
        return model
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path / BUNDLE}: incomplete or of another version ({error}); make the bundle again") from None


def _check_base(base: Base, train: str) -> None:
    if base.unet is None:
        raise UserError("the base has an autoencoder but no UNet: pre-train one first, or name another base")
    if base.unet.in_channels != base.vae.latent_channels:
        raise UserError(
            f"the base's UNet takes {base.unet.in_channels} channels, a latent has {base.vae.latent_channels}: "
            "start from a text-to-image model; its adapter brings the condition"
        )
    if train == "all" and base.unet.variable_dtype != "float32":
        raise UserError(
            f"the base's weights are {base.unet.variable_dtype}: load it with weights='float32' to train it, "
            "or train='adapter'"
        )


def _make_method(settings, base: Base, adapter, perceptual) -> tuple[Method, Base]:
    """The method on the adapted network, and the base whose UNet is that network's."""
    student = AdaptedUNet(base.unet, adapter, name="student")
    if isinstance(settings, config.Finetune):
        return FinetuneMethod(settings, base, student), base
    if isinstance(settings, config.ConditionalDistillation):
        return CodiMethod(settings, base, student, perceptual), base
    if isinstance(settings, config.Consistency):
        return ConsistencyMethod(settings, base, student, perceptual), base
    if settings.stage == 2:
        if list(settings.guidance) != [1.0, 1.0] and not student.takes_guidance:
            raise UserError(
                f"method.guidance is {settings.guidance}: this model takes none; distil it with stage 1 first"
            )
        return HalvingMethod(settings, base, student), base
    if student.takes_guidance:
        return GuidanceMethod(settings, base, student, None), base
    if not base.unet.trainable:
        raise UserError("method guided, stage 1, gives the UNet a new input: it needs train 'all'")
    taught = copy_of(student, "frozen")
    base = dataclasses.replace(base, unet=with_guidance(base.unet, "unet"))
    return GuidanceMethod(settings, base, AdaptedUNet(base.unet, adapter, name="student"), taught), base


def _reference(path: Path) -> dict:
    return {"path": str(path.resolve()), "sha256": folder_sha256(path)}


def _referenced(bundle: Path, reference: dict) -> Path:
    source = Path(reference["path"])
    if not source.is_dir():
        raise UserError(f"{bundle}: needs its base, and {source} is missing; put it back or edit base.path in {BUNDLE}")
    if folder_sha256(source) != reference["sha256"]:
        raise UserError(f"{bundle}: its base {source} has changed since; put back the one it was trained on")
    return source


def _named(settings, kinds: dict[str, type]) -> dict:
    name = next(name for name, kind in kinds.items() if isinstance(settings, kind))
    return {"name": name, **dataclasses.asdict(settings)}
