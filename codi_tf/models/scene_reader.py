"""The network that reads scenes: which objects an image shows, on which floor, in which light, and how near all is."""

from __future__ import annotations

from typing import NamedTuple

import keras
from keras import ops

from codi_tf.models.layers import Conv2D, GroupNorm, PointwiseConv2D, ResnetBlock, built_for_maps, upsample_nearest

CELL = 4  # pixels along each side of a cell, for which the network says what it shows
EPSILON = 1e-5


class Reading(NamedTuple):
    """What the network reads in images of S x S pixels, float32. A cell has CELL x CELL pixels; h = w = S / CELL.

    Attributes:
        objects: [B, h, w, N + 1], logits of which object a cell shows, from left to right; the last is none.
        nearness: [B, h, w, 1] in [0, 1], inverse distance.
        cells: attribute -> [B, h, w, values], logits for each cell.
        attributes: attribute -> [B, N, values], logits for each object: their mean over the object's cells.
        scene: what is true of the whole scene -> [B, values], logits; "count" is that of 1 to N objects.
    """

    objects: keras.KerasTensor
    nearness: keras.KerasTensor
    cells: dict
    attributes: dict
    scene: dict


class SceneReader(keras.Model):
    """Images [B, S, S, 3] in [-1, 1] -> `Reading`; S is a multiple of 16.

    A U-shaped network of residual blocks. Its maps are 1/4, 1/8 and 1/16 of the image's side; one way back leads to the
    cells. The smallest map says what is true of the whole scene, and tells the cells.

    Args:
        objects: N, the most objects.
        attributes: attribute of an object -> number of its values.
        scene: what is true of the whole scene, besides the count -> number of its values.
        stem: channels at 1/2 of the image's side.
        widths: channels of the maps, largest map first, each a multiple of `groups`.
        blocks: the number of residual blocks of each map on the way down; on the way back each has one.
        groups: of the group normalization.
    """

    multiple = 16

    def __init__(
        self,
        *,
        objects: int,
        attributes: dict[str, int],
        scene: dict[str, int],
        stem: int = 24,
        widths=(48, 96, 128),
        blocks: int = 2,
        groups: int = 8,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.objects, self.attributes, self.scene = objects, dict(attributes), {"count": objects, **scene}
        self.widths, self.blocks, self.groups = tuple(widths), blocks, groups
        if len(self.widths) != 3:
            raise ValueError(f"widths must be those of three maps, not {self.widths}")
        first, *deeper = self.widths

        def block(width: int, name: str) -> ResnetBlock:
            return ResnetBlock(width, width, groups=groups, epsilon=EPSILON, name=name)

        self.stem = [Conv2D(stem, strides=2, name="stem.0"), Conv2D(stem, name="stem.1")]
        self.shrink = [Conv2D(width, strides=2, name=f"shrink.{i}") for i, width in enumerate(self.widths)]
        self.down = [[block(w, f"down.{i}.{j}") for j in range(blocks)] for i, w in enumerate(self.widths)]
        self.whole_norm = GroupNorm(self.widths[-1], groups, EPSILON, name="whole_norm")
        self.spread = keras.layers.Dense(self.widths[-1], name="spread")
        self.narrow = [PointwiseConv2D(width, name=f"narrow.{i}") for i, width in enumerate(self.widths[:-1])]
        self.up = [block(width, f"up.{i}") for i, width in enumerate(self.widths[:-1])]
        self.norm = GroupNorm(first, groups, EPSILON, name="norm")
        self.cell_head = Conv2D(objects + 1 + 1 + sum(self.attributes.values()), name="cell_head")
        self.scene_head = keras.layers.Dense(sum(self.scene.values()), name="scene_head")

    def build(self, input_shape=None):
        first = self.stem[0].filters
        built_for_maps(self.stem[0], 3)
        built_for_maps(self.stem[1], first)
        for i, width in enumerate(self.widths):
            built_for_maps(self.shrink[i], self.widths[i - 1] if i else first)
            for block in self.down[i]:
                built_for_maps(block, width)
        for i, width in enumerate(self.widths[:-1]):
            built_for_maps(self.narrow[i], self.widths[i + 1])
            built_for_maps(self.up[i], width)
        built_for_maps(self.whole_norm, self.widths[-1])
        built_for_maps(self.norm, self.widths[0])
        built_for_maps(self.cell_head, self.widths[0])
        for dense in (self.spread, self.scene_head):
            dense.build((None, 2 * self.widths[-1]))

    def call(self, images) -> Reading:
        maps = self._maps(images)
        whole = self._whole(maps[-1])
        x = maps[-1] + ops.reshape(self.spread(whole), (-1, 1, 1, self.widths[-1]))
        for i in reversed(range(len(self.up))):
            x = self.up[i](maps[i] + upsample_nearest(self.narrow[i](x)))
        of_cells = ops.cast(self.cell_head(self.norm(x, silu=True)), "float32")  # [B, h, w, .]
        objects, nearness, *values = _divided(of_cells, [self.objects + 1, 1, *self.attributes.values()])
        cells = dict(zip(self.attributes, values, strict=True))
        shares = ops.softmax(objects, axis=-1)[..., :-1]
        scene = _divided(ops.cast(self.scene_head(whole), "float32"), list(self.scene.values()))
        return Reading(
            objects=objects,
            nearness=ops.sigmoid(nearness),
            cells=cells,
            attributes={name: means(logits, shares) for name, logits in cells.items()},
            scene=dict(zip(self.scene, scene, strict=True)),
        )

    def features(self, images):
        """Images [B, S, S, 3] in [-1, 1] -> [B, D], what the network reads the whole scene from."""
        return ops.cast(self._whole(self._maps(images)[-1]), "float32")

    def _maps(self, images) -> list:
        """The maps of 1/4, 1/8 and 1/16 of the images' side."""
        x, maps = images, []
        for conv in self.stem:
            x = ops.silu(conv(x))  # [B, S/2, S/2, stem]
        for shrink, blocks in zip(self.shrink, self.down, strict=True):
            x = shrink(x)
            for block in blocks:
                x = block(x)
            maps.append(x)
        return maps

    def _whole(self, deepest):
        """Mean and maximum of the smallest map: [B, 2 C]."""
        x = self.whole_norm(deepest, silu=True)
        return ops.concatenate([ops.mean(x, axis=(1, 2)), ops.max(x, axis=(1, 2))], axis=-1)

    def get_config(self):
        scene = {name: count for name, count in self.scene.items() if name != "count"}
        keys = ("name", "objects", "attributes", "widths", "blocks", "groups")
        return {**{key: getattr(self, key) for key in keys}, "scene": scene, "stem": self.stem[0].filters}


def means(values, shares):
    """The means of a map [B, h, w, C] over each of N objects, by the objects' shares of cells [B, h, w, N]: [B, N, C].

    An object that no cell shows has means of 0.
    """
    height, width, channels = values.shape[1:]
    flat = ops.reshape(values, (-1, height * width, channels))
    weights = ops.reshape(shares, (-1, height * width, shares.shape[-1]))
    weights = weights / (ops.sum(weights, axis=1, keepdims=True) + 1e-6)
    return ops.matmul(ops.transpose(weights, (0, 2, 1)), flat)


def _divided(values, sizes: list[int]) -> list:
    """The parts of the last axis, of these sizes."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [values[..., start : start + size] for start, size in zip(starts, sizes, strict=True)]
