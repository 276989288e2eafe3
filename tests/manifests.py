"""Manifests that nothing may run, for Python, the page and the C++ example: tests/bad_manifests.json.

"good" is a manifest that all three take. Each entry of "bad" changes it: the value at a path becomes "to", or is taken
out where there is no "to".
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

TABLE = json.loads(Path(__file__).with_name("bad_manifests.json").read_text(encoding="utf-8"))
CONTENT = b"a graph"


def good_manifest(format: str) -> dict:
    """A manifest of a package of parts, whose files all hold `CONTENT`."""
    text = json.dumps(TABLE["good"]).replace("tflite", format)
    return json.loads(text.replace("SHA256", hashlib.sha256(CONTENT).hexdigest()))


def bad_manifests(format: str) -> dict[str, dict]:
    """What is changed -> the manifest."""
    return {json.dumps(change).replace("tflite", format): _changed(change, format) for change in TABLE["bad"]}


def write_package(folder: Path, manifest: dict) -> Path:
    """A folder with a manifest and the files of the good one."""
    folder.mkdir(exist_ok=True)
    for graph in good_manifest(manifest["format"] if manifest.get("format") == "onnx" else "tflite")["graphs"].values():
        (folder / graph["file"]).write_bytes(CONTENT)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _changed(change: dict, format: str) -> dict:
    manifest: Any = good_manifest(format)
    change = json.loads(json.dumps(change).replace("tflite", format))
    *path, last = change["at"]
    place = manifest
    for key in path:
        place = place[key]
    if "to" in change:
        place[last] = copy.deepcopy(change["to"])
    else:
        del place[last]
    return manifest
