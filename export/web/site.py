"""Building the web page: the page, the browser's runtime and a package's graphs, as several files and as one.

The page's scripts import each other by their names (`from "tiles"`); each name becomes an address here. A page that is
opened from the disk may not read other files. Therefore a second page holds all files as base64; the first page
redirects to it when it is opened from the disk.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import importlib.resources
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.core.errors import UserError
from codi_tf.io.folders import Kind, Names, check_folder, whole_folder
from export.formats import FORMATS
from export.package.manifest import MANIFEST, Package, files_of, read_manifest, read_package
from export.quantization.weights import stored_bytes
from export.web import samples
from export.web.installable import ICONS, SERVICE, TOUCH_ICON, app_files, service, version_of
from export.web.installable import MANIFEST as APP_MANIFEST
from export.web.installable import head as app_head

SCRIPT, PROGRAM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"  # of onnxruntime-web
GPU_SCRIPT, GPU_PROGRAM = "ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"  # newer ones have them
RUNTIME = "runtime/ort.wasm.bundle.min.js"  # the script's place in the page: not every server knows .mjs
GPU_RUNTIME = "runtime/ort.webgpu.bundle.min.js"
STYLE, APP = "style.css", "app"
VOCABULARY = "vocabulary.json"
ALONE = "from-disk.html"
PAGE = importlib.resources.files("export.web") / "page"
MAX_ALONE = 100_000_000  # bytes of the files in the page in one file
Files = dict[str, bytes]  # path in the site -> content
_SCRIPTS_OF_0_1_0 = (  # which wrote no markers
    "app compare depth errors files generate images mask noise pictures resample sampler steps tasks tiles tokenizer "
    "worker"
)


def _of_page(folder: Path) -> Names | None:
    """The files of a page without a marker: those of the page, the runtime and the package."""
    manifest = read_manifest(folder / "package")
    if manifest is None or not (folder / "index.html").is_file():
        return None
    names = {ALONE, *(f"{name}.js" for name in _SCRIPTS_OF_0_1_0.split()), *(path.name for path in PAGE.iterdir())}
    names |= {RUNTIME, GPU_RUNTIME, *(f"runtime/{name}" for name in (SCRIPT, PROGRAM, GPU_SCRIPT, GPU_PROGRAM))}
    names |= {APP_MANIFEST, SERVICE, TOUCH_ICON, *ICONS}
    names |= {f"package/{name}" for name in (MANIFEST, VOCABULARY, *files_of(manifest))}
    return lambda name: name in names or name.startswith(samples.NAMES)


PAGES = Kind("page", _of_page)


def build_site(
    package: Path, out: Path, runtime: Path, shown: Path | Literal["scenes", "none"] = "scenes"
) -> Path | None:
    """Write a static page that runs a package; an older page is replaced.

    Args:
        package: an exported package of the format ONNX.
        out: folder of the page.
        runtime: the folder `dist` of the npm package onnxruntime-web.
        shown: what the samples of the page are made of: rendered scenes, a folder of images (`samples.own`), nothing.

    Returns:
        The page in one file; None if it would be too large.

    Raises:
        UserError: no suitable package or runtime, or a folder that holds something else.
    """
    check_folder(out, PAGES, inputs=[package, runtime, *([shown] if isinstance(shown, Path) else [])])
    read = read_package(package)
    files = {f"package/{name}": content for name, content in _package(read).items()}
    files[f"runtime/{PROGRAM}"], ort = _runtime(runtime)
    listed, pictures = _samples(read, shown)
    page = {path.name: path.read_bytes() for path in PAGE.iterdir()} | {"samples": json.dumps(listed).encode()}
    worker = page.pop(SERVICE)
    scripts = {Path(name).stem: content.decode() for name, content in page.items() if name.endswith(".js")}
    alone = sum(map(len, [*files.values(), *pictures.values()])) <= MAX_ALONE
    gpu_program, gpu = _gpu_runtime(runtime)
    shell = {RUNTIME: ort, STYLE: page[STYLE], **gpu, **pictures, **app_files(read.task)}
    shell |= {f"{name}.js": _linked(code, _address(scripts)).encode() for name, code in scripts.items()}
    large = {name: content for name, content in files.items() if not name.endswith(MANIFEST)} | gpu_program
    version = version_of(large | shell | {"index.html": _index(page, files | gpu_program | pictures, alone, "")})
    shell["index.html"] = _index(page, files | gpu_program | pictures, alone, version)
    site = {**files, **large, **shell, SERVICE: service(worker, version, shell)}
    if alone:
        site[ALONE] = _in_one_file(page, scripts | {"ort": ort.decode()}, files | pictures)
    with whole_folder(out, PAGES) as folder:
        for name, content in site.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    return out / ALONE if alone else None


def _package(package: Package) -> Files:
    """The manifest, the graphs and, if the prompt is an input, the vocabulary."""
    folder = package.folder
    if package.format != "onnx":
        raise UserError(f"{folder}: is a {package.format} package, a page runs ONNX; export with --format onnx")
    if not package.channels:
        raise UserError(f"{folder}: makes images from prompts alone, a page from a condition; use codi run")
    if package.others:
        raise UserError(f"{folder}: is made for several sizes, a page for one; export with a single --size")
    manifest = read_manifest(folder)
    assert manifest is not None
    if any(name.endswith(".data") for name in manifest["files"]):
        raise UserError(f"{folder}: is larger than a browser's memory; {_smaller(manifest['weights'])}")
    # Rules of the task that older manifests leave out are written down, so that the page need not know them.
    rules = {"condition_file": package.condition_file, "is_local": package.is_local}
    files = {MANIFEST: (json.dumps({**manifest, **rules}, indent=2) + "\n").encode()}
    files |= {graph.path.name: graph.path.read_bytes() for graph in package.graphs.values()}
    if package.prompted:
        files[VOCABULARY] = _vocabulary(Tokenizer.load(folder / "tokenizer"))
    return files


def _smaller(weights: str) -> str:
    """What to do about a package with these weights that is too large."""
    kinds = {stored_bytes((1024, 1024), kind): kind for kind in reversed(FORMATS["onnx"].weight_formats)}
    smaller = [kind for size, kind in kinds.items() if size < stored_bytes((1024, 1024), weights)]
    return f"export with --weights {' or '.join(reversed(smaller))}" if smaller else "export a smaller model"


def _vocabulary(tokenizer: Tokenizer) -> bytes:
    """A tokenizer as the JSON that page/tokenizer.js reads."""
    known = {"vocabulary": tokenizer.vocabulary, "merges": [" ".join(pair) for pair in tokenizer.merges]}
    own = {token: {"normalized": any_case} for token, any_case in tokenizer.special.items()}
    own |= {one.content: one._asdict() for one in tokenizer.added}
    return json.dumps({**known, "padding": tokenizer.padding, "special": own}).encode()


def _runtime(folder: Path) -> tuple[bytes, bytes]:
    """The runtime's program and its script."""
    for name in (SCRIPT, PROGRAM):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: is missing; npm install onnxruntime-web, and name its folder: --runtime")
    return (folder / PROGRAM).read_bytes(), (folder / SCRIPT).read_bytes()


