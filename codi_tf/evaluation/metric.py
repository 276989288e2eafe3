"""The base class of metrics, which says how a metric is computed, shown in a report and chosen by the user.

A metric is one class in one file. Tables, curves, JSON files and the options of `codi evaluate` are derived from it:

    @METRICS.register("worst")
    class Worst(Metric):
        column = Column("worst pixel", better="lower", note="largest difference to the original")

        def measure(self, made, originals, reference):
            return np.abs(made.images - originals.images).max(axis=(1, 2, 3))
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from codi_tf.core.errors import UserError
from codi_tf.core.paths import as_path
from codi_tf.evaluation import numerics
from codi_tf.evaluation.samplers import in_batches

LEVEL = 0.9  # of all intervals
FEW = 256  # features: with more, a Frechet distance takes seconds, and its interval has fewer replicates

Extractor: TypeAlias = Callable  # images float32 [B, H, W, 3] in [-1, 1] -> features [B, D]


@dataclass(frozen=True)
class Column:
    """The column of a metric in tables.

    Attributes:
        title: of the column.
        format: of its figures.
        better: the direction; "" for none.
        note: the description in the legend.
        place: columns are sorted by this number.
    """

    title: str
    format: str = "{:.4g}"
    better: Literal["higher", "lower", "1 is best", ""] = ""
    note: str = ""
    place: int = 100


@dataclass(frozen=True)
class Option:
    """An option of `codi evaluate` that names the weights of a metric. Metrics can share an option.

    Attributes:
        flag: as "--lpips".
        help: its line in the help.
        remedy: the end of the error message for a missing file, as "name the weights of LPIPS".
        folder: whether it names a folder, not a file.
        made: whether the metric creates what is missing.
        default: gives what is named where the option is left out, or None; no function: nothing is.
    """

    flag: str
    help: str
    remedy: str = ""
    folder: bool = False
    made: bool = False
    default: Callable[[], str | None] | None = None

    @property
    def key(self) -> str:
        """The option's name in metrics.json and in parsed arguments."""
        return self.flag.lstrip("-").replace("-", "_")

    def path(self, argument: str) -> Path | None:
        """The file or folder that an argument names; None if it names neither."""
        return as_path(argument)

    def check(self, argument: str) -> None:
        """Raise UserError for a file or folder that is missing."""
        path = self.path(argument)
        if path is None or self.made or (path.is_dir() if self.folder else path.is_file()):
            return
        raise UserError(f"{self.flag} is {argument}: no such {'folder' if self.folder else 'file'}; {self.remedy}")


@dataclass(frozen=True)
class ImageSet:
    """N images, one for each original.

    Attributes:
        images: float32 [N, H, W, 3] in [-1, 1].
        latents: float32 [N, h, w, 4], clean.
        batch: how many images a network takes at a time.
    """

    images: np.ndarray
    latents: np.ndarray
    batch: int
    _features: dict[Extractor, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    @functools.cached_property
    def unit(self) -> np.ndarray:
        """The images in [0, 1], [N, H, W, 3]."""
        return (np.asarray(self.images) + 1) / 2

    def features(self, extractor: Extractor) -> np.ndarray:
        """The images' features, [N, D]: computed once, whichever metrics ask for them.

        Args:
            extractor: images float32 [B, H, W, 3] in [-1, 1] -> features [B, D].
        """
        if extractor not in self._features:
            self._features[extractor] = in_batches(extractor, self.batch)(self.images)
        return self._features[extractor]


@dataclass(frozen=True)
class Originals(ImageSet):
    """The originals that images are compared with.

    Attributes:
        reconstructions: the originals through the autoencoder, float32 [N, H, W, 3] in [-1, 1].
        prompts: the prompts of the images, [N]; None without prompts.
        truth: what else the source says of the images, N rows each: what metrics name in `Metric.truth`, if it has it.
    """

    reconstructions: np.ndarray
    prompts: Sequence[str] | None = None
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)


class Metric:
    """Base class of metrics, of single images or of a set. An instance holds the networks that it measures with.

    Attributes:
        column: the column in tables.
        option: the option that turns it on; None: it is always measured.
        needs_prompts: whether it compares images with prompts.
        needs_instructions: whether it is for tasks whose prompts are instructions alone.
        truth: what it takes of the source's examples besides the images, keys of `data.Source.provides`.
        needs_truth: whether it is left out where the source lacks one of these.
        per_image: whether it is a mean over values of single images, which reports then hold, too.
    """

    column: ClassVar[Column]
    option: ClassVar[Option | None] = None
    needs_prompts: ClassVar[bool] = False
    needs_instructions: ClassVar[bool] = False
    truth: ClassVar[tuple[str, ...]] = ()
    needs_truth: ClassVar[bool] = False
    per_image: ClassVar[bool] = True

    @classmethod
    def load(cls, argument: str | None, image_size: int) -> Metric | None:
        """Load the metric; None if its option was not given.

        Args:
            argument: of the option; None if it was not given.
            image_size: side of the images that the models were trained on.

        Raises:
            UserError: weights that cannot be read.
        """
        return cls()

    def reference(self, originals: Originals) -> np.ndarray | None:
        """Compute the metric's values of the originals, N rows, once; None if it needs none."""
        return None

    def measure(self, made: ImageSet, originals: Originals, reference: np.ndarray | None) -> np.ndarray:
        """Compute the values of the images, [N], or features [N, D] if the metric is not `per_image`.

        Raises:
            UserError: the images are too small for the metric.
        """
        raise NotImplementedError

    def aggregate(self, values: np.ndarray, reference: np.ndarray | None) -> float:
        """The figure of the whole set, from what `measure` and `reference` gave: by default the mean of the values."""
        return float(np.mean(values))

    def interval(self, values: np.ndarray, reference: np.ndarray | None) -> tuple[float, float]:
        """The interval of the figure (90 %): by default a bootstrap of the mean over the images."""
        return numerics.mean_interval(values, level=LEVEL)


class FrechetDistance(Metric):
    """The Frechet distance of the images' features to those of the originals (Heusel et al. 2017, Eq. 6).

    Args:
        extractor: images float32 [B, H, W, 3] in [-1, 1] -> features [B, D].
    """

    per_image = False

    def __init__(self, extractor: Extractor):
        self.extractor = extractor

    def reference(self, originals: Originals) -> np.ndarray:
        return originals.features(self.extractor)

    def measure(self, made: ImageSet, originals: Originals, reference: np.ndarray | None) -> np.ndarray:
        return made.features(self.extractor)

    def aggregate(self, values: np.ndarray, reference: np.ndarray) -> float:
        return numerics.frechet_distance(values, reference)

    def interval(self, values: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
        replicates = 100 if values.shape[1] <= FEW else 20
        return numerics.frechet_interval(values, reference, replicates=replicates, level=LEVEL)
