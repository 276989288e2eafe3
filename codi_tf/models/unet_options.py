"""Checks of a UNet's options, and what they mean with prompts and without: one line for what is not built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from codi_tf.core.errors import UserError

OPTIONS = {  # of UNet2DModel -> what Stable Diffusion's networks have, and the default there
    "downsample_padding": 1,
    "norm_eps": 1e-5,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "add_attention": True,
}
ATTENTION = {True: "CrossAttn", False: "Attn"}  # whether a network takes prompts -> the beginning of a block's kind


MIDDLE_BLOCKS = {"UNetMidBlock2DCrossAttn": (2, 1), "UNetMidBlock2D": (1, 0)}  # (residual blocks, transformers)


def per_level(value, levels: int) -> list:
    """One entry for each level: those that are given, or the one that is."""
    return [value] * levels if isinstance(value, int) else list(value)


def heads_of_levels(head_dim, channels: Sequence[int], *, prompted: bool) -> list[int]:
    """The number of heads of each level, from diffusers' `attention_head_dim`.

    With prompts that is, in spite of its name, the number of heads: one number, or one per level. Without, it is the
    channels of a head; None: one head.

    Raises:
        UserError: without prompts, channels that such heads do not divide.
    """
    if prompted:
        return per_level(head_dim, len(channels))
    if head_dim is not None and (head_dim < 1 or any(width % head_dim for width in channels)):
        raise UserError(f"unet: attention_head_dim is {head_dim}: it must divide {', '.join(map(str, channels))}")
    return [1 if head_dim is None else width // head_dim for width in channels]


def middle_of(kind: str | None, add_attention: bool, *, prompted: bool) -> tuple[str | None, tuple[int, int]]:
    """The kind of a middle block, None for none, and the numbers of its residual blocks and of its attentions.

    Without prompts, diffusers has one kind, whatever its name: two residual blocks, and self-attention between them or
    not.

    Raises:
        UserError: with prompts, an unknown kind.
    """
    if kind is None:
        return None, (0, 0)
    if not prompted:
        return "UNetMidBlock2D", (2, int(add_attention))
    if kind not in MIDDLE_BLOCKS:
        raise UserError(f"unet: unknown middle block {kind!r}: use one of {', '.join(MIDDLE_BLOCKS)}")
    return kind, MIDDLE_BLOCKS[kind]


def check_block_types(side: str, kinds: Sequence[str], *, prompted: bool) -> None:
    """Raises UserError for an unknown kind of block of a side, "down" or "up"."""
    plain = f"{side.capitalize()}Block2D"
    known = (plain, ATTENTION[prompted] + plain)
    for kind in kinds:
        if kind not in known:
            raise UserError(f"unet: unknown {side} block {kind!r}: use one of {', '.join(known)}")


def check_options(values: Mapping[str, object], *, prompted: bool) -> None:
    """Raises UserError for a value of one of `OPTIONS` that is not built."""
    for name, default in OPTIONS.items():
        value = values[name]
        if prompted and value != default:
            raise UserError(f"unet: {name} is {value!r}: with prompts, only {default!r} is built here")
        if name == "norm_eps" and not (isinstance(value, int | float) and value > 0):
            raise UserError(f"unet: norm_eps is {value!r}: it must be a number above 0")
        if name in ("downsample_padding", "freq_shift") and value not in (0, 1):
            raise UserError(f"unet: {name} is {value!r}: only 0 or 1 is built here")