def _gpu_runtime(folder: Path) -> tuple[Files, Files]:
    """The program and the script of the runtime for graphics processors; nothing where this runtime has none."""
    if not all((folder / name).is_file() for name in (GPU_SCRIPT, GPU_PROGRAM)):
        return {}, {}
    program = {f"runtime/{GPU_PROGRAM}": (folder / GPU_PROGRAM).read_bytes()}
    return program, {GPU_RUNTIME: (folder / GPU_SCRIPT).read_bytes()}


def _samples(package: Package, wanted: Path | str) -> tuple[list[dict], Files]:
    """The samples as the page is told of them, and their files."""
    if wanted == "none":
        return [], {}
    return samples.make(package, samples.own(wanted, package) if isinstance(wanted, Path) else samples.scenes(package))


def _index(page: Files, files: Files, alone: bool, version: str) -> bytes:
    """The page of many files."""
    head, allowed = f'<link rel="stylesheet" href="{STYLE}">\n{app_head(version)}', "'self' 'wasm-unsafe-eval'"
    if alone:
        redirect = f'if (location.protocol === "file:") location.replace("{ALONE}");'
        head += f"\n<script>{redirect}</script>"
        allowed += f" {_hash(redirect)}"
    held = _held({name: content for name, content in files.items() if name.endswith(MANIFEST)})
    return _filled(
        page,
        policy=_policy(script=allowed, worker="'self'", connect="'self'", style="'self'"),
        head=head,
        files=f"{_sizes(files)}\n{held}",
        start=f'<script type="module" src="{APP}.js"></script>',
    )


