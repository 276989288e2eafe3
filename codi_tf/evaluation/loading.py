"""What an evaluation reads: bundles that can be compared, and the networks that measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from codi_tf.core.errors import UserError

KERAS = "keras"  # of --inception: Keras' InceptionV3 with weights that Keras downloads, or those of keras:FILE


def load_models(paths: Sequence[Path]) -> dict:
    """label -> model of bundles that can be compared: with one task, image size and autoencoder.

    Raises:
        UserError: bundles that differ in one of these, or a part of one that cannot be read.
    """
    from codi_tf.io.weights import state_dict
    from codi_tf.model import load

    models = dict(zip(labels(paths), (load(path) for path in paths), strict=True))
    (first_path, first), *others = zip(paths, models.values(), strict=True)
    weights = state_dict(first.base.vae)
    for path, model in others:
        for name in ("task", "image_size"):
            if getattr(model, name) != getattr(first, name):
                raise UserError(f"{path} and {first_path} differ in their {name}: evaluate them one by one")
        theirs = state_dict(model.base.vae)
        if theirs.keys() != weights.keys() or not all(np.array_equal(theirs[key], weights[key]) for key in weights):
            raise UserError(f"{path} and {first_path} differ in their autoencoder: evaluate them one by one")
    return models


def labels(paths: Sequence[Path]) -> list[str]:
    """Short names: runs/NAME/result is NAME; the whole paths where these names are not unique."""
    names = [path.parent.name if path.name == "result" else path.name for path in map(Path.resolve, paths)]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def load_feature_network(folder: Path | None, image_size: int):
    """The network of FD-photos in a folder. Where there is none yet, one is trained, and kept there."""
    from codi_tf.core.progress import Progress
    from codi_tf.data import load_photos
    from codi_tf.evaluation.features import TRAINING_STEPS, load_features, save_features, train_feature_network

    if folder is not None and folder.exists():
        return load_features(folder)
    progress = Progress("training the feature network", TRAINING_STEPS)
    network = train_feature_network(load_photos("train"), image_size=image_size, report=progress.update)
    if folder is not None:
        save_features(network, folder)
    return network


def load_measures(lpips: Path | None) -> dict[str, Callable]:
    """LPIPS, if its file of weights is named: a measure of `measuring.Yardstick`. Raises UserError for a bad file."""
    if lpips is None:
        return {}
    from codi_tf.evaluation.perception.lpips import load_lpips

    return {"lpips": load_lpips(lpips).distance}


def load_text_measures(clip: Path | None) -> dict[str, Callable]:
    """The CLIP score, if the folder of a CLIP model is named: a text measure of `measuring.Yardstick`.

    Raises:
        UserError: weights that cannot be read.
    """
    if clip is None:
        return {}
    from codi_tf.evaluation.perception.clip import load_clip

    score = load_clip(clip)

    def fit(pictures, prompts):
        return score(pictures, [prompt.decode("utf-8") for prompt in prompts.numpy()])

    return {"clip_score": fit}


def load_extractors(inception: str | None) -> dict[str, Callable]:
    """The features of the FID whose weights are named, see `measuring.Yardstick`.

    Args:
        inception: see `perception.inception.load_inception`. Of the original weights, the distance is called "fid", of
            Keras' "fid_keras".

    Raises:
        UserError: weights that cannot be read.
    """
    if inception is None:
        return {}
    from codi_tf.evaluation.perception.inception import load_inception

    of_keras = inception == KERAS or inception.startswith(f"{KERAS}:")
    return {"fid_keras" if of_keras else "fid": load_inception(inception)}


def inception_file(inception: str | None) -> Path | None:
    """The file that `load_extractors` reads, None if there is none."""
    if inception is None or inception == KERAS:
        return None
    return Path(inception.removeprefix(f"{KERAS}:"))
