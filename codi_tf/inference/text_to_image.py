"""Images from prompts, or from an image and a prompt: Stable Diffusion, unchanged or by guided distillation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf

from codi_tf.checkpoints.base import Base, check_takes_latents
from codi_tf.core.arguments import as_prompts, whole_number
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.core.replicas import Compiled
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.diffusion.grid import Grid, sdedit_grid, sdedit_start
from codi_tf.diffusion.process import coefficients, predict
from codi_tf.diffusion.sampling import guided, make_checkpoint_grid, trajectory
from codi_tf.diffusion.scheduler_config import is_reverse
from codi_tf.inference.generation import check_finite
from codi_tf.inference.rendering import MAX_SIDE, pixel_limit, working_size
from codi_tf.io.images import as_batch, to_uint8


class TextToImage:
    """Generates images with a base. Compiled once for each shape, for any number of steps.

    A network that takes the guidance as an input (guided distillation, latent consistency models) is evaluated once a
    step, any other with guidance on a doubled batch.

    Args:
        base: with a UNet, a text encoder and a tokenizer; or with a UNet that is conditioned on classes, or that takes
            no prompts at all (`Base.unconditional`).

    Raises:
        UserError: for a base without them, whose UNet takes more than the latents (inpainting, InstructPix2Pix), or
            that leads from images to noise.
    """

    def __init__(self, base: Base):
        if base.unet is None or (base.text_encoder is None and not base.num_classes and not base.unconditional):
            missing = "UNet" if base.unet is None else "text encoder"
            raise UserError(f"this model has no {missing}: it makes no images from prompts")
        check_takes_latents(base, "this model's", "make a bundle of it by codi convert --task, or name another model")
        if is_reverse(base.scheduler):
            raise UserError("this model leads from images to noise, and makes none: use codi transfer")
        self.base, self._unet = base, base.unet
        self.encode = Compiled(self._encode)
        self.decode = Compiled(self._decode)
        self.denoise = Compiled(self._denoise)
        self.denoise_guided = Compiled(self._denoise_guided)

    def generate(
        self,
        prompts: str | Sequence[str] | None = None,
        *,
        labels: int | Sequence[int] | None = None,
        negative_prompt: str = "",
        sampler: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        image: np.ndarray | None = None,
        strength: float = 0.8,
        report: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Images for prompts, or for classes.

        With `image`, SDEdit (Meng et al. 2022; guided distillation, section 4.2.3): the image's latent is noised to
        the time that `strength` selects, and int(steps * strength) steps follow from there.

        Args:
            prompts: B of them, or one; None for a base that is conditioned on classes alone, or on nothing.
            labels: the classes, B of them, or one; None: the null class.
            negative_prompt: replaces the empty prompt, which guidance leads away from; not for networks that take the
                guidance as an input.
            sampler: "dpm++", "dpm", "ddim", "ddpm", "stochastic" or "lcm", with the checkpoint's times
                (`sampling.make_checkpoint_grid`). None: the one that the base is made for, "dpm++" unless distilled.
            steps: of the whole grid; each evaluates the network once. None: those that the base is made for, or 20.
            guidance: diffusers' guidance_scale, at least 1; 1 is none (`sampling.guided`). None: 7.5, or the nearest
                that a distilled network was trained for.
            seed: the same seed gives the same noise everywhere.
            height, width: multiples of `base.multiple`; by default those that the checkpoint was trained on. An image
                has its own.
            image: [H, W, 3] for all prompts, or [B, H, W, 3], uint8 or float in [0, 1].
            strength: above 0 and at most 1.
            report: is called with the number of steps that are done.

        Returns:
            uint8 [B, H, W, 3].

        Raises:
            UserError: for an unsuitable argument; a result that is not finite.
        """
        made_for, count = self.base.made_for, self.count(prompts, labels)
        sampler = made_for.sampler if sampler is None else sampler
        grid = self.grid(sampler, made_for.steps if steps is None else steps)
        guidance = made_for.check_guidance(guidance)
        if image is None:
            height, width = self.size(height, width)
        else:
            if height is not None or width is not None:
                raise UserError("the image has its own height and width: leave these out, or resize the image")
            image = as_batch("image", image)
            if len(image) not in (1, count):
                raise UserError(f"there are {len(image)} images for {count} prompts: give one, or one a prompt")
            try:
                height, width = self.size(*image.shape[1:3])
            except UserError as error:
                raise UserError(f"image: {error}; resize it") from None
            image = np.broadcast_to(image, (count, height, width, 3))
            grid = sdedit_grid(grid, strength)
        factor = self.base.vae.factor
        shape = (count, height // factor, width // factor, self.base.vae.latent_channels)
        z = noise = tf.constant(gaussian_noise(seed, shape))
        asked = {"labels": labels, "negative_prompt": negative_prompt}
        conditioning = self.conditioning(prompts, guidance=guidance, **asked)
        if image is not None:
            x = self.encode(tf.constant(2.0 * image - 1.0, tf.float32))
            z = sdedit_start(x, noise, grid)
        fresh = (gaussian_noise(seed, shape, stream=i + 1) for i in range(grid.draws))
        z = self.latents(z, conditioning, grid, guidance=guidance, noise=fresh, report=report)
        # One by one: decoding takes the most memory, and a batch is no faster.
        check_finite(z)
        images = np.concatenate([check_finite(self.decode(z[i : i + 1])) for i in range(count)])
        return to_uint8((images + 1.0) / 2.0)

    def grid(self, sampler: str, steps: int) -> Grid:
        """The sampler's time grid, as diffusers makes it from the checkpoint's scheduler_config.json.

        Raises:
            UserError: a number of steps out of its range, or see `sampling.make_checkpoint_grid`.
        """
        steps = whole_number("steps", steps, 1, self.base.schedule.num_steps)
        return make_checkpoint_grid(sampler, self.base.scheduler, self.base.schedule, steps)

    def size(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """Height and width of an image; None: as the checkpoint was trained.

        Raises:
            UserError: no multiples of `base.multiple`, or more than memory allows (`rendering.pixel_limit`).
        """
        size = self._side("height", height), self._side("width", width)
        limit, multiple = pixel_limit(self.base), self.base.multiple
        if size[0] * size[1] > limit:
            sides = (max(side // multiple, 1) * multiple for side in working_size(*size, limit))
            largest = "height {}, width {}".format(*sides)
            raise UserError(
                f"height {size[0]}, width {size[1]} takes too much memory: the largest of this shape is {largest}"
            )
        return size

    def _side(self, name: str, side: int | None) -> int:
        trained, multiple = self._unet.sample_size, self.base.multiple
        if side is None:
            if trained is None:
                raise UserError(f"this model does not say which size it was trained for: give {name}")
            side = trained * self.base.vae.factor
        side = whole_number(name, side, 1, MAX_SIDE)
        if side % multiple:
            below = side // multiple * multiple
            near = f"{below} and {below + multiple}" if below > 0 else str(multiple)
            raise UserError(f"{name} is {side}: it must be a multiple of {multiple}; nearest: {near}")
        return side

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance is an input of the network."""
        return self._unet.time_cond_proj_dim is not None

    def check_negative_prompt(self, prompt: str, guidance: float) -> None:
        """Raises UserError for a negative prompt that would have no effect."""
        if prompt and self.base.text_encoder is None:
            raise UserError("this model has no text encoder: leave the negative prompt out")
        if prompt and self.takes_guidance:
            raise UserError(
                "a negative prompt has no effect: this model takes the guidance as an input, trained with the empty "
                "prompt; leave it out"
            )
        if prompt and guidance == 1.0:
            raise UserError("a negative prompt has no effect with guidance 1: raise that or leave the prompt out")

    def count(self, prompts: str | Sequence[str] | None, labels: int | Sequence[int] | None) -> int:
        """B, the number of images. Raises UserError for prompts and labels that are not as many, or neither."""
        if prompts is None and labels is None and self.base.unconditional:
            return 1
        if prompts is None and (labels is None or not self.base.num_classes):
            raise UserError(
                "there is no prompt: give one"
                if not self.base.num_classes
                else f"there is no label: give one, from 0 to {self.base.num_classes - 1}"
            )
        known, texts = self.base.class_labels(labels), 1 if prompts is None else len(as_prompts(prompts))
        classes = 1 if labels is None or known is None else len(known)
        if 1 not in (classes, texts) and classes != texts:
            raise UserError(f"there are {classes} labels for {texts} prompts: give one, or as many")
        return max(classes, texts)

    def conditioning(
        self,
        prompts: str | Sequence[str] | None = None,
        *,
        labels: int | Sequence[int] | None = None,
        negative_prompt: str = "",
        guidance: float,
    ) -> Conditioning:
        """That of the prompts and classes, of batch size B.

        Where guidance doubles the batch it is 2 B, first B times that of the negative prompt and the null class.

        Raises:
            UserError: a guidance that the model does not take, a negative prompt without effect, or see `Base.embed`
                and `Base.class_labels`.
        """
        guidance, count = self.base.made_for.check_guidance(guidance), self.count(prompts, labels)
        texts = [] if prompts is None else as_prompts(prompts)
        self.base.warn_of_unknown_words([*texts, negative_prompt])
        self.check_negative_prompt(negative_prompt, guidance)
        given = self.base.class_labels(labels)
        if guidance == 1.0 or self.takes_guidance:
            return Conditioning(self.base.conditioning(texts or None).context, given)
        places = [0] * count + [1 + i % len(texts) for i in range(count)] if texts else [0]
        context = self.base.conditioning([negative_prompt, *texts] if texts else None).context[places]
        if given is not None:
            given = np.concatenate([np.full(count, self.base.num_classes, np.int32), np.resize(given, count)])
        return Conditioning(context, given)

    def latents(
        self,
        z,
        conditioning: Conditioning,
        grid: Grid,
        *,
        guidance: float,
        noise: Iterable = (),
        report: Callable[[int], None] | None = None,
    ) -> tf.Tensor:
        """Latents z float32 [B, h, w, 4] at the grid's first time -> clean latents; one network evaluation per step.

        Args:
            z: pure noise, or from `grid.sdedit_start`.
            conditioning: from `conditioning`, with the same guidance.
            grid: from `grid`.
            guidance: see `generate`.
            noise: `grid.draws` tensors of the shape of z, for a stochastic sampler.
            report: is called with the number of steps that are done.
        """
        conditioning, scale = conditioning.tensors(), tf.constant(guidance, tf.float32)

        def denoise(z_t, t):
            if self.takes_guidance:
                return self.denoise(z_t, t, conditioning, scale)
            if guidance == 1.0:
                return self.denoise(z_t, t, conditioning)
            return self.denoise_guided(z_t, t, conditioning, scale)

        for done, (_, z_s) in enumerate(trajectory(denoise, z, grid, noise), start=1):
            latents = z_s
            if report is not None:
                report(done)
        return latents

    def _encode(self, images):
        return self.base.encode(images)

    def _decode(self, latents):
        return tf.clip_by_value(self.base.decode(latents), -1.0, 1.0)

    def _denoise(self, z_t, t, conditioning, scale=None):
        taken = None if scale is None else scale[None]
        return self._predict(self._unet(z_t, t[None], conditioning.context, taken, conditioning.labels), z_t, t)

    def _denoise_guided(self, z_t, t, conditioning, scale):
        context, labels = conditioning
        outputs = self._unet(tf.concat([z_t, z_t], axis=0), t[None], context, None, labels)  # [2 B, h, w, 4]
        unconditional, conditional = tf.split(outputs, 2, axis=0)
        return self._predict(guided(unconditional, conditional, scale), z_t, t)

    def _predict(self, output, z_t, t):
        return predict(output, z_t, *coefficients(self.base.schedule, t), self.base.prediction_type)
