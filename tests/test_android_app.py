"""examples/android/app: its core runs here, beside export.run; its other sources compile against stand-ins."""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from manifests import bad_manifests, good_manifest, write_package

from codi_tf.core.noise import gaussian_noise
from export.package.manifest import read_package
from export.runtime.run import generate
from export.runtime.sampler import Sampler

ROOT = Path(__file__).parents[1]
APP = ROOT / "examples" / "android" / "app"
HERE = Path(__file__).parent / "android_app"
LIBRARIES = ROOT / "node_modules" / "kotlin-compiler" / "lib"
HEIGHT, WIDTH = 16, 24

kotlin = pytest.mark.skipif(
    not (LIBRARIES / "kotlin-compiler.jar").is_file() or shutil.which("java") is None,
    reason="needs Java and npm's kotlin-compiler",
)


def sources(*folders: Path) -> list[str]:
    return [str(path) for folder in folders for path in sorted(folder.rglob("*.kt"))]


def compiled(out: Path, files: list[str], *libraries: Path) -> None:
    """Compile sources, with every warning an error."""
    own = ("kotlin-compiler", "kotlin-stdlib", "kotlin-script-runtime", "kotlin-reflect", "annotations-13.0")
    path = ":".join(f"{LIBRARIES / name}.jar" for name in (*own, "kotlinx-coroutines-core-jvm"))
    options = ["-Werror", "-no-reflect", "-kotlin-home", str(LIBRARIES.parent), "-d", str(out)]
    options += ["-cp", ":".join(map(str, libraries))] if libraries else []
    command = ["java", "-Xmx700m", "-cp", path, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", *options, *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """The core, compiled, and what runs it."""
    folder = tmp_path_factory.mktemp("core")
    compiled(folder / "core", [*sources(APP / "core" / "src" / "main"), str(HERE / "Runner.kt")])
    return folder / "core"


def run(core: Path, folder: Path, *commands: tuple) -> list[str]:
    """Lines that the runner prints."""
    (folder / "commands").write_text("\n".join("\t".join(map(str, command)) for command in commands))
    path = f"{core}:{LIBRARIES / 'kotlin-stdlib.jar'}"
    done = subprocess.run(["java", "-cp", path, "RunnerKt", str(folder / "commands")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def made_up(*, is_local: bool) -> dict:
    """A manifest of graphs whose formulas are in `FORMULAS`, and in Runner.kt."""
    image, latents = [1, HEIGHT, WIDTH, 3], [1, HEIGHT // 4, WIDTH // 4, 4]
    shapes = {"condition": image, "features": image, "image": image, "z": latents, "z_next": latents}
    shapes |= {"time": [2], "scales": [2]}

    def tensors(*names: str) -> dict:
        return {name: {"shape": shapes[name], "dtype": "float32"} for name in names}

    manifest = good_manifest("tflite")
    graphs = {
        "encoder": (tensors("condition"), tensors("features")),
        "step": (tensors("z", "time", "scales", "features"), tensors("z_next")),
        "decoder": (tensors("z", "features"), tensors("image")),
    }
    for name, (inputs, outputs) in graphs.items():
        manifest["graphs"][name] |= {"inputs": inputs, "outputs": outputs}
    manifest["graphs"] = {name: manifest["graphs"][name] for name in graphs}
    sides = {"condition": {"shape": image, "dtype": "float32"}, "noise": {"shape": latents, "dtype": "float32"}}
    return manifest | {
        "image_size": [HEIGHT, WIDTH],
        "inputs": sides,
        "outputs": tensors("image"),
        "is_local": is_local,
    }


def _step(pool: dict) -> dict:
    z, (a, b), features = pool["z"], pool["scales"], pool["features"].ravel()
    return {"z_next": a * z + b * features[: z.size].reshape(z.shape) + pool["time"][0]}


def _decode(pool: dict) -> dict:
    features, z = pool["features"], pool["z"].ravel()
    repeated = z[np.arange(features.size) % z.size].reshape(features.shape)
    return {"image": np.float32(0.5) + np.float32(0.2) * repeated + np.float32(0.1) * features}


FORMULAS = {"encoder": lambda pool: {"features": 2 * pool["condition"] - 1}, "step": _step, "decoder": _decode}


@kotlin
@pytest.mark.slow
def test_the_core_is_export_run(core, tmp_path):
    """Catches another noise, plan, tile, blend or filter than export.run's; and manifests that only Python refuses."""
    random = np.random.default_rng(0)
    sizes = {"window": (HEIGHT, WIDTH), "tiles": (45, 52), "small": (9, 13), "wide": (7, 60), "row": (1, 5)}
    commands, expected = [("noise", 2**40 + 3, 1001, tmp_path / "noise")], {}
    for is_local in (True, False):
        folder = write_package(tmp_path / f"package-{is_local}", made_up(is_local=is_local))
        sampler = Sampler(read_package(folder), FORMULAS)
        for name, (height, width) in sizes.items():
            photo = random.random((height, width, 3), np.float32)
            out = tmp_path / f"{name}-{is_local}.out"
            commands.append(("generate", folder, tmp_path / f"{name}-{is_local}.in", height, width, 7, out))
            photo.tofile(tmp_path / f"{name}-{is_local}.in")
            expected[out] = generate(sampler, photo, seed=7)
    refused = bad_manifests("tflite")
    for number, manifest in enumerate([good_manifest("tflite"), *refused.values()]):
        commands.append(("open", write_package(tmp_path / str(number), manifest)))
    said = run(core, tmp_path, *commands)

    noise = np.fromfile(tmp_path / "noise", np.float32)
    np.testing.assert_allclose(noise, gaussian_noise(2**40 + 3, (1001,)), rtol=1e-6)
    for (out, image), line in zip(expected.items(), said, strict=False):
        assert line == f"made {image.shape[0]} {image.shape[1]} true"
        assert image.std() > 0.02
        np.testing.assert_allclose(np.fromfile(out, np.float32).reshape(image.shape), image, atol=2e-6)
    good, *bad = said[len(expected) :]
    assert good.startswith("opened ")
    assert [change for change, line in zip(refused, bad, strict=True) if not line.startswith("refused ")] == []
    (tmp_path / "0" / "decoder.tflite").write_bytes(b"another")
    assert run(core, tmp_path, ("open", tmp_path / "0")) == [
        "refused decoder.tflite is damaged or changed: copy the package again."
    ]


@kotlin
@pytest.mark.slow
def test_the_app_compiles(core, tmp_path):
    """Catches sources that do not fit together, or use LiteRT and Android otherwise than the stand-ins declare them."""
    sections = re.split(r"(?m)^(?=package )", (HERE / "stand_ins.txt").read_text())[1:]
    for number, section in enumerate(sections):
        suppressed = '@file:Suppress("UNUSED_PARAMETER", "unused")\n\n'
        (tmp_path / f"StandIn{number}.kt").write_text(suppressed + section)
    (block,) = re.findall(r"```kotlin\n(.*?)```", (ROOT / "docs" / "android.md").read_text(), re.DOTALL)
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "Older.kt").write_text(block)  # the page's other form of LiteRtGraph
    libraries = [core, LIBRARIES / "kotlinx-coroutines-core-jvm.jar"]
    compiled(tmp_path / "stand_ins", [str(path) for path in sorted(tmp_path.glob("*.kt"))], *libraries[1:])
    files = sources(APP / "app" / "src" / "main", tmp_path / "older")
    compiled(tmp_path / "app", files, *libraries, tmp_path / "stand_ins")


