"""The base classes of training methods: options for the config, networks and loss for the trainer.

Imports no TensorFlow, so that a config can be checked without it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from codi_tf.core.errors import UserError
from codi_tf.core.settings import check_choices

if TYPE_CHECKING:
    from codi_tf.checkpoints.base import Base
    from codi_tf.methods.draws import Draws

Space = Literal["noise", "signal", "velocity"]  # the space of a squared error
GuidedBy = Literal["condition", "prompt"]
RESULT_DECAY = 0.999


class MethodSettings:
    """The options of a training method, and its properties that configs, trainers and models use.

    A method is one module in `codi_tf.methods`, or one of your own:

        @METHODS.register("mine")
        @dataclass(frozen=True)
        class Mine(MethodSettings):
            weight: float = 1.0

            def build(self, base, student, perceptual=None):
                return MineMethod(self, base, student)

    Options are fields, `method.weight` in a config; a field of type Literal[...] takes only these values. Below are
    class variables. A subclass sets those that differ, or turns one into an option or a property.

    Attributes:
        needs_base: whether `base` must name a model to start from.
        task_use: "required": trains an adapted network on a task; "none": trains a network without a condition;
            "optional": either.
        examples: "latents": examples may come encoded, and with prompts; "images": images alone.
        needs: what each example must have besides its image, as "depth": keys of `Source.provides`, which batches then
            have, too. For methods whose examples are images.
        starts_from: the methods whose bundles this one continues, by name; (): starts from a base (or any bundle).
        boundary: the boundary scalings (Eq. 17) that the network is trained with, and needs to generate, too: False,
            True or "noise", see `diffusion.process.bounded`.
        drop_condition: the share of examples that are trained without their condition. Above 0, the model can be
            guided by the condition.
        drop_prompt: the share of examples that are trained with the empty prompt. Above 0, the model can be guided by
            the prompt.
        trains_text: whether a text encoder is trained: prompts are embedded in each update, and data must have them.
        learns_words: whether `load` gives a base with a new text encoder and no tokenizer. The run then learns a
            vocabulary of the text encoder's size from the prompts of the data.
        reconstructs: whether the trained network reconstructs images, see `Method.reconstruct`.
        features: the folder of a feature network, or a file of LPIPS' weights, that `build` gets as `perceptual`.
        guidance_range: [lowest, highest] guidance, of the condition or, without a task, of the prompt, that a network
            which takes it as an input is trained for; None for methods that do not train that input.
        guided: with a task, what that guidance is by.
        sampler: the sampler that the model is trained for, of `diffusion.samplers.SAMPLERS`, which generates unless
            another is named.
        sampling_steps: N, the number of network evaluations that the model is made for, which generates unless another
            is named; None: no particular one.
        reverse: whether the result leads from images to noise (`samplers.ddim.reverse_grid`), and so generates nothing.
        has_target: whether the loss compares the student with a moving average of it, theta-. Then the network that
            generates may have an average of its own.

    Raises:
        UserError: an option out of its range.
    """

    needs_base: ClassVar[bool] = True
    task_use: ClassVar[Literal["required", "optional", "none"]] = "required"
    examples: ClassVar[Literal["latents", "images"]] = "latents"
    needs: ClassVar[tuple[str, ...]] = ()
    starts_from: ClassVar[tuple[str, ...]] = ()
    boundary: ClassVar[Literal[False, True, "noise"]] = False
    drop_condition: ClassVar[float] = 0.0
    drop_prompt: ClassVar[float] = 0.0
    trains_text: ClassVar[bool] = False
    learns_words: ClassVar[bool] = False
    reconstructs: ClassVar[bool] = False
    features: ClassVar[str | None] = None
    guidance_range: ClassVar[list | None] = None
    guided: ClassVar[GuidedBy] = "condition"
    sampler: ClassVar[str] = "ddim"
    sampling_steps: ClassVar[int | None] = None
    reverse: ClassVar[bool] = False
    has_target: ClassVar[bool] = False

    def __post_init__(self):
        check_choices(self, "method.")
        self.check()

    def check(self) -> None:
        """Raises UserError for options out of their range, or that do not go together."""

    def check_steps(self, steps: int) -> None:
        """Raises UserError where the method needs more updates than `steps`, the number of the run's."""

    def phase_lengths(self, steps: int) -> tuple[int, ...]:
        """The updates of each phase of a run of `steps` updates, for `train.cycles` 0; one phase by default."""
        return (steps,)

    def check_bundle(self, bundle: Any, path: str) -> None:
        """Raises UserError for a bundle, a `CoDi`, that training cannot start from. `starts_from` holds already."""

    def load(self, path: str | None) -> tuple[Base | None, Any]:
        """What a training without a task starts from: (base, student). Not called where a task is required.

        Networks are made in Keras' current dtype policy, whose weights are float32.

        Args:
            path: the folder of the model to start from; None where the method needs no base.

        Raises:
            UserError: the folder does not hold what the method needs.
        """
        raise NotImplementedError

    def build(self, base: Base | None, student: Any, perceptual: Callable | None = None) -> Method:
        """The method on its networks.

        Args:
            base: the model to start from; its UNet is the student's. From `load` where there is no task.
            student: the network to train, an `AdaptedUNet` where there is a task.
            perceptual: the feature network of `features`, images in [-1, 1] -> list of feature maps.
        """
        raise NotImplementedError


