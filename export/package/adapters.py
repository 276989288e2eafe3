"""Adapters as plug-ins: one exported base, and for each PE-CoDi adapter one graph, the one that takes the condition.

In a package of parts, only "encoder" depends on the weights of a mu adapter: it passes mu h_eta(c) and 1 - mu to the
steps. Another adapter of the same base therefore gives the same files for all other parts, bit by bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codi_tf.core.errors import UserError
from export.package.manifest import REPORTS, Package, form_of, read_manifest, read_package
from export.package.schema import BASE, OTHERS, PLUG, sizes_of


def with_adapter(package: Package, folder: Path) -> Package:
    """Replace a package's adapter with that of a folder made by `codi export --adapter-of`.

    Raises:
        UserError: the folder holds no adapter, or an adapter of another base.
    """
    manifest = read_manifest(folder)
    if manifest is None or BASE not in manifest:
        raise UserError(f"{folder}: no exported adapter; make one with codi export BUNDLE --adapter-of PACKAGE")
    adapter = read_package(folder, adapter=True)
    check_base(package, manifest[BASE], folder)
    ours, theirs = ([(size.height, size.width) for size in one.sizes] for one in (package, adapter))
    if ours != theirs:
        raise UserError(f"{folder}: is made for other sizes than {package.folder}; export it with --adapter-of")
    of_task = ("task", "condition_file", "keeps_colors", "is_local")
    trained_for = {name: getattr(adapter, name) for name in of_task}
    first, *others = (
        dataclasses.replace(size, graphs={**size.graphs, PLUG: plug.graphs[PLUG]}, **trained_for)
        for size, plug in zip(package.sizes, adapter.sizes, strict=True)
    )
    return dataclasses.replace(first, others=tuple(others))


def base_files(folder: Path) -> dict[str, str]:
    """The files of a package of parts that all adapters share, and their SHA-256.

    Raises:
        UserError: the package has no parts.
    """
    manifest = read_manifest(folder)
    if manifest is None or PLUG not in manifest.get("graphs", {}):
        raise UserError(f"{folder}: no package of parts with an adapter; make one with codi export --layout parts")
    own = tuple(size["graphs"][PLUG]["file"] for size in sizes_of(manifest))
    return {name: sha for name, sha in manifest["files"].items() if not name.startswith(own) and name not in REPORTS}


def plug_of(manifest: dict) -> dict:
    """The manifest of an adapter: a package's manifest reduced to the adapter's graph, at every size."""
    first, *others = ({**size, "graphs": {PLUG: size["graphs"][PLUG]}} for size in sizes_of(manifest))
    return {**first, OTHERS: others} if others else first


def check_base(package: Package, wanted: dict[str, str], folder: Path, remedy: str | None = None) -> None:
    """Raise UserError, which ends with a remedy, if the adapter in a folder was not made for this package's base."""
    found, remedy = base_files(package.folder), remedy or f"export it with --adapter-of {package.folder}"
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise UserError(f"{folder}: is of another base than {package.folder} ({name} differs); {remedy}")


def check_asked(folder: Path, asked: Mapping[str, Any]) -> None:
    """Raise UserError for options of an adapter that are not those its package was made with."""
    made = options_of(folder)
    made |= dataclasses.asdict(made["form"])
    for name, value in asked.items():
        if name == "target":
            raise UserError(f"{folder} has no mixed weights: leave out --target-size and --min-psnr")
        if name == "calibration":
            raise UserError(f"{folder} has no calibrated weights: leave out --calibration")
        has = made[name]
        same = set(value) == set(has) if name == "sizes" else value == has
        if not same:
            flag = "size" if name == "sizes" else name.replace("_", "-")
            option, value, has = f"--{flag}", _shown(value), _shown(has)
            raise UserError(
                f"{option} is {value}, but {folder} was made with {has}, and an adapter is made like its package: "
                f"leave {option} out"
            )


def _shown(value) -> str:
    if isinstance(value, list):
        return ",".join(f"{height}x{width}" for height, width in value)
    return "none" if value is None else repr(value) if isinstance(value, str) and not value else str(value)


def options_of(folder: Path) -> dict:
    """The options with which a package was made; its adapters must be made with the same.

    Raises:
        UserError: its manifest does not name them.
    """
    manifest = read_manifest(folder)
    assert manifest is not None
    sizes = [tuple(size["image_size"]) for size in sizes_of(manifest)]
    needed = ("format", "layout", "weights", "steps", "prompt")
    if any(key not in manifest for key in needed):
        raise UserError(f"{folder}: its manifest does not say how it was made ({', '.join(needed)}); export again")
    options = {key: manifest[key] for key in needed}
    own = {"sampler": manifest.get("sampler", "ddim"), "form": form_of(manifest)}  # version 2 has no sampler
    return {
        **options,
        "sizes": sizes,
        **own,
        **{key: manifest.get(key) for key in ("guidance", "text_guidance", "label")},
    }
