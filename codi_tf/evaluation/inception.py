"""What the metrics in Inception's features share: the option that names the network, and the network itself."""

from __future__ import annotations

import functools
from pathlib import Path

from codi_tf.core.paths import as_path
from codi_tf.evaluation.metric import Extractor, Option
from codi_tf.evaluation.sharing import changed

KERAS = "keras"  # of --inception: Keras' InceptionV3 with weights that Keras downloads, or those of keras:FILE
FEW_IMAGES = "few images raise it: compare equal counts only"


class _Inception(Option):
    """--inception FILE, keras or keras:FILE."""

    def path(self, argument: str) -> Path | None:
        return None if argument == KERAS else as_path(argument.removeprefix(f"{KERAS}:"))


INCEPTION = _Inception(
    "--inception",
    "weights of the original FID network; or keras, or keras:FILE",
    f"name FID's weights, or {KERAS}",
)


def of_keras(argument: str) -> bool:
    """Whether --inception names Keras' network."""
    return argument == KERAS or argument.startswith(f"{KERAS}:")


def shared_inception(argument: str) -> Extractor:
    """The network's features, one function for all metrics of an evaluation, see `perception.inception.load_inception`.

    Raises:
        UserError: a file that cannot be read.
    """
    path = INCEPTION.path(argument)
    return _inception(argument, () if path is None else changed(path))


@functools.lru_cache(maxsize=1)
def _inception(argument: str, when: tuple) -> Extractor:
    """The network of a file of that time."""
    from codi_tf.evaluation.perception.inception import load_inception

    return load_inception(argument)
