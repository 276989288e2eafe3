"""Data: sources of examples, and the batches that training takes from them."""

from codi_tf.data.photos import EXTENSIONS, PHOTOS, load_folder, load_photos
from codi_tf.data.pipeline import Source, batches, crops, evaluation_set
from codi_tf.data.windows import Photos, recoloured

__all__ = [
    "EXTENSIONS",
    "PHOTOS",
    "Photos",
    "Source",
    "batches",
    "crops",
    "evaluation_set",
    "load_folder",
    "load_photos",
    "recoloured",
]
