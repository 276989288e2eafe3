"""Evaluation of models: metrics, perceptual networks, reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codi_tf.core.registry import Registry

if TYPE_CHECKING:
    from codi_tf.evaluation.metric import Metric

METRICS: Registry[type[Metric]] = Registry("metric", "METRICS", "codi_tf.evaluation.metrics")
