"""Experiments as data: frozen dataclasses, read strictly from YAML.

Importing this loads no TensorFlow; reading a config loads it last, with the module of the config's method.
"""

from codi_tf.config.experiment import Experiment
from codi_tf.config.reading import from_dict, from_record, load, parse_value
from codi_tf.config.sections import STRATEGIES, Adaptation, Data, Distribution, Lora, Memory, Train, Trained

__all__ = [
    "STRATEGIES",
    "Adaptation",
    "Data",
    "Distribution",
    "Experiment",
    "Lora",
    "Memory",
    "Train",
    "Trained",
    "from_dict",
    "from_record",
    "load",
    "parse_value",
]
