"""Building the web page: the page, the browser's runtime and a package's graphs, as several files and as one.

A page that is opened from the disk may not read other files. Therefore a second page holds all files as base64; the
first page redirects to it when it is opened from the disk.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
from pathlib import Path

from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.core.errors import UserError
from codi_tf.io.folders import Kind, Names, check_folder, whole_folder
from export.package.manifest import MANIFEST, files_of, read_manifest, read_package

SCRIPT, PROGRAM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"  # of onnxruntime-web
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
    names = {"index.html", "style.css", ALONE, *(f"{name}.js" for name in _SCRIPTS_OF_0_1_0.split())}
    names |= {f"runtime/{name}" for name in (SCRIPT, PROGRAM)}
    return (names | {f"package/{name}" for name in (MANIFEST, VOCABULARY, *files_of(manifest))}).__contains__


PAGES = Kind("page", _of_page)


def build_site(package: Path, out: Path, runtime: Path) -> Path | None:
    """Write a static page that runs a package; an older page is replaced.

    Args:
        package: an exported package of the format ONNX.
        out: folder of the page.
        runtime: the folder `dist` of the npm package onnxruntime-web.

    Returns:
        The page in one file; None if it would be too large.

    Raises:
        UserError: no suitable package or runtime, or a folder that holds something else.
    """
    check_folder(out, PAGES, inputs=[package, runtime])
    files = {f"package/{name}": content for name, content in _package(package).items()}
    files |= {f"runtime/{name}": content for name, content in _runtime(runtime).items()}
    page = {path.name: path.read_bytes() for path in PAGE.iterdir()}
    alone = sum(map(len, files.values())) <= MAX_ALONE
    with whole_folder(out, PAGES) as folder:
        for name, content in {**files, **page, "index.html": _index(page, files, alone)}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        if alone:
            (folder / ALONE).write_bytes(_in_one_file(page, files))
    return out / ALONE if alone else None


def _package(folder: Path) -> Files:
    """The manifest, the graphs and, if the prompt is an input, the vocabulary."""
    package = read_package(folder)
    if package.format != "onnx":
        raise UserError(f"{folder}: is a {package.format} package, a page runs ONNX; export with --format onnx")
    if package.others:
        raise UserError(f"{folder}: is made for several sizes, a page for one; export with a single --size")
    manifest = read_manifest(folder)
    assert manifest is not None
    if any(name.endswith(".data") for name in manifest["files"]):
        raise UserError(f"{folder}: is larger than a browser's memory; export with --weights float16 or int8")
    files = {path.name: path.read_bytes() for path in (folder / MANIFEST, *(g.path for g in package.graphs.values()))}
    if package.prompted:
        files[VOCABULARY] = _vocabulary(Tokenizer.load(folder / "tokenizer"))
    return files


def _vocabulary(tokenizer: Tokenizer) -> bytes:
    """A tokenizer as the JSON that page/tokenizer.js reads."""
    known = {"vocabulary": tokenizer.vocabulary, "merges": [" ".join(pair) for pair in tokenizer.merges]}
    own = {token: {"normalized": any_case} for token, any_case in tokenizer.special.items()}
    own |= {one.content: one._asdict() for one in tokenizer.added}
    return json.dumps({**known, "padding": tokenizer.padding, "special": own}).encode()


def _runtime(folder: Path) -> Files:
    for name in (SCRIPT, PROGRAM):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: is missing; npm install onnxruntime-web, and name its folder: --runtime")
    return {name: (folder / name).read_bytes() for name in (SCRIPT, PROGRAM)}


def _index(page: Files, files: Files, alone: bool) -> bytes:
    """The page of many files."""
    head = '<link rel="stylesheet" href="style.css">\n'
    head += _imports({name: f"./{name}.js" for name in _modules(page)} | {"ort": f"./runtime/{SCRIPT}"})
    if alone:
        head += f'\n<script>if (location.protocol === "file:") location.replace("{ALONE}");</script>'
    return _filled(page, head, _sizes(files))


def _in_one_file(page: Files, files: Files) -> bytes:
    head = f"<style>\n{page['style.css'].decode()}</style>\n"
    modules = _modules(page) | {"ort": files[f"runtime/{SCRIPT}"]}
    head += _imports({name: f"data:text/javascript;base64,{_base64(code)}" for name, code in modules.items()})
    held = [
        f'<script type="text/plain" id="{name}">{_base64(content)}</script>'
        for name, content in files.items()
        if not name.endswith(SCRIPT)
    ]
    return _filled(page, head, "\n".join([_sizes(files), *held]))


def _modules(page: Files) -> Files:
    """The page's scripts, by the names under which they import each other."""
    return {Path(name).stem: content for name, content in page.items() if name.endswith(".js")}


def _imports(urls: dict[str, str]) -> str:
    """An import map: names of modules -> their addresses."""
    return f'<script type="importmap">{json.dumps({"imports": urls})}</script>'


def _sizes(files: Files) -> str:
    sizes = {name: len(content) for name, content in files.items() if not name.endswith(SCRIPT)}
    return f'<script type="application/json" id="files">{json.dumps(sizes)}</script>'


def _filled(page: Files, head: str, files: str) -> bytes:
    return page["index.html"].decode().replace("<!--head-->", head).replace("<!--files-->", files).encode()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