class Method:
    """A training method with its networks. It computes the loss of a batch, by term and by example.

    Attributes:
        student: the network that is trained.
        terms: names of the loss's terms.
        base: the model that the student belongs to; None where there is none.
        target: theta-, a moving average of the student that the loss compares it with; None where there is none.
        frozen: a network that stays as it was before training; None where there is none.
        teacher: a network that changes while the student is trained, and hence belongs to the state of a run; or None.
        multiple: height and width of training images must be multiples of it.
    """

    student: Any = None
    terms: tuple[str, ...] = ()
    base: Any = None
    target: Any = None
    frozen: Any = None
    teacher: Any = None
    multiple: int = 1

    def start_target(self):
        """theta- <- theta: make `target`, and what else a training needs, and return it; None where there is none.

        Called once, before training.
        """
        return None

    def start_average(self):
        """The moving average that generates: a network with the student's weights in the same order."""
        raise NotImplementedError

    def begin_step(self, step) -> None:
        """Change the networks before update `step`, int [], inside the traced step. The default does nothing."""

    def recompute_blocks(self) -> None:
        """Turn on gradient checkpointing in the student. Raises UserError where it has none."""
        if not hasattr(self.student, "recompute_blocks"):
            raise UserError("memory.recompute is true: the network of this method has no gradient checkpointing")
        self.student.recompute_blocks()

    def check_batch(self, batch) -> None:
        """Raises UserError for a batch of tensors that `loss_terms` cannot take; called when a step is traced."""

    def loss_terms(self, batch, draws: Draws) -> dict:
        """{term: float32 [B]} of a batch, which is a part of the global one.

        Args:
            batch: {"image": float32 [B, H, W, 3], "condition": float32 [B, H, W, 3 or 4]} in [-1, 1]; where they come
                encoded, "latent" float32 [B, h, w, 4] and "condition_latent"; with prompts, "tokens" int32 [B, 77] or
                "context" float32 [B, 77, D].
            draws: the random numbers of the update.
        """
        raise NotImplementedError

    def result(self, average) -> Base:
        """The base that a training without a task ends in, for methods whose examples are latents."""
        raise NotImplementedError

    def reconstruct(self, average, images):
        """Images float32 [B, H, W, 3] in [-1, 1] -> what the trained network makes of them, about [-1, 1].

        For methods whose settings say `reconstructs`.
        """
        raise NotImplementedError

    def save(self, average, folder: Path, first_batch: Callable[[], dict]) -> None:
        """Write the result of a training without a task. With a task, the result is a bundle.

        Args:
            average: the moving average, trained.
            folder: an empty folder.
            first_batch: gives the run's first batch.
        """
        raise NotImplementedError


def check_delta(delta: int) -> None:
    """Raises UserError for a distance between two training times that is not positive."""
    if delta < 1:
        raise UserError(f"method.delta is {delta}: it must be at least 1 training time")


def result_decay_of(name: str, decay: float | None, settings: MethodSettings) -> float:
    """The decay of the result's own moving average: as given; None: 0.999 with a target network, else 0 for none.

    Raises:
        UserError: a decay above 0 for a method without a target network, whose one average is the result.
    """
    if decay is None:
        return RESULT_DECAY if settings.has_target else 0.0
    if decay and not settings.has_target:
        raise UserError(
            f"{name} is {decay}: this method has no target network, so its moving average is the result; use ema_decay"
        )
    return float(decay)


def check_share(name: str, share: float) -> None:
    """Raises UserError for a share outside [0, 1)."""
    if not 0 <= share < 1:
        raise UserError(f"{name} is {share}: it must be in [0, 1)")


def check_features(name: str, distance: str, features: str | None) -> None:
    """Raises UserError for a perceptual distance without its feature network."""
    if distance == "perceptual" and features is None:
        raise UserError(f"{name} is 'perceptual': set method.features to the folder of a feature network")


def check_perceptual(weight: float, features: str | None) -> None:
    """Raises UserError for a negative weight of a perceptual term, or one of weight and features without the other."""
    if weight < 0:
        raise UserError(f"method.perceptual_weight is {weight}: it must be at least 0")
    if (weight > 0) != (features is not None):
        raise UserError(f"method.perceptual_weight is {weight}, method.features {features}: set both, or neither")
