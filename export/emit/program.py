"""`SamplerProgram`: what is exported, a model with a sampler, a number of steps and fixed shapes."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.diffusion.grid import Grid
from codi_tf.diffusion.process import Denoise
from codi_tf.diffusion.sampling import make_checkpoint_grid, make_grid, sample, trajectory
from codi_tf.inference.generation import weighted
from codi_tf.inference.knobs import check_condition_scale, check_fidelity, result_of
from codi_tf.methods.networks import denoiser_with
from codi_tf.model import CoDi
from codi_tf.models.convolution import plain_convolutions
from export.emit.limits import check_steps
from export.emit.terms import Term, View, guidance_of, seen, terms_of, text_guidance_of, views_of
from export.emit.text_model import TextModel


class SamplerProgram(tf.Module):
    """image = decode(x_hat), with x_hat from the noise in `steps` steps (CoDi, Eq. 7).

    A step is one network evaluation, or up to three for a guidance that is no input of the network (`terms`). The
    condition is encoded and its features are computed once; all steps share the same weights. The task's
    `condition_from_image` and `finish` are part of the program. A text-to-image model has neither condition nor task.

    Inputs, of fixed shapes: condition float32 [1, H, W, C] in [0, 1], C 3, or 4 with a mask (1 is unknown, 0 known), if
    there is a task; noise float32 [1, h, w, 4], standard normal; and ids int32 [77], the prompt's tokens, if the task
    has prompts or there is none, and `prompt` is None. Output: image float32 [1, H, W, 3] in [0, 1].

    Args:
        model: the model that generates.
        steps: 1 to `limits.MAX_STEPS`.
        height, width: H and W, positive multiples of `model.base.multiple`.
        prompt: the prompt of every image. None: the empty one; an input for a task with prompts, and without a task.
        sampler: a registered sampler whose steps are deterministic and of first order; None: the one that the model is
            trained for.
        guidance: of every image: by the condition, or what a network takes as an input; None: the model's default.
        text_guidance: of every image, by the prompt beside a condition; None: 1, none.
        label: the class of every image, for networks with classes; None: the null class.
        condition_scale: how many times the condition counts in every image, above 0, see `AdaptedUNet.call`.
        fidelity: the share of the first step's x_hat in every image, see `knobs.result_of`. With 1, that step is the
            only one.

    Attributes:
        grid: the sampler's steps.
        terms: the evaluations of a step.
        views: what the terms see, each once: for each there are condition features.
        context: the embedded prompt, float32 [77, D]; None where it is an input.

    Raises:
        UserError: steps or a side out of these bounds; another sampler; a prompt or a guidance that the model cannot
            take.
    """

    model: CoDi | TextModel
    grid: Grid
    terms: tuple[Term, ...]
    views: list[View]

    def __init__(
        self,
        model: CoDi | TextModel,
        *,
        steps: int,
        height: int,
        width: int,
        prompt: str | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        text_guidance: float | None = None,
        label: int | None = None,
        condition_scale: float = 1.0,
        fidelity: float = 0.0,
    ):
        super().__init__(name="sampler")
        check_steps(steps)
        multiple = model.base.multiple
        if min(height, width) < multiple or height % multiple or width % multiple:
            raise UserError(f"size is {height}x{width}: both sides must be positive multiples of {multiple}")
        self.steps, self.height, self.width, self.prompt = steps, height, width, prompt
        self.sampler = model.sampler if sampler is None else sampler
        self.fidelity, grid = fidelity_of(model, fidelity), first_order_grid(model, self.sampler, steps)
        if self.fidelity == 1.0:
            grid = grid._replace(steps=(grid.steps[0]._replace(alpha_s=1.0, sigma_s=0.0),))
        object.__setattr__(self, "grid", grid)  # tf.Module would unpack it
        self.guidance, self.asked_label = guidance_of(model, guidance), label
        self.condition_scale = scale_of(model, condition_scale)
        labels = model.base.class_labels(label)
        self.label = None if labels is None else int(labels[0])
        self.latent_shape = model.latent_shape(1, height, width)
        self.time_channels = model.network.unet.time_embedding.channels
        self.context_shape = model.base.context.shape[1:]
        if prompt is None:
            taken = model.base.text_encoder is not None if model.task is None else model.task.prompted
            self.context = None if taken else np.asarray(model.base.context)[0]
        else:
            self.context = np.asarray(model.base.embed(prompt))[0]
        prompted = prompt is not None or self.context is None
        self.text_guidance = text_guidance_of(model, text_guidance, prompted=prompted)
        terms, adapter = terms_of(model, self.guidance, self.text_guidance), model.network.adapter
        self.prompt_matters = adapter is not None and adapter.condition_takes_prompt
        object.__setattr__(self, "terms", terms)
        object.__setattr__(self, "views", views_of(terms, prompt_matters=self.prompt_matters))
        self.empty_context = np.asarray(model.base.context)[0]
        object.__setattr__(self, "model", model)  # tf.Module would save the whole trainer
        # TensorFlow's variables: Keras' are not tracked by a module, and converters lose them without an error.
        self.weights = [variable.value for variable in self._variables()]

    def variables_in_use(self) -> tuple[keras.Variable, ...]:
        """All weights that the image depends on, each once; of the table of classes one row is a constant."""
        table = self.model.network.unet.class_embedding
        unused = set() if table is None else set(map(id, table.variables))
        return tuple(variable for variable in self._variables() if id(variable) not in unused)

    def _variables(self) -> tuple[keras.Variable, ...]:
        base, network = self.model.base, self.model.network
        coders = [network]
        if network.adapter is not None and network.condition_space != "image":
            coders += base.vae.encoder_parts
        coders += base.vae.decoder_parts if base.decoder is None else [base.decoder]
        coders += [] if self.context is not None else [base.text_encoder]
        return tuple(variable for part in coders for variable in part.variables)

    def inputs(self, *, batched: bool = False) -> dict[str, tf.TensorSpec]:
        """The specifications of the inputs, by name; `batched`: N in place of 1, and ids [N, 77], for N images."""
        count, specs = (None if batched else 1), {}
        if self.model.task is not None:
            condition = (count, self.height, self.width, self.model.task.condition_channels)
            specs["condition"] = tf.TensorSpec(condition, tf.float32, name="condition")
        specs["noise"] = tf.TensorSpec((count, *self.latent_shape[1:]), tf.float32, name="noise")
        if self.context is None:
            several = (None,) if batched else ()
            specs["ids"] = tf.TensorSpec((*several, *self.context_shape[:1]), tf.int32, name="ids")
        return specs

    def conditioning(self, ids=None) -> Conditioning:
        """Of the prompt: the fixed one, or that of tokens `ids`, int32 [77] or [N, 77], where prompts are inputs."""
        labels = None if self.label is None else np.array([self.label], np.int32)
        if self.context is not None:
            return Conditioning(self.context[None], labels)
        assert ids is not None and self.model.base.text_encoder is not None
        return Conditioning(self.model.base.text_encoder(ids[None] if len(ids.shape) == 1 else ids), labels)

    @property
    def mixes(self) -> bool:
        """Whether the result is made of two steps' x_hat."""
        return 0.0 < self.fidelity < 1.0 and len(self.grid.steps) > 1

    def view_of(self, term: Term) -> int:
        """The place of a term's view among `views`."""
        return self.views.index(seen(term.view, prompt_matters=self.prompt_matters))

    def features(self, c, conditioning: Conditioning) -> list:
        """The condition features of every view; c is of `CoDi.encode_condition`, None without a task."""
        network = self.model.network
        return [
            network.condition(c if view.shown or c is None else tf.zeros_like(c), self._of(view, conditioning))
            for view in self.views
        ]

    def _of(self, view: View, conditioning: Conditioning) -> Conditioning:
        return conditioning if view.prompted else conditioning._replace(context=self.empty_context[None])

    def denoiser(self, c, conditioning: Conditioning) -> Denoise:
        """The model as a function (z_t, t) -> Prediction; c is of `CoDi.encode_condition`, None without a task."""
        model, features = self.model, self.features(c, conditioning)
        scale = None if self.condition_scale == 1.0 else self.condition_scale
        options = {"guidance": self.guidance, "boundary": model.boundary, "condition_scale": scale}
        denoisers = [
            denoiser_with(
                model.base, model.network, features[self.view_of(term)], self._of(term.view, conditioning), **options
            )
            for term in self.terms
        ]
        if len(denoisers) == 1:
            return denoisers[0]
        weights = [term.weight for term in self.terms]
        return lambda z_t, t: weighted([denoise(z_t, t) for denoise in denoisers], weights)

    def image(self, condition: tf.Tensor | None, noise: tf.Tensor, ids: tf.Tensor | None = None) -> tf.Tensor:
        """Run the program; inputs and output as in the class docstring."""
        with plain_convolutions():
            condition, c = self.encoded(condition)
            denoise = self.denoiser(c, self.conditioning(ids))
            if self.mixes:
                steps = trajectory(denoise, noise, self.grid)
                latents = result_of((prediction for prediction, _ in steps), self.fidelity)
            else:
                latents = sample(denoise, noise, self.grid)
            return self.finished(tf.clip_by_value(self.model.base.decode(latents), -1.0, 1.0), condition)

    def encoded(self, condition):
        """(The condition in [-1, 1], and encoded) of a condition in [0, 1]; (None, None) without a task."""
        if isinstance(self.model, TextModel):
            return None, None
        condition = self.model.task.condition_from_image(2.0 * condition - 1.0)
        return condition, self.model.encode_condition(condition)

    def finished(self, image, condition):
        """The image in [0, 1] of a decoded one in [-1, 1]; `condition` is in [-1, 1]."""
        task = self.model.task
        return ((image if task is None else task.finish(image, condition)) + 1.0) / 2.0

    def trace(self, *, batched: bool = False):
        """A ConcreteFunction ([condition,] noise[, ids]) -> {"image"} of `inputs`, whose variables are `weights`."""

        def named(condition, noise, ids=None):
            return {"image": self.image(condition, noise, ids)}

        def without_condition(noise, ids=None):
            return {"image": self.image(None, noise, ids)}

        signature, function = (
            list(self.inputs(batched=batched).values()),
            without_condition if self.model.task is None else named,
        )
        return tf.function(function, input_signature=signature, autograph=False).get_concrete_function()

    def at(self, height: int, width: int) -> SamplerProgram:
        """The same program at another size. Raises UserError for a side that is no positive multiple."""
        names = ("steps", "prompt", "sampler", "guidance", "text_guidance", "condition_scale", "fidelity")
        options = {name: getattr(self, name) for name in names}
        options["label"] = self.asked_label
        return SamplerProgram(self.model, height=height, width=width, **options)


