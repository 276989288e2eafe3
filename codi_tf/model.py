"""`CoDi`: a pre-trained latent diffusion model, adapted, trained, sampled, saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from codi_tf.adapters import ADAPTERS
from codi_tf.adapters.adapted import AdaptedUNet, Adapter
from codi_tf.bundle import Contents, describe, read_bundle, write_bundle
from codi_tf.checkpoints.base import Base
from codi_tf.config import Adaptation, Lora, Trained
from codi_tf.core.arguments import prompts_for, whole_number
from codi_tf.core.errors import UserError
from codi_tf.core.formats import FloatFormat, StoredFormat
from codi_tf.core.noise import gaussian_noise
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.diffusion.process import Boundary, Denoise
from codi_tf.diffusion.sampling import few_step
from codi_tf.inference.generation import Generator, check_finite, condition_use, number_of_steps, start_images
from codi_tf.inference.guidance import check_guidance, check_text_guidance
from codi_tf.inference.knobs import check_condition_scale, check_fidelity
from codi_tf.io import images
from codi_tf.io.bundle_files import model_at
from codi_tf.io.json_files import check_plain
from codi_tf.methods.batches import check_condition
from codi_tf.methods.codi import ConditionalDistillation
from codi_tf.methods.method import MethodSettings, result_decay_of
from codi_tf.methods.networks import check_adaptable, denoiser_with, encode_condition, fresh_unet, networks_of
from codi_tf.methods.sharing import note_use
from codi_tf.models.low_rank import LoraWeights
from codi_tf.models.tiny_decoder import TinyDecoder
from codi_tf.tasks import Task, make_task, task_config
from codi_tf.trainers.trainer import Trainer


class CoDi(Trainer):
    """An adapted latent diffusion model: a keras.Model with `compile`, `fit`, `generate` and `save`.

    A model trains copies: the base and the adapter that you pass stay unchanged, so you can make several models from
    one base, in any order. Networks that a model does not train are shared with the base.

    Args:
        base: from `load_stable_diffusion`, or that of another model.
        adapter: the name of a new adapter (`adapters.ADAPTERS`), as "mu" (Eq. 12), or an existing adapter
            (`load_controlnet`, `load_t2i_adapter`, that of another model).
        train: "all" (CoDi) or "adapter" (PE-CoDi: the base's weights stay as they are, and may be in half precision).
        method: options of a method: `ConditionalDistillation` (CoDi, the default), `Finetune` (the undistilled model),
            `Consistency` or `Guided`, which start from a fine-tuned adapter, or a registered method of your own.
        task: what the condition is: a task of `codi_tf.tasks` or your own, or its name; None: super-resolution.
        ema_decay: gamma of theta-, the target network; for methods without one, of the network that generates.
        result_decay: that of an average of its own that generates; 0: theta- does. None: 0.999 beside a target network.
        mu_rate: the learning rate of mu, as a multiple of that of the other weights.
        lora: options of changes of the UNet that are trained with train "adapter" (`config.Lora`), or an existing LoRA,
            that of another model's `student.lora`.
        seed: seed of all draws of the loss.
        accumulate, scaled: see `trainers.trainer.Trainer`; scaled None: where the base computes in float16.
        image_size: side of the training crops; the default size of an export.
        perceptual: feature network of the perceptual distances, images in [-1, 1] -> list of feature maps.
        pretrained: whether the UNet keeps its weights; False: it starts from random ones.
        copy: whether what is trained is copied first. False saves memory: the given networks themselves are trained,
            and no other model may use them.

    Raises:
        UserError: an unknown option, a base without a UNet, or a task or method that is not registered and hence could
            not be saved.
    """

    def __init__(
        self,
        base: Base,
        adapter: str | Adapter = "mu",
        train: Trained = "all",
        *,
        method: MethodSettings | None = None,
        task: Task | str | None = None,
        ema_decay: float = 0.95,
        result_decay: float | None = None,
        mu_rate: float = 30.0,
        lora: Lora | LoraWeights | None = None,
        seed: int = 0,
        accumulate: int = 1,
        scaled: bool | None = None,
        image_size: int = 64,
        perceptual=None,
        pretrained: bool = True,
        copy: bool = True,
        name: str = "codi",
    ):
        settings, task = method or ConditionalDistillation(), task or "super_resolution"
        task = make_task(task) if isinstance(task, str) else task
        if isinstance(adapter, str) and settings.starts_from:
            raise UserError(
                "this method starts from a fine-tuned model: give its base and adapter=tuned.student.adapter"
            )
        kind = adapter if isinstance(adapter, str) else ADAPTERS.name_of(type(adapter))
        others = {"pretrained": bool(pretrained), "lora": None if lora is None else Lora(**lora.settings())}
        adaptation = Adaptation(adapter=kind, train=train, mu_rate=float(mu_rate), **others)
        image_size = whole_number("image_size", image_size, 1, 2**31 - 1)
        # Refuse now what `save` would refuse after training.
        describe(settings, task, adaptation, ema_decay=0.0, result_decay=0.0, seed=0, image_size=image_size)
        result_decay = result_decay_of("result_decay", result_decay, settings)
        check_adaptable(base, train)
        if not pretrained:
            if not isinstance(adapter, str):
                raise UserError(
                    "pretrained is False, but the adapter was trained for another UNet: name a new one instead"
                )
            base, copy = dataclasses.replace(base, unet=fresh_unet(base.unet, "unet"), path=None), False
        channels = task.condition_channels
        given = None if isinstance(adapter, str) else adapter
        made = ADAPTERS[adapter].for_base(base, channels) if isinstance(adapter, str) else adapter
        made.check(base, channels)
        check_plain(f"adapter {kind}", made.get_config())
        base, own, changes = networks_of(base, given, train, lora=lora, copy=copy)
        assert base.unet is not None
        made = made if own is None else own
        student = AdaptedUNet(base.unet, made, train, lora=changes, has_mask=task.has_mask, name="student")
        runs = settings.build(base, student, perceptual)
        base = runs.base  # the method may have changed its UNet
        scaled = student.compute_dtype == "float16" if scaled is None else scaled
        options = {"mu_rate": mu_rate, "seed": seed, "accumulate": accumulate, "scaled": scaled, "name": name}
        super().__init__(runs, ema_decay=ema_decay, result_decay=result_decay, **options)
        self.base, self.settings, self.adaptation = base, settings, adaptation
        self.task, self.image_size = task, image_size
        self._generator = None
        note_use(base.unet, self, trained=train == "all")
        for part in self.student.trained_parts():
            note_use(part, self, trained=True)

    @property
    def network(self) -> AdaptedUNet:
        """The network that generates: the moving average once there is one, the student before."""
        return self.student if self.average is None else self.average

    @property
    def scaled_parameters(self) -> list:
        """The adapter's parameters that learn at `mu_rate` times the rate."""
        return self.student.adapter.scaled_parameters

    @property
    def boundary(self) -> Boundary:
        """The boundary scalings that the network carries (Eq. 17), see `process.bounded`."""
        return self.settings.boundary

    @property
    def can_be_guided(self) -> bool:
        """Whether a guidance other than 1 has an effect that the model was trained for."""
        return self.network.takes_guidance or self.settings.drop_condition > 0.0

    @property
    def guidance_range(self) -> list | None:
        """[lowest, highest] guidance of a network that takes it as an input and was trained to; None for others."""
        return self.settings.guidance_range if self.network.takes_guidance else None

    @property
    def lowest_guidance(self) -> float:
        """The lowest guidance in `guidance_range`; 1, none, where there is no range."""
        return 1.0 if self.guidance_range is None else float(self.guidance_range[0])

    @property
    def sampler(self) -> str:
        """The sampler that the model is trained for, which generates unless another is named."""
        return self.settings.sampler

    def steps_for(self, steps: int | None) -> int:
        """The number of network evaluations that `generate` makes, see `number_of_steps`."""
        return number_of_steps(steps, self.settings.sampling_steps, self.base.schedule.num_steps)

    @property
    def generator(self) -> Generator:
        """The compiled functions that generate; made anew when the network changes."""
        if self._generator is None or self._generator.network is not self.network:
            guidance = self.lowest_guidance
            self._generator = Generator(self.base, self.network, boundary=self.boundary, guidance=guidance)
        return self._generator

    def encode_condition(self, images):
        """c, what the adapter takes of condition images [B, H, W, 3 or 4] in [-1, 1]: their latents or the images."""
        return encode_condition(self.base, self.network, images)

    def denoiser(self, c, conditioning: Conditioning | None = None) -> Denoise:
        """(z_t, t) -> Prediction for a condition (see `encode_condition`), whose features are computed here, once.

        `conditioning` is that of the prompts (`base.conditioning`), of batch size 1 or B; None: of an empty one.
        """
        conditioning = self.base.conditioning() if conditioning is None else conditioning
        features, guidance = self.network.condition(c, conditioning), self.lowest_guidance
        options = {"guidance": guidance, "boundary": self.boundary}
        return denoiser_with(self.base, self.network, features, conditioning, **options)

    def sample_latents(self, c, noise, *, steps: int, conditioning: Conditioning | None = None):
        """Condition (see `encode_condition`), noise [B, h, w, 4] -> clean latents, by `steps` unrolled DDIM steps."""
        return few_step(self.denoiser(c, conditioning), noise, self.base.schedule, steps)

    def generate_step(self, condition, noise, steps: int, conditioning: Conditioning | None = None):
        """Condition [B, H, W, 3 or 4] in [-1, 1], noise [B, h, w, 4] -> images [B, H, W, 3] in [-1, 1]; compiled.

        By DDIM. H and W must be multiples of `base.multiple`. `conditioning` is that of the prompts, of batch size 1 or
        B; None: of an empty one.
        """
        conditioning = self.base.conditioning() if conditioning is None else conditioning
        images = self.generator.decode(self.generator.latents(condition, noise, conditioning, steps=steps))
        return self.task.finish(images, condition)

    def generate(
        self,
        condition,
        prompt: str | Sequence[str] | None = None,
        *,
        steps: int | None = None,
        seed: int = 0,
        sampler: str | None = None,
        guidance: float | None = None,
        text_guidance: float | None = None,
        condition_scale: float = 1.0,
        fidelity: float = 0.0,
        image: np.ndarray | None = None,
        strength: float = 0.8,
        report: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Images for condition images. With `image`, SDEdit: sampling starts from it, noised, in place of noise.

        Args:
            condition: uint8, or float in [0, 1], [B, H, W, C] or [H, W, C], C the task's `condition_channels`; of any
                size: it is padded inside.
            prompt: one for all images, or one per image; only for a base with a text encoder.
            steps: network evaluations, 1 to the number of training times; None: those that the model is made for.
            seed: the same seed gives the same noise in every runtime.
            sampler: "ddim" (Eq. 7), "dpm", "dpm++", "ddpm", "stochastic", "consistency", or another of
                `diffusion.samplers.SAMPLERS`. None: the one that the model is trained for (`sampler`), which is "ddim"
                but for consistency distillation and for stochastic guided distillation.
            guidance: by the condition; 1 is none. For models of guided distillation (by the prompt, if that is what
                they were distilled for), and for models that were fine-tuned with `drop_condition`, which then need two
                evaluations per step.
            text_guidance: by the prompt; 1, the default, is none. For models that were fine-tuned with `drop_prompt`:
                one more evaluation per step.
            condition_scale: how many times the condition counts, 0 to 10; not for concatenation.
            fidelity: 0 is the last step's image, 1 the first step's, smooth and closest to the condition.
            image: where SDEdit starts, [H, W, 3] for all or [B, H, W, 3], of the condition's size; None: noise.
            strength: above 0 and at most 1: the share of the steps that is left, see `grid.sdedit_grid`.
            report: is called with the number of steps done.

        Returns:
            uint8 [B, H, W, 3] (or [H, W, 3]), of the condition's size.

        Raises:
            UserError: a condition of another shape or type, a bad number of steps, seed, sampler, guidance or other
                option, a missing or useless prompt, a result that is not finite.
        """
        steps = self.steps_for(steps)
        batch = images.as_batch("condition", condition, channels=self.task.condition_channels)
        if prompt is None and self.task.prompted:
            raise UserError('this model edits images by a prompt: give one, or "" for none')
        conditioning = self.base.conditioning() if prompt is None else self._conditioning(prompt, len(batch))
        padded = [images.pad_to_multiple(image, self.base.multiple) for image in batch]
        inputs = np.asarray(self.task.condition_from_image(np.stack([2.0 * image - 1.0 for image, _ in padded])))
        noise = gaussian_noise(seed, self.latent_shape(*inputs.shape[:3]))
        sampler = self.sampler if sampler is None else sampler
        options = {"steps": steps, "sampler": sampler, "guidance": self.check_guidance(guidance), "seed": seed}
        options["text_guidance"] = self.check_text_guidance(text_guidance, prompted=prompt is not None)
        options["condition_scale"] = check_condition_scale(condition_scale, self.network.adapter)
        options["fidelity"] = check_fidelity(fidelity)
        if image is not None:
            start = start_images(image, batch.shape, self.base.multiple)
            options |= {"image": start, "strength": strength}
        z = self.generator.latents(tf.constant(inputs), tf.constant(noise), conditioning, report=report, **options)
        check_finite(z)
        outputs = np.asarray(self.task.finish(check_finite(self.generator.decode(z)), inputs))
        height, width = batch.shape[1:3]
        result = images.to_uint8((outputs[:, :height, :width] + 1.0) / 2.0)
        return result[0] if np.ndim(condition) == 3 else result

    def check_guidance(self, guidance: float | None) -> float | None:
        """The guidance as the generator takes it. Raises UserError for one that the model was not trained for."""
        return check_guidance(guidance, self.guidance_range, can_be_guided=self.can_be_guided)

    def check_text_guidance(self, guidance: float | None, *, prompted: bool) -> float | None:
        """The guidance by the prompt as the generator takes it, None for none. Raises UserError if it has no effect."""
        as_input = self.network.takes_guidance and self.settings.guided == "prompt"
        trained = self.settings.drop_prompt > 0.0
        return check_text_guidance(guidance, trained=trained, prompted=prompted, as_input=as_input)

    def _conditioning(self, prompt: str | Sequence[str], count: int) -> Conditioning:
        prompts = prompts_for(count, prompt)
        if not self.task.prompted:  # a task's own prompts, as instructions, are no captions
            self.base.warn_of_unknown_words(prompts)
        return self.base.conditioning(prompts)

    def check_batch(self, batch: dict) -> None:
        """Raises UserError for a batch without an image, its condition, or the prompts that the task needs."""
        super().check_batch(batch)
        check_condition(
            batch,
            channels=self.task.condition_channels,
            adapter_channels=self.student.adapter.input_channels(self.base, self.task.condition_channels),
            space=self.student.condition_space,
            factor=self.base.vae.factor,
        )
        if self.task.prompted and not {"tokens", "context"} & batch.keys():
            raise UserError("this task edits images by a prompt: a batch needs tokens, of base.tokenizer(prompts)")

    def task_config(self) -> dict:
        """The task as plain data: its name and options, as in a config."""
        return task_config(self.task)

    def latent_shape(self, count: int, height: int, width: int) -> tuple[int, int, int, int]:
        """The shape of the latents of `count` images of `height` x `width` pixels."""
        factor = self.base.vae.factor
        return (count, height // factor, width // factor, self.base.vae.latent_channels)

    def condition_use(self, latent, c, conditioning: Conditioning | None = None):
        """How much the output changes when conditions are swapped, see `generation.condition_use`.

        Takes latents [B, h, w, 4], B at least 2, conditions (see `encode_condition`) and the prompts' conditioning,
        None for an empty prompt; returns a float32 scalar.
        """
        conditioning = self.base.conditioning() if conditioning is None else conditioning
        return condition_use(self.generator, latent, c, conditioning, self.lowest_guidance)

    def save(
        self, filepath, overwrite: bool = True, *, dtype: StoredFormat = "float32", provenance: dict | None = None
    ) -> None:
        """Write the bundle: a folder in the diffusers layout, with `adapter/` and `codi.json`, whole or not at all.

        PE-CoDi of an unchanged base from a diffusers folder is saved as the adapter alone, which names the base by path
        and SHA-256.

        Args:
            filepath: the folder.
            overwrite: whether an existing bundle is replaced.
            dtype: of the weights on disk, see `bundle.write_bundle`: "float32", "float16", "bfloat16", "int8", "int4".
            provenance: notes on how the model was made, plain data.

        Raises:
            UserError: the folder exists and is no bundle, or must not be replaced; an unknown dtype.
        """
        contents = Contents(
            base=dataclasses.replace(self.base, unet=self.network.unet),
            adapter=self.network.adapter,
            lora=self.network.lora,
            settings=self.settings,
            task=self.task,
            adaptation=self.adaptation,
            ema_decay=self.ema_decay,
            result_decay=self.result_decay,
            seed=self.seed,
            image_size=self.image_size,
        )
        write_bundle(contents, filepath, overwrite=overwrite, dtype=dtype, provenance=provenance)


def load(
    path: str | Path,
    *,
    compute: FloatFormat = "float32",
    weights: FloatFormat = "float32",
    decoder: TinyDecoder | None = None,
    loras: Sequence[tuple[str | Path, float]] = (),
    merge: bool = False,
) -> CoDi:
    """Read a bundle: safetensors and JSON, no code.

    Args:
        path: the folder; that of the run whose result it is; the name of a bundle that comes with codi_tf; or a folder
            of diffusers, see `bundle.from_checkpoint`.
        compute: the format of activations, "float32", "bfloat16" or "float16".
        weights: the format of the base's weights; below float32 only if the adapter alone is trained.
        decoder: from `load_decoder`, takes the place of the autoencoder's decoder.
        loras: (path, scale) of LoRAs to merge into the base, see `Base.load_lora`.
        merge: whether the LoRA that was trained becomes a part of the UNet: for sampling and export, not for training.

    Raises:
        UserError: no bundle, or a missing, truncated or foreign part; an unknown format; a decoder of other latents; a
            task or method that is not registered.
    """
    options = {"compute": compute, "weights": weights, "decoder": decoder, "loras": loras, "merge": merge}
    bundle = read_bundle(model_at(path), **options)
    model = CoDi(
        bundle.base,
        bundle.adapter,
        bundle.adaptation.train,
        method=bundle.settings,
        task=bundle.task,
        ema_decay=bundle.ema_decay,
        result_decay=bundle.result_decay,
        mu_rate=bundle.adaptation.mu_rate,
        lora=bundle.lora,
        seed=bundle.seed,
        image_size=bundle.image_size,
        copy=False,  # no other model uses the networks that were just read
    )
    model.adaptation = bundle.adaptation  # how it was trained; `pretrained` cannot be given with an adapter
    return model
