"""What a manifest may hold: types, ranges and sizes, and values that must agree. Imports no TensorFlow.

The page (export/web/page/manifest.js), the C++ example (examples/android/manifest.h) and the Android app
(examples/android/app/core, Manifest.kt) check the same. All four have to refuse what tests/bad_manifests.json lists.
"""

from __future__ import annotations

import math
import typing

from codi_tf.core.limits import MAX_SIDE, MAX_TIMES
from codi_tf.core.showing import bare, shown
from codi_tf.io.conditions import ConditionFile
from codi_tf.io.inside import is_name
from codi_tf.io.schema import FLAG, SHA256, Anything, Each, Keyed, Misfit, Number, OneOf, Record, Text, Whole
from export.emit.limits import MAX_STEPS
from export.formats.form import COMPUTES

KIND = "codi_tf sampler"  # value of "kind" in our manifests
VERSION = 3
VERSIONS = (2, VERSION)  # that are read; 0.1.0 wrote 2
BASE = "base_files"  # key of an adapter's manifest: the files of the other parts, and their SHA-256
PLUG = "encoder"  # the graph of an adapter
OTHERS = "other_sizes"  # key of a manifest and of report.json: the entries that differ at the other sizes
TEXT_TO_IMAGE = "text_to_image"  # the name of the task of packages that take no condition
PARTS = ("text", "encoder", "step", "step_1", "step_2", "decoder")
MOST_NUMBERS = 1 << 31  # in a tensor

_TENSOR = Record({"shape": Each(Whole(1, MOST_NUMBERS), 0, 8)}, {"dtype": OneOf(("float32", "int32"))})
_GRAPH = Record(
    {"file": Text(1024), "inputs": Keyed(_TENSOR, 1, 1000)},
    {"outputs": Keyed(_TENSOR, 1, 1000), "signature": Text(200)},
)
_SIZE = Record(
    {
        "image_size": Each(Whole(1, MAX_SIDE), 2, 2),
        "inputs": Record({"noise": _TENSOR}, {"condition": _TENSOR, "ids": _TENSOR}),
        "graphs": Keyed(_GRAPH, 1, len(PARTS)),
    },
    {"outputs": Record({"image": _TENSOR})},
)
_NUMBER = Number(-1e9, 1e9)  # far beyond a schedule's, and far below what float32 holds
_STEP = Record({"t": Whole(0, MAX_TIMES), "time": Each(_NUMBER, 1, 1 << 16), "a": _NUMBER, "b": _NUMBER})
_WHOLE = Record(
    {
        **_SIZE.entries,
        "kind": OneOf((KIND,)),
        "version": OneOf(VERSIONS),
        "format": Text(100),
        "steps": Whole(1, MAX_STEPS),
        "schedule": Each(_STEP, 1, MAX_STEPS),
        "task": Record({"name": Text(200)}),
        "files": Keyed(SHA256, 1),
    },
    {
        **_SIZE.optional,
        "layout": OneOf(("whole", "parts")),
        "weights": Text(100),
        "profile": Text(100),
        "opset": Whole(1, 1000),
        "compute": OneOf(COMPUTES),
        "unrolled": FLAG,
        "guidance": _NUMBER,
        "text_guidance": _NUMBER,
        "evaluations": Whole(1, 3),  # of a step, where it has more than one
        "label": Whole(0, MOST_NUMBERS),
        "condition_scale": _NUMBER,
        "fidelity": Number(0, 1),
        "estimate": Record({"a": _NUMBER, "b": _NUMBER}),
        "neutral_features": Keyed(_NUMBER),
        "condition_file": OneOf(typing.get_args(ConditionFile)),
        "is_local": FLAG,
        "keeps_colors": FLAG,
        "keeps_colours": FLAG,
        "made_with": Keyed(Anything()),
        OTHERS: Each(_SIZE, 0, 64),
        BASE: Keyed(SHA256),
    },
)


def check_manifest(manifest: dict) -> None:
    """Raise Misfit for a JSON object that is no manifest of a package, or of an adapter, that can be run."""
    version = manifest.get("version")
    if version not in VERSIONS or isinstance(version, bool):
        raise Misfit(f"version {shown(version)}")
    _WHOLE.check(manifest, "")
    if len(manifest["schedule"]) != manifest["steps"]:
        raise Misfit(f"steps is {manifest['steps']}: its schedule has {len(manifest['schedule'])}")
    if len({len(step["time"]) for step in manifest["schedule"]}) > 1:
        raise Misfit("schedule: the times of its steps have several lengths")
    for name in manifest["files"]:
        _check_name(name, "files")
    for size in sizes_of(manifest):
        _check_size(size, manifest)


def sizes_of(manifest: dict) -> list[dict]:
    """The entries of a manifest for each size; for the first size the manifest itself."""
    return [manifest, *manifest.get(OTHERS, [])]


def _check_size(size: dict, manifest: dict) -> None:
    inputs, (height, width) = size["inputs"], size["image_size"]
    noise, without = inputs["noise"]["shape"], manifest["task"]["name"] == TEXT_TO_IMAGE
    if ("condition" in inputs) == without:
        raise Misfit(f"task.name is {shown(manifest['task']['name'])}: only {TEXT_TO_IMAGE} has no inputs.condition")
    condition = None if without else inputs["condition"]["shape"]
    if not without and condition not in ([1, height, width, 3], [1, height, width, 4]):
        raise Misfit(f"inputs.condition.shape is {condition}: image_size is {height}, {width}")
    factor = height // noise[1] if len(noise) == 4 else 0
    if len(noise) != 4 or noise[0] != 1 or factor < 1 or [factor * side for side in noise[1:3]] != [height, width]:
        raise Misfit(f"inputs.noise.shape is {noise}: image_size is {height}, {width}")
    image = size.get("outputs", {}).get("image", {}).get("shape")
    if image not in (None, [1, height, width, 3]):
        raise Misfit(f"outputs.image.shape is {image}: image_size is {height}, {width}")
    if "ids" in inputs and len(inputs["ids"]["shape"]) != 1:
        raise Misfit(f"inputs.ids.shape is {inputs['ids']['shape']}: it must be of one side")
    _check_graphs(size["graphs"], manifest)
    times = len(manifest["schedule"][0]["time"])
    known = {"condition": condition, "noise": noise, "z": noise, "z_next": noise, "time": [times], "scales": [2]}
    known["image"] = [1, height, width, 3]
    for name, graph in size["graphs"].items():
        _check_name(graph["file"], f"graphs.{name}")
        for key, tensor in {**graph["inputs"], **graph.get("outputs", {})}.items():
            shape = tensor["shape"]
            if shape != known.get(key, shape) or math.prod(shape) > MOST_NUMBERS:
                wanted = f"it must be {known[key]}" if key in known else "it is too large"
                raise Misfit(f"graphs.{name}: {bare(key)}.shape is {shape}: {wanted}")


def _check_name(name: str, where: str) -> None:
    if not is_name(name):
        raise Misfit(f"{where} names {shown(name)}: it must be a file in the folder")


def _check_graphs(graphs: dict, manifest: dict) -> None:
    names, steps = set(graphs), {"step", "step_1", "step_2"} & set(graphs)
    if BASE in manifest:
        runs = names == {PLUG}
    elif names == {"sampler"}:
        runs = True
    else:
        runs = names <= set(PARTS) and "decoder" in names and steps in ({"step"}, {"step_1", "step_2"})
    if not runs or names != set(manifest["graphs"]):
        raise Misfit(f"graphs are {shown(sorted(names))}: they must be sampler, or {', '.join(PARTS)}")
