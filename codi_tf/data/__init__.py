"""Data: sources of examples, and batches of them for training."""

from codi_tf.data.folder_pairs import read_folder_pair
from codi_tf.data.in_memory import Photos, recolored
from codi_tf.data.pairs import read_pairs, write_pairs
from codi_tf.data.photos import PHOTOS, load_photos
from codi_tf.data.pipeline import ONE_HOST, Source, batches, counted_keys, crops, evaluation_set, training_prompts
from codi_tf.data.sources import load_source
from codi_tf.io.bundle_files import is_pairs
from codi_tf.io.image_files import EXTENSIONS

__all__ = [
    "EXTENSIONS",
    "ONE_HOST",
    "PHOTOS",
    "Photos",
    "Source",
    "batches",
    "counted_keys",
    "crops",
    "evaluation_set",
    "is_pairs",
    "load_photos",
    "load_source",
    "read_folder_pair",
    "read_pairs",
    "recolored",
    "training_prompts",
    "write_pairs",
]
