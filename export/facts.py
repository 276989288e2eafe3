"""What a manifest says of programs and their graphs."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from codi_tf.tasks import Task, task_config
from export.emit import sampler
from export.emit.program import SamplerProgram
from export.formats import FORMATS
from export.formats.form import Form
from export.package.schema import KIND, OTHERS, TEXT_TO_IMAGE, VERSION

TOKENIZER = "tokenizer"


def facts_of(programs: Sequence[SamplerProgram], graphs: Sequence[dict], format: str, form: Form) -> dict:
    """The facts of programs of one model, one for each size.

    Args:
        programs: the programs.
        graphs: of each program, by name: "file", "inputs", "outputs", and "signature" where a file holds several.
        format, form: of the graphs.
    """
    first, *others = (_facts_of_size(*pair) for pair in zip(programs, graphs, strict=True))
    facts = {**_facts(programs[0], format, form), **_neutral(programs[0], first), **first}
    return {**facts, OTHERS: others} if others else facts


def _facts_of_size(program: SamplerProgram, graphs: dict) -> dict:
    size = [program.height, program.width]
    image = {"shape": [1, *size, 3], "dtype": "float32", "range": [0, 1], "layout": "NHWC, RGB"}
    task, inputs = program.model.task, {}
    if task is not None:
        masked = image | {"shape": [1, *size, task.condition_channels], "layout": "NHWC, RGB and mask"}
        inputs["condition"] = masked if task.has_mask else image
    noise = {"shape": list(program.latent_shape), "dtype": "float32", "distribution": "standard normal (docs/noise.md)"}
    ids = {"shape": list(program.context_shape[:1]), "dtype": "int32", "tokenizer": TOKENIZER}
    return {
        "image_size": size,
        "inputs": {**inputs, "noise": noise, **({"ids": ids} if program.context is None else {})},
        "outputs": {"image": image},
        "graphs": graphs,
    }


def _facts(program: SamplerProgram, format: str, form: Form) -> dict:
    model, task, profile = program.model, program.model.task, FORMATS[format].profile_of(form)
    times = zip(sampler.step_numbers(model, program.grid), sampler.tables(program)[0], strict=True)
    return {
        "kind": KIND,
        "version": VERSION,
        "format": format,
        **({"profile": profile} if profile is not None else {}),
        **({"opset": form.opset} if form.opset is not None else {}),
        **({"compute": form.compute} if form.in_half else {}),
        **({"unrolled": True} if form.unrolled else {}),
        "sampler": program.sampler,
        "steps": program.steps,
        "schedule": [{**step._asdict(), "time": [float(value) for value in time]} for step, time in times],
        "prompt": program.prompt,
        **({"guidance": program.guidance} if model.network.takes_guidance or program.guidance != 1.0 else {}),
        **({"text_guidance": program.text_guidance} if program.text_guidance not in (None, 1.0) else {}),
        **({"evaluations": len(program.terms)} if len(program.terms) > 1 else {}),
        **({"label": program.asked_label} if program.asked_label is not None else {}),
        **({"condition_scale": program.condition_scale} if program.condition_scale != 1.0 else {}),
        **({"task": {"name": TEXT_TO_IMAGE}} if task is None else _facts_of_task(task)),
        "scheduler": model.base.scheduler,
        "made_with": {name: importlib.import_module(name).__version__ for name in FORMATS[format].makers},
    }


def _neutral(program: SamplerProgram, size: dict) -> dict:
    """Where a host can scale the condition: the neutral number of each condition feature that a part gives out."""
    if "encoder" not in size["graphs"]:
        return {}
    names = [name for name in size["graphs"]["encoder"]["outputs"] if name.startswith("condition_features_")]
    adapter = program.model.network.adapter
    assert adapter is not None  # the encoder part is its
    of_view = adapter.neutral_features(len(names) // len(program.views))
    neutral = None if of_view is None else of_view * len(program.views)
    ordered = sorted(names, key=lambda name: int(name.rpartition("_")[2]))
    return {} if neutral is None else {"neutral_features": dict(zip(ordered, neutral, strict=True))}


def _facts_of_task(task: Task) -> dict:
    facts = {name: getattr(task, name) for name in ("condition_file", "keeps_colors", "is_local")}
    return {"task": task_config(task), **facts}
