"""The bundles that come with codi_tf, on held-out scenes: a reader sees in their images what is there."""

from __future__ import annotations

import pytest

import codi_tf
from codi_tf import data
from codi_tf.evaluation.loading import named_metrics, truth_of
from codi_tf.evaluation.measuring import evaluate
from codi_tf.evaluation.samplers import model_sampler
from codi_tf.io.starter import starter_folder

BUNDLES = sorted(path.parent for path in (starter_folder() / "assets").glob("scenes-*/codi.json"))
MEASURES = ("scene_accuracy", "scene_depth")
COUNT, SEED = 8, 5


@pytest.mark.slow
@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_more_of_the_scene_is_seen_than_in_the_condition(bundle):
    """Catches a bundle that was shipped broken, for another base or in a format that loses what it has learned."""
    model = codi_tf.load(bundle)
    source, keys = data.load_source("scenes", "heldout", model.task), truth_of(MEASURES)
    examples = data.evaluation_set(source, model.task, image_size=model.image_size, count=COUNT, seed=SEED, keys=keys)
    prompts = list(examples["prompt"]) if model.settings.drop_prompt or model.task.prompted else None
    made = model_sampler(model, model.steps_for(None), seed=0, prompt=prompts)
    metrics = named_metrics(MEASURES, {"reader": str(bundle.parent / "scenes-reader")}, model.image_size)
    truth = {key: examples[key] for key in keys}
    rows = evaluate({"made": made}, examples["image"], examples["condition"], model.base, metrics, truth=truth)
    assert rows["made"]["scene_accuracy"] > rows["condition"]["scene_accuracy"]
    assert rows["made"]["scene_depth"] < rows["condition"]["scene_depth"]