def scale_of(model: CoDi | TextModel, scale: float) -> float:
    """How many times the condition counts in a program. Raises UserError where there is none, or for 0."""
    if model.network.adapter is None:
        if scale != 1.0:
            raise UserError(f"condition_scale is {scale:g}: this model makes images from prompts alone; leave it out")
        return 1.0
    if scale == 0.0:
        raise UserError("condition_scale is 0: an export without its condition cannot be checked; use more")
    return check_condition_scale(scale, model.network.adapter)


def fidelity_of(model: CoDi | TextModel, fidelity: float) -> float:
    """The fidelity of a program. Raises UserError for none, or for a model without a condition to be faithful to."""
    fidelity = check_fidelity(fidelity)
    if fidelity and model.task is None:
        raise UserError(f"fidelity is {fidelity:g}: this model makes images from prompts alone; leave it out")
    return fidelity


def first_order_grid(model: CoDi | TextModel, sampler: str, steps: int) -> Grid:
    """The steps of a sampler, z_s = alpha_s x_hat + sigma_s eps_hat. Raises UserError for other steps."""
    base = model.base
    if model.task is None:
        grid = make_checkpoint_grid(sampler, base.scheduler, base.schedule, steps)
    else:
        grid = make_grid(sampler, base.schedule, steps)
    if any(step.noise or step.ratio for step in grid.steps):
        trained = " (this model is trained for it: with 1 step it can be exported)" if sampler == model.sampler else ""
        raise UserError(
            f"sampler is {sampler!r}{trained}: exported steps are deterministic and of first order; use ddim"
        )
    return grid
