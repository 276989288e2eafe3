"""Compression: a smaller UNet that learns the base's output and its features, level by level (BK-SDM)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from codi_tf.adapters.adapted import AdaptedUNet
from codi_tf.checkpoints.base import Base
from codi_tf.checkpoints.kinds import UNET
from codi_tf.checkpoints.made_for import MadeFor
from codi_tf.checkpoints.networks import check_numbers
from codi_tf.core.errors import UserError
from codi_tf.diffusion import losses
from codi_tf.diffusion.conditioning import Conditioning
from codi_tf.diffusion.process import coefficients, predict
from codi_tf.io.weights import key_of
from codi_tf.methods import METHODS
from codi_tf.methods.latent import LatentMethod, load_unconditional
from codi_tf.methods.method import MethodSettings, Space
from codi_tf.methods.networks import encoded, fresh_unet
from codi_tf.models.unet import UNet

INTERFACE = ("in_channels", "out_channels", "cross_attention_dim", "time_cond_proj_dim", "num_class_embeds")
PLACE = re.compile(r"^up_blocks\.(\d+)\.(?:(resnets|attentions)\.(\d+)\.)?")


@METHODS.register("compress")
@dataclass(frozen=True)
class Compress(MethodSettings):
    """Distill the UNet of `base` into a smaller one (Kim et al. 2023, BK-SDM). The result is a base.

    The student starts with the weights of the base's matching blocks, see `compact_unet`. It learns the denoising
    loss, the base's output, and the base's features at the ends of all levels that the two have in common.

    Attributes:
        network: the arguments of `models.unet.UNet` (the keys of a diffusers unet/config.json) that differ from those
            of the base's, as {"layers_per_block": 1, "mid_block_type": null}.
        space: the space of the first two errors; the paper's is noise.
        output_weight: of the term that compares outputs.
        feature_weight: of the term that compares features; it needs levels as wide as the base's. 0: none.
    """

    network: dict = field(default_factory=dict)
    space: Space = "noise"
    output_weight: float = 1.0
    feature_weight: float = 1.0

    task_use: ClassVar = "none"

    def check(self) -> None:
        """Raises UserError without a network, for one of other inputs or outputs, and for weights out of range."""
        if not self.network:
            raise UserError("method.network is not set, for example {layers_per_block: 1, mid_block_type: null}")
        for key in INTERFACE:
            if key in self.network:
                raise UserError(f"method.network.{key} is set: the student takes and gives what the base's does")
        for name in ("output_weight", "feature_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"method.{name} is {getattr(self, name)}: it must be at least 0")
        if not self.output_weight and not self.feature_weight:
            raise UserError(
                "method.output_weight and method.feature_weight are 0: nothing is left of the base; set one"
            )

    def load(self, path: str) -> tuple[Base, AdaptedUNet]:
        """The base, and its UNet, the teacher.

        Raises:
            UserError: see `load_unconditional`; a base that takes the guidance as an input.
        """
        base = load_unconditional(path)
        assert base.unet is not None
        if base.unet.time_cond_proj_dim is not None:
            raise UserError(f"base is {path}: it takes the guidance as an input; compress the base that it comes from")
        return base, AdaptedUNet(base.unet, name="teacher")

    def build(self, base: Base, student: AdaptedUNet, perceptual: Callable | None = None) -> CompressMethod:
        """The method on a new student, for a base whose UNet, the given network's, is the teacher.

        Raises:
            UserError: `network` is not that of a UNet, or its features cannot be compared with the base's.
        """
        unet = compact_unet(student.unet, self.network)
        widths, theirs = unet.block_out_channels, student.unet.block_out_channels
        if self.feature_weight and widths != theirs[: len(widths)]:
            raise UserError(
                f"method.network.block_out_channels is {list(widths)}, the base's {list(theirs)}: features are "
                "compared where widths are equal; give the base's first levels, or set method.feature_weight to 0"
            )
        base = dataclasses.replace(base, unet=unet, path=None, made_for=MadeFor())
        return CompressMethod(self, base, AdaptedUNet(unet, name="student"), student)


class CompressMethod(LatentMethod):
    """See `losses.compression`.

    Args:
        settings: weights, and the space of the error.
        base: its UNet is the student's.
        student: the smaller network.
        frozen: the network of the base that is compressed.
    """

    settings: Compress

    def __init__(self, settings: Compress, base: Base, student: AdaptedUNet, frozen: AdaptedUNet):
        super().__init__(settings, base, student)
        self.frozen = frozen

    @property
    def terms(self) -> tuple[str, ...]:
        """The denoising loss, and those of the others that have a weight."""
        settings = self.settings
        weights = {"output_matching": settings.output_weight, "feature_matching": settings.feature_weight}
        return ("denoising", *(name for name, weight in weights.items() if weight))

    def loss_terms(self, batch, draws):
        """{term: float32 [B]} of a batch, weighted."""
        base, settings = self.base, self.settings
        x, _, conditioning = encoded(base, self.student, batch)
        found = losses.compression(
            self._evaluate(self.student, conditioning),
            self._evaluate(self.frozen, conditioning),
            base.schedule,
            x,
            draws.noise(x),
            draws.times(x, low=0, high=base.schedule.num_steps, shared=False),
            space=settings.space,
        )
        weights = {
            "denoising": 1.0,
            "output_matching": settings.output_weight,
            "feature_matching": settings.feature_weight,
        }
        return {name: weights[name] * found[name] for name in self.terms}

    def _evaluate(self, network: AdaptedUNet, conditioning: Conditioning) -> losses.DenoiseWithFeatures:
        """(z_t, t) -> the prediction, and the features of the levels that both networks have."""
        base, levels = self.base, len(self.student.unet.block_out_channels)

        def evaluate(z_t, t):
            output, features = network.unet.with_features(z_t, t, conditioning.context, conditioning.labels)
            shared = [*features[:levels], *features[-levels:]] if self.settings.feature_weight else []
            return predict(output, z_t, *coefficients(base.schedule, t), base.prediction_type), shared

        return evaluate


def compact_unet(teacher: UNet, changes: dict, name: str = "unet") -> UNet:
    """A UNet with other arguments that starts with the weights of the teacher's matching blocks.

    Levels are matched from the finest one on. In a level, the encoder's first blocks are kept, and of the decoder's the
    first ones and the last, which takes the skip of the finer level (Kim et al. 2023). What has no counterpart of its
    shape starts anew.

    Raises:
        UserError: the arguments are not those of a UNet.
    """
    check_numbers(UNET, changes, Path("method.network"))
    unet = fresh_unet(teacher, name, **changes)
    theirs = {key_of(variable, teacher): variable for variable in teacher.variables}
    for variable in unet.variables:
        source = theirs.get(counterpart(key_of(variable, unet), unet, teacher))
        if source is not None and source.shape == variable.shape:
            variable.assign(source)
    return unet


def counterpart(key: str, student: UNet, teacher: UNet) -> str:
    """The key of the teacher's weight that a weight of the student starts from, by its place alone."""
    found = PLACE.match(key)
    if found is None:
        return key
    level = int(found[1]) + len(teacher.up_blocks) - len(student.up_blocks)
    if found[2] is None:  # an upsampler
        return f"up_blocks.{level}.{key[found.end() :]}"
    block, own = int(found[3]), len(student.up_blocks[int(found[1])].resnets)
    if block + 1 == own and level >= 0:
        block = len(teacher.up_blocks[level].resnets) - 1
    return f"up_blocks.{level}.{found[2]}.{block}.{key[found.end() :]}"
