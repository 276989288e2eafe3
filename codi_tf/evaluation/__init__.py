"""How good images are: metrics, perceptual networks, reports."""

from codi_tf.core.registry import Registry

METRICS = Registry("metric", "METRICS", "codi_tf.evaluation.metrics")
