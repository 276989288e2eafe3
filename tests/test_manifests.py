"""Manifests of strangers: what nothing may run is refused by Python, before a file of the package is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from manifests import CONTENT, bad_manifests, good_manifest, write_package

from codi_tf.core.errors import UserError
from export.package.adapters import options_of, with_adapter
from export.package.manifest import MANIFEST, read_package

ROOT = Path(__file__).parent.parent


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_package(folder)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 600 and MANIFEST in line
    return line


def test_a_good_manifest_is_read(tmp_path):
    package = read_package(write_package(tmp_path / "package", good_manifest("tflite")))
    assert (
        package.steps == 2
        and package.latent_shape == (1, 4, 6, 4)
        and set(package.graphs)
        == {
            "encoder",
            "step",
            "decoder",
        }
    )


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_bad_manifests_are_refused(tmp_path, format):
    """Catches every value of the table that is believed: unknown versions, an empty schedule, names of other files."""
    (tmp_path / f"step.{format}").write_bytes(CONTENT)  # what a name with .. would reach
    folder = write_package(tmp_path / "package", good_manifest(format))
    read = []
    for change, manifest in bad_manifests(format).items():
        (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        try:
            read_package(folder)
            read.append(change)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
    assert read == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "nested more than 64 levels deep"),
        ('{"kind": "codi_tf sampler", "kind": "codi_tf sampler"}', "'kind' stands there twice"),
        ('{"kind": "codi_tf sampler", "version": NaN}', "'NaN' is no finite number"),
        ('{"kind": "codi_tf sampler", "steps": 1e999}', "'1e999' is no finite number"),
    ],
)
def test_json_that_is_none_is_refused(tmp_path, text, said):
    folder = write_package(tmp_path / "package", good_manifest("onnx"))
    (folder / MANIFEST).write_text(text)
    assert said in refusal(folder)


def test_every_size_is_checked(tmp_path):
    """Catches checks of the first size alone."""
    manifest = good_manifest("tflite")
    size = {key: manifest[key] for key in ("image_size", "inputs", "graphs")}
    manifest["other_sizes"] = [size, {**size, "image_size": [64, 64]}]
    assert "image_size is 64, 64" in refusal(write_package(tmp_path / "package", manifest))


def test_links_and_pipes_are_refused(tmp_path):
    """Catches a file that a link takes from elsewhere, and a reader that waits for a pipe."""
    folder = write_package(tmp_path / "package", good_manifest("onnx"))
    (folder / "step.onnx").rename(tmp_path / "outside.onnx")
    (folder / "step.onnx").symlink_to(tmp_path / "outside.onnx")
    assert "is a link that leads out of" in refusal(folder)
    (folder / "step.onnx").unlink()
    os.mkfifo(folder / "step.onnx")
    assert "a pipe or a device" in refusal(folder)
    (folder / "step.onnx").unlink()
    (folder / "step.onnx").symlink_to("decoder.onnx")  # a link within the package is fine
    read_package(folder)
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)
    assert "a pipe or a device" in refusal(folder)


def test_an_adapter_alone_is_not_run(tmp_path):
    """Catches a manifest without steps that is taken for a package, and an adapter whose sizes are others."""
    manifest = good_manifest("onnx")
    whole = write_package(tmp_path / "whole", manifest)
    plug = {**manifest, "graphs": {"encoder": manifest["graphs"]["encoder"]}}
    shared = {name: digest for name, digest in manifest["files"].items() if name != "encoder.onnx"}
    folder = write_package(tmp_path / "plug", {**plug, "base_files": shared})
    with pytest.raises(UserError, match="is an adapter alone; run the package of its base"):
        read_package(folder)
    assert set(with_adapter(read_package(whole), folder).graphs) == {"encoder", "step", "decoder"}
    write_package(folder, {**plug, "base_files": shared, "other_sizes": [plug]})
    with pytest.raises(UserError, match="other sizes"):
        with_adapter(read_package(whole), folder)
    for bad in ({**manifest, "base_files": shared}, {**plug, "base_files": {"a": 5}}, {**plug, "base_files": []}):
        write_package(folder, bad)
        with pytest.raises(UserError, match="export again"):
            with_adapter(read_package(whole), folder)


def test_what_a_package_was_made_with_is_needed_for_another_adapter(tmp_path):
    folder = write_package(tmp_path / "package", good_manifest("onnx"))
    assert options_of(folder)["steps"] == 2
    (folder / MANIFEST).write_text(json.dumps({k: v for k, v in good_manifest("onnx").items() if k != "prompt"}))
    with pytest.raises(UserError, match="does not say how it was made"):
        options_of(folder)


def test_reports_are_not_needed(tmp_path):
    manifest = good_manifest("onnx")
    manifest["files"] |= {"report.json": "0" * 64, "report.md": "0" * 64}
    folder = write_package(tmp_path / "package", manifest)
    read_package(folder)
    (folder / "report.md").write_text("changed")
    read_package(folder)