def test_what_the_app_names_is_there():
    """Catches a string, a color, a library or a class that one file names and no other has."""
    app = APP / "app" / "src" / "main"
    code = "".join(Path(name).read_text() for name in sources(app))
    xml = {path: path.read_text() for path in app.rglob("*.xml")}
    for text in xml.values():
        ET.fromstring(text.encode())
    named = set(re.findall(r"R\.(string)\.(\w+)", code)) | {
        found for text in xml.values() for found in re.findall(r'"@(string|color|drawable|mipmap|xml)/(\w+)"', text)
    }
    values = ET.parse(app / "res/values/strings.xml").getroot(), ET.parse(app / "res/values/colors.xml").getroot()
    there = {(item.tag, item.attrib["name"]) for root in values for item in root}
    there |= {(path.parent.name.partition("-")[0], path.stem) for path in app.glob("res/*/*.xml")}
    assert named <= there and len(named) > 10
    libraries = (APP / "gradle" / "libs.versions.toml").read_text()
    declared = {name.replace("-", ".") for name in re.findall(r"(?m)^([\w-]+) = \{ (?:module|id)", libraries)}
    for script in APP.rglob("*.gradle.kts"):
        used = re.findall(r"libs\.(?:plugins\.)?([\w.]+)", script.read_text())
        assert set(used) <= declared, script
    versions = set(re.findall(r'(?m)^(\w+) = "', libraries))
    assert set(re.findall(r'version\.ref = "(\w+)"', libraries)) == versions
    activity = re.search(r'android:name="\.(\w+)"', xml[app / "AndroidManifest.xml"])
    assert activity and f"class {activity[1]} " in code
