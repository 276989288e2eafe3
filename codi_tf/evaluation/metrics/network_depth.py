"""The error of the depth that a network of the user sees in the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from codi_tf.core.paths import as_path
from codi_tf.evaluation import METRICS, numerics
from codi_tf.evaluation.metric import Column, ImageSet, Metric, Option
from codi_tf.evaluation.perception.depth import MULTIPLE, SIZE, Network, OnnxNetwork, of_image, seen, size_for
from codi_tf.evaluation.scenes import DEPTH

DISTANCES = "depth:"  # before the file of a network that gives distances


class _DepthNetwork(Option):
    """--depth-network FILE or depth:FILE."""

    def path(self, argument: str) -> Path:
        return as_path(argument.removeprefix(DISTANCES))


DEPTH_NETWORK = _DepthNetwork(
    "--depth-network",
    "ONNX file of a network that estimates depth, as for codi depth; depth:FILE if it gives distances, not disparity",
    "export a depth network to ONNX",
)


@METRICS.register("network_depth")
class NetworkDepth(Metric):
    """The root mean square error of the nearness that a network sees to the true one, that of a depth condition.

    Each image's map is scaled and shifted to fit best (Ranftl et al. 2020, section 5). If the source has no depth, the
    true nearness is what the network sees in the originals.

    Args:
        network: see `perception.depth.Network`.
        size: (h, w) that it takes; None: any, as `codi depth` chooses them.
        kind: what it gives, "disparity" or "depth".
    """

    column = Column(
        "depth RMSE",
        "{:.4f}",
        "lower",
        "root mean square error of the nearness that the network of --depth-network sees, at the best scale and shift; "
        "the true one has a range of 1",
        place=55,
    )
    option = DEPTH_NETWORK
    truth = (DEPTH,)

    def __init__(self, network: Network, size: tuple[int, int] | None = None, kind: str = "disparity"):
        self.network, self.size, self.kind = network, size, kind

    @classmethod
    def load(cls, argument: str | None, image_size: int) -> NetworkDepth | None:
        if argument is None:
            return None
        network = OnnxNetwork(DEPTH_NETWORK.path(argument))
        return cls(network, network.size, "depth" if argument.startswith(DISTANCES) else "disparity")

    def reference(self, originals) -> np.ndarray:
        if DEPTH in originals.truth:
            return np.asarray(originals.truth[DEPTH])[..., 0]
        return self.maps(originals)

    def measure(self, made, originals, reference: np.ndarray) -> np.ndarray:
        return numerics.aligned_error(self.maps(made), reference)

    def maps(self, images: ImageSet) -> np.ndarray:
        """What the network sees, float32 [N, H, W] in [0, 1].

        Where the map is unknown, it is filled (`depth_files.fill_holes`). 0 for an image whose map is unknown or the
        same everywhere: one such image is no reason to end an evaluation.

        Raises:
            UserError: the network fails.
        """
        return np.stack([self._map(image) for image in images.unit])

    def _map(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        near = seen(image, self.network, self.size or size_for(height, width, SIZE, MULTIPLE), kind=self.kind)
        known = near[~np.isnan(near)]
        if known.size == 0 or np.ptp(known) == 0:
            return np.zeros((height, width), np.float32)
        return of_image(near, height, width, fill=True)