def _in_one_file(page: Files, scripts: dict[str, str], files: Files) -> bytes:
    @functools.cache
    def address(name: str) -> str | None:
        return None if name not in scripts else _data_url(_linked(scripts[name], address))

    style, start = f"\n{page[STYLE].decode()}", f'import "{address(APP)}";'
    # What a script with the nonce imports is allowed too, and what the worker imports ('strict-dynamic'). No other
    # script within the page is; the nonce depends on all of its content, so nothing in the content can name it.
    nonce = _base64(hashlib.sha256(b"".join([start.encode(), *files.values()])).digest())
    allowed = f"'nonce-{nonce}' 'strict-dynamic' 'wasm-unsafe-eval'"
    return _filled(
        page,
        policy=_policy(script=allowed, worker="data:", connect="data: blob:", style=_hash(style)),
        head=f'<link rel="icon" href="data:,">\n<style>{style}</style>',
        files=f"{_sizes(files)}\n{_held(files)}",
        start=f'<script type="module" nonce="{nonce}">{start}</script>',
    )


def _address(scripts: dict[str, str]) -> Callable[[str], str | None]:
    """The addresses of scripts in the page of many files."""
    addresses = {name: f"./{name}.js" for name in scripts}
    addresses |= {"ort": f"./{RUNTIME}", "ort-gpu": f"./{GPU_RUNTIME}"}
    return addresses.get


def _linked(code: str, address: Callable[[str], str | None]) -> str:
    """A script that imports others, and names workers, by their addresses in place of their names."""

    def linked(match: re.Match) -> str:
        there = address(match["name"])
        return match[0] if there is None else f'{match["verb"]}"{there}"'

    return re.sub(r'(?P<verb>\b(?:from |import\(|resolve\())"(?P<name>[\w-]+)"', linked, code)


def _policy(*, script: str, worker: str, connect: str, style: str) -> str:
    """The content security policy: nothing from other servers, nothing sent, no scripts in the page's text."""
    allowed = {"script-src": script, "worker-src": worker, "connect-src": connect, "style-src": style}
    allowed |= {
        "img-src": "'self' data: blob:",
        "manifest-src": "'self'",
        "form-action": "'none'",
        "base-uri": "'none'",
    }
    return "; ".join(["default-src 'none'", *(f"{what} {sources}" for what, sources in allowed.items())])


def _hash(text: str) -> str:
    """The source of a policy that allows this text, and no other, within the page."""
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"


def _held(files: Files) -> str:
    """Files as elements of the page."""
    return "\n".join(
        f'<script type="text/plain" id="{html.escape(name)}">{_base64(content)}</script>'
        for name, content in files.items()
    )


def _sizes(files: Files) -> str:
    sizes = json.dumps({name: len(content) for name, content in files.items()}).encode()
    return f'<script type="application/json" id="files">{_text(sizes)}</script>'


def _text(data: bytes) -> str:
    """JSON that can stand in an element of the page."""
    return data.decode().replace("<", "\\u003c")


def _filled(page: Files, **parts: str) -> bytes:
    text = page["index.html"].decode()
    parts["files"] += f'\n<script type="application/json" id="samples">{_text(page["samples"])}</script>'
    return re.sub(r"<!--(\w+)-->", lambda match: parts[match[1]], text).encode()


def _data_url(code: str) -> str:
    return f"data:text/javascript;base64,{_base64(code.encode())}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
