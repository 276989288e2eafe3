"""The page's own scripts, in a browser, against what they follow in Python."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import random
import shutil
import sys
import unicodedata
import warnings
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from chromium import chromium, served
from manifests import bad_manifests, good_manifest

from codi_tf.checkpoints.added_tokens import AddedToken
from codi_tf.checkpoints.tokenizer import END, START, Tokenizer
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.io import images
from codi_tf.io.depth_files import as_gray_image, nearness
from export.package.manifest import GraphFile, Package
from export.runtime import run
from export.runtime.plan import make_plan
from export.web import site


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A browser that knows the page's scripts by their names."""
    folder = tmp_path_factory.mktemp("scripts")
    for path in site.PAGE.iterdir():
        shutil.copy(path, folder)
    names = {path.stem: f"./{path.name}" for path in folder.glob("*.js")}
    (folder / "test.html").write_text(f'<script type="importmap">{json.dumps({"imports": names})}</script>')
    with served(folder) as (address, _), chromium() as browser:
        browser.open(f"{address}test.html")
        yield browser


def sent(image: np.ndarray) -> str:
    """An image [H, W, C] as JavaScript."""
    height, width, channels = image.shape
    data = base64.b64encode(np.float32(image).tobytes()).decode()
    bytes = f"Uint8Array.from(atob('{data}'), (c) => c.charCodeAt(0)).buffer"
    return f"{{height: {height}, width: {width}, channels: {channels}, data: new Float32Array({bytes})}}"


def called(page, script: str, call: str) -> np.ndarray:
    """The image or the numbers that a call of a script's function gives."""
    coded = "btoa(Array.from(new Uint8Array(data.buffer), (byte) => String.fromCharCode(byte)).join(''))"
    result = page.evaluate(
        f"import('{script}').then((script) => {{ const result = script.{call}; const data = result.data ?? result;"
        f"return [result.height ?? null, result.width, result.channels, {coded}] }})"
    )
    *shape, data = result
    numbers = np.frombuffer(base64.b64decode(data), np.float32)
    return numbers if shape[0] is None else numbers.reshape(shape)


def new_image(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Noise with black and white in it, float32; a fourth channel is 0 and 1."""
    random = np.random.default_rng(height * width)
    image = np.clip(random.normal(0.5, 0.5, (height, width, channels)), 0, 1).astype(np.float32)
    image[..., 3:] = random.random((height, width, channels - 3)) > 0.9
    return image


SIZES = [((20, 30), (7, 11)), ((7, 5), (64, 48)), ((31, 17), (31, 40)), ((64, 64), (9, 64)), ((1, 6), (4, 1))]


@pytest.mark.parametrize("size, to", SIZES)
def test_resizing_is_pillow_s(page, size, to):
    image = new_image(*size)
    found = called(page, "resample", f"resized({sent(image)}, {to[0]}, {to[1]})")
    np.testing.assert_allclose(found, images.resize(image, *to), rtol=0, atol=2**-23)


@pytest.mark.parametrize("size, to", SIZES)
def test_masks_are_resized_as_conditions_are(page, size, to):
    photo = new_image(*size, 4)
    found = called(page, "resample", f"resizedCondition({sent(photo)}, {to[0]}, {to[1]})")
    expected = images.resize_condition(photo, *to, has_mask=True)
    np.testing.assert_array_equal(found[..., 3], expected[..., 3])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2**-23)


# Graphs that cost nothing, in both languages: latents are every fourth pixel, images are latents enlarged and
# the condition upside down.
STANDS_IN = """
const wide = 48, factor = 4, columns = wide / factor, count = 32 * wide;
const channels = manifest.inputs.condition.shape.at(-1);
const enlarged = (z) => Float32Array.from({ length: 3 * count }, (_, i) => {
  const pixel = Math.floor(i / 3), y = Math.floor(pixel / wide), x = pixel % wide;
  return z[4 * (Math.floor(y / factor) * columns + Math.floor(x / factor)) + (i % 3)];
});
const features = (condition) => Float32Array.from({ length: (4 * count) / 16 }, (_, i) => {
  const place = Math.floor(i / 4), y = Math.floor(place / columns), x = place % columns;
  return condition[channels * (factor * y * wide + factor * x)];
});
const read = (condition) => ({ condition, features: features(condition) });
const decode = (z, pool) => enlarged(z).map((value, i) => 0.5 + 0.2 * value
  + 0.2 * pool.condition[channels * (count - 1 - Math.floor(i / 3)) + (i % 3)]);
const parts = {
  read: async (condition) => read(condition),
  step: async (i, z, pool) => z.map((x, j) => manifest.schedule[i].a * x + manifest.schedule[i].b * pool.features[j]),
  decode: async (z, pool) => decode(z, pool),
};
const whole = { whole: async (condition, noise) => decode(noise, read(condition)) };
"""
SCHEDULE = [{"t": 9, "time": [0.0], "a": 0.5, "b": 0.7}, {"t": 4, "time": [1.0], "a": 0.2, "b": -0.3}]


def stand_in(channels: int, whole: bool) -> run.Sampler:
    """These graphs in NumPy."""

    def decode(z, condition):
        enlarged = z[..., :3].repeat(4, axis=1).repeat(4, axis=2)
        return 0.5 + 0.2 * enlarged + 0.2 * condition[:, ::-1, ::-1, :3]

    graphs = {
        "encoder": lambda x: {"features": x["condition"][:, ::4, ::4, :1]},
        "step": lambda x: {"z_next": x["scales"][0] * x["z"] + x["scales"][1] * x["features"]},
        "decoder": lambda x: {"image": decode(x["z"], x["condition"])},
    }
    names = {"encoder": ["condition"], "step": ["z", "scales", "features"], "decoder": ["z", "condition"]}
    if whole:
        graphs = {"sampler": lambda x: {"image": decode(x["noise"], x["condition"])}}
        names = {"sampler": ["condition", "noise"]}
    files = {name: GraphFile(None, tuple(inputs)) for name, inputs in names.items()}
    about = {"is_local": True, "condition_file": "masked_image" if channels == 4 else "image"}
    package = Package(None, "onnx", 32, 48, (1, 8, 12, 4), files, tuple(SCHEDULE), channels, "bicubic", **about)
    return run.Sampler(package, graphs)


@pytest.mark.parametrize("size", [(32, 48), (67, 80), (9, 7), (8, 600), (49, 96), (75, 50), (1, 1)])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("layout", ["whole", "parts"])
@pytest.mark.parametrize("tiled", [None, False, True])
def test_photos_are_worked_on_as_by_export_run(page, size, channels, layout, tiled):
    photo = new_image(*size, channels)
    expected = run.generate(stand_in(channels, layout == "whole"), photo, seed=7, tile=tiled)
    manifest = {"image_size": [32, 48], "steps": 2, "schedule": SCHEDULE, "is_local": True}
    manifest["inputs"] = {"noise": {"shape": [1, 8, 12, 4]}, "condition": {"shape": [1, 32, 48, channels]}}
    page.evaluate(
        f"(async () => {{ const manifest = {json.dumps(manifest)}; {STANDS_IN}"
        "const { generate } = await import('generate'); window.shares = [];"
        f"const options = {{ seed: 7n, tiled: {json.dumps(tiled)}, signal: new AbortController().signal,"
        " progress: (share) => shares.push(share), threads: () => 2 };"
        f"for await (const image of generate({layout}, manifest, {sent(photo)}, options)) window.made = image; }})()"
    )
    np.testing.assert_allclose(called(page, "resample", "corner(made, made.height, made.width)"), expected, atol=2e-6)
    shares = page.evaluate("shares")
    assert shares == sorted(shares) and shares[-1] == 1


@pytest.mark.parametrize("size", [(32, 48), (9, 7), (32, 49), (60, 90), (200, 20), (133, 201)])
def test_plans_are_those_of_export_run(page, size):
    """Catches a page that makes tiles where the command makes none, or the other way round."""
    for channels, is_local, tiled, covered in itertools.product((3, 4), (True, False), (None, False), (0, 25, 33)):
        photo = np.zeros((*size, channels), np.float32)
        photo[2 : 2 + covered, :, 3:] = 1
        if tiled and not is_local:  # the command refuses it, the page does not offer it
            continue
        package = dataclasses.replace(stand_in(channels, True).package, is_local=is_local)
        expected = make_plan(package, photo, tiled)
        manifest = {"image_size": [32, 48], "is_local": is_local, "inputs": {"noise": {"shape": [1, 8, 12, 4]}}}
        call = f"planOf({json.dumps(manifest)}, {sent(photo)}, {json.dumps(tiled)})"
        found = page.evaluate(f"import('plan').then(({{ planOf }}) => {call})")
        assert [found["height"], found["width"], found["pieces"]] == [expected.height, expected.width, expected.pieces]
        assert (found["reason"] in ("mask", "task")) == bool(expected.note)


@pytest.mark.parametrize(
    "seconds, share, left",
    [
        (1, 0.5, ""),
        (3, 0, ""),
        (3, 0.9, "about 5 s left"),
        (10, 0.25, "about 30 s left"),
        (30, 0.25, "about 2 min left"),
        (60, 0.01, "about 1.6 h left"),
        (9, 1, "about 5 s left"),
    ],
)
def test_the_time_that_is_left(page, seconds, share, left):
    assert page.evaluate(f"import('tasks').then(({{ timeLeft }}) => timeLeft({seconds}, {share}))") == left


@pytest.mark.parametrize("seed, stream", [(0, 0), (1, 0), (2**40 + 3, 0), (2**63 - 1, 3)])
@pytest.mark.parametrize("count", [1, 6, 1024])
def test_noise_is_that_of_the_seed(page, seed, stream, count):
    found = called(page, "noise", f"gaussianNoise({seed}n, {count}, {stream})")
    np.testing.assert_allclose(found, gaussian_noise(seed, (count,), stream=stream), rtol=2**-22)


@pytest.mark.parametrize("kind", ["disparity", "depth"])
def test_depth_maps_are_read_as_from_files(page, kind):
    gray = np.random.default_rng(0).integers(1, 200, (5, 7, 1)).repeat(3, axis=-1)
    expected = as_gray_image(nearness(gray[..., 0], kind))
    found = called(page, "depth", f"nearness({sent(gray / np.float32(255))}, '{kind}')")
    np.testing.assert_allclose(found, expected, rtol=0, atol=2**-24)


@pytest.mark.parametrize(
    "values, kind, line",
    [
        ([[[1, 1, 1], [0, 0, 0.5]]], "disparity", "This depth map is in color: choose a gray image."),
        ([[[1, 1, 1], [1, 1, 1]]], "depth", "This depth map is equally near everywhere"),
        ([[[1, 1, 1], [0, 0, 0]]], "depth", "This depth map has distances of 0"),
    ],
)
def test_maps_that_say_nothing_are_refused(page, values, kind, line):
    call = f"import('depth').then(({{nearness}}) => nearness({sent(np.float32(values))}, '{kind}'))"
    assert line in page.evaluate(f"{call}.catch((error) => error.message)")


TEXT = """a photograph of an astronaut riding a horse on the moon we ll see the other three theatres in naïve façades
the cat sat on that mat 猫 猫 ああ the café she s he d they ve the then they there undefined constructor"""
PROMPTS = [
    "",
    " \t\n ",
    "a photograph of an astronaut riding a horse",
    "The ASTRONAUT On A Horse",
    "1980s 12 345.67 x2 ²½٣Ⅷ一",
    "don't it's we'll he'd they've I'm you're o'clock 'start ''s !'s DON'T don’t",
    "!!! ... ?!?!,;: -- (a:1.2) [b] {c} _x_ a_b #tag @me $5 50%",
    "  a\u00a0b\u3000c\u2003d\u0085e\u2028f\r\n\tg  ",
    "no white space: a\x1cb\x1fc\u200bd\u180ee\ufefff",
    "\ufeffa\x00b\x07c\x1b[0m\x7f\x80",
    "naïve façades Ünïcödé İstanbul ıßẞ ǅ caf\u00e9 cafe\u0301 a\u030a \u212b q\u0307\u0323",
    "ΟΔΥΣΣΕΥΣ Σ σίσυφος 猫があああ 汉字 한국어 हिन्दी ไทย עברית العربية ﬁ ſ",
    "🙂👩\u200d👩\u200d👧 🏳️\u200d🌈 ©™ 👍🏽 𝐁𝟙 𠀀",
    "<b>a &amp; b</b> &lt;|endoftext|&gt; <|x|> &#39;s",
    f"{START}the cat{END}!! {END}{END}",
    "the cat!!<|ENDOFTEXT|>!! <|StartOfText|>s<|startoftext |>",
    "hello! the! !! a <Dog>, a<dog>! <Dog>s a.b a.B axb",
    "__proto__ constructor toString undefined",
    "the " * 75,
    "the " * 75 + "Café\n on  the moon",
    "q" * 200,
]
FRAGMENTS = ["the", "THE", "theatre", "'s", "'re", "'", "!", "!!", "é", "e\u0301", "İ", "ß", "Σ", "猫", "हि", "🙂"]
FRAGMENTS += ["½", "٣", "1", "23", "<b>", "—", "_", "don't", "I'LL", "|>", "<|", " ", "\n", "\u3000", "\u0085", "\x00"]
FRAGMENTS += ["\u200b", END, "<|ENDOFTEXT|>", START, "<|StartOfText|>", "<Dog>", "<Dog>s", "a.b"]


def tokenizer(**options) -> Tokenizer:
    """One with merges that are learned here: 80 times the pair that is most frequent in the text."""
    merges = []
    for _ in range(80):
        made = Tokenizer.from_merges(merges)
        tokens = list(made.vocabulary)
        words = [[tokens[number] for number in made.encode(word)] for word in TEXT.split()]
        merges.append(Counter(pair for word in words for pair in pairwise(word)).most_common(1)[0][0])
    tokens = [*Tokenizer.from_merges(merges).vocabulary, "<Dog>", "<Dog>s", "a.b"]
    return Tokenizer({token: i for i, token in enumerate(tokens)}, merges, **options)


def told_by_page(page, tokenizer: Tokenizer, call: str) -> list:
    """What a call of the page's tokenizer gives, which has the vocabulary of this one."""
    vocabulary = site._vocabulary(tokenizer).decode()
    script = f"const tokenizer = new Tokenizer({vocabulary}); return {call}"
    return page.evaluate(f"import('tokenizer').then(({{ Tokenizer }}) => {{ {script} }})")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "!"},
        {"special": {START: True, END: True, "<Dog>": False, "<Dog>s": False, "a.b": True}},
        {"padding": "!", "special": {START: False, END: True, "!": False}},
        {"added": [AddedToken("The", 2000), AddedToken("<b>", 2001, False, True, True), AddedToken("s", 2002, False)]},
        {
            "added": [
                AddedToken("the", 2000, single_word=True),
                AddedToken("É", 2001, lstrip=True),
                AddedToken("/[", 9999),
            ]
        },
    ],
)
def test_prompts_become_the_numbers_of_the_tokenizer(page, options):
    source = random.Random(0)
    prompts = PROMPTS + ["".join(source.choices(FRAGMENTS, k=source.randrange(30))) for _ in range(300)]
    known = tokenizer(**options)
    found = told_by_page(page, known, f"{json.dumps(prompts)}.map((prompt) => [...tokenizer.read(prompt).ids])")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of prompts that are too long
        expected = known(prompts)
    assert len(np.unique(expected, axis=0)) > 250
    for prompt, a, b in zip(prompts, found, expected, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=ascii(prompt))


def test_every_character_is_of_the_kind_that_it_is_for_the_tokenizer(page):
    """Letter, number, white space or anything else; its lower case; what it is composed of. None is newer than Python.

    Of the letters without case, most of them Chinese, one in ten.
    """
    known, kinds = tokenizer(), {}
    for c in map(chr, range(sys.maxunicode + 1)):
        kinds.setdefault(unicodedata.category(c), []).append(c)
    kinds["Lo"] = kinds["Lo"][::10]
    characters = [c for kind in kinds.keys() - {"Cn", "Co", "Cs"} for c in kinds[kind]]
    assert len(characters) > 28_000
    for i in range(0, len(characters), 10_000):
        texts = [f"the{c}the!{c}! {c}" for c in characters[i : i + 10_000]]
        found = told_by_page(page, known, f"{json.dumps(texts)}.map((text) => tokenizer.encode(text))")
        wrong = [text for text, ids in zip(texts, found, strict=True) if ids != known.encode(text)]
        assert not wrong, ascii(wrong[:9])


def test_what_is_cut_off_a_long_prompt_is_told(page):
    known, prompts = tokenizer(), ["the " * 75, "the " * 75 + "Café\n on  the moon 🙂"]
    with pytest.warns(UserWarning, match="cut off 'café on the moon 🙂'"):
        known(prompts)
    cut = told_by_page(page, known, f"{json.dumps(prompts)}.map((prompt) => tokenizer.read(prompt).cut)")
    assert cut == ["", "café on the moon 🙂"]


def test_half_a_character_is_refused_as_by_the_tokenizer(page):
    known, prompt = tokenizer(), "a \udcff b"
    with pytest.raises(UserError, match="no text that UTF-8 can write; type it again"):
        known(prompt)
    call = f"(async () => tokenizer.read({json.dumps(prompt)}))().catch((error) => error.message)"
    assert told_by_page(page, known, call) == "The prompt holds half of a character: type it again."


@pytest.mark.parametrize(
    "error, line",
    [
        ("new RangeError('Array buffer allocation failed')", "There is not enough memory"),
        ("new Error('failed to allocate a buffer of size 1000')", "There is not enough memory"),
        ("new Error('no such\\noperator')", "It did not work: no such. Load the page again."),
    ],
)
def test_what_goes_wrong_is_one_line(page, error, line):
    found = page.evaluate(f"import('errors').then(({{explain}}) => explain({error}))")
    assert found.startswith(line) and "\n" not in found


def test_bad_manifests_are_refused(page):
    """The table of Python and C++. Catches a value of a stranger's manifest that is believed."""
    call = (
        "import('manifest').then(({ checked }) => MANIFESTS.map((manifest) => {"
        "try { checked(manifest); return 'taken' }"
        "catch (error) { return `${error.constructor.name}: ${error.message}` }}))"
    )
    bad = bad_manifests("onnx")
    manifests = [good_manifest("onnx"), *bad.values(), None, [], 5, "x", {}]
    good, *refused = page.evaluate(call.replace("MANIFESTS", json.dumps(manifests)))
    assert good == "taken"
    assert [change for change, said in zip(bad, refused, strict=False) if said == "taken"] == []
    begin, end = "PageError: The package of this page cannot be run, ", ": export it again, and make the page again."
    assert all(said.startswith(begin) and said.endswith(end) and len(said) < 200 for said in refused)


def test_changed_files_are_refused(page):
    """SHA-256, computed in both ways, of every length about a block; and a file that is not the manifest's."""
    contents = [bytes(range(256)) * 300, *((b"0123456789" * 20)[:n] for n in (0, 1, 55, 56, 63, 64, 119))]
    coded = json.dumps([list(content) for content in contents])
    call = "import('manifest').then(({ sha256 }) => Promise.all(CONTENTS.map((c) => sha256(Uint8Array.from(c)OWN))))"
    for own in ("", ", null"):
        sums = page.evaluate(call.replace("CONTENTS", coded).replace("OWN", own))
        assert sums == [hashlib.sha256(content).hexdigest() for content in contents]
    call = "import('manifest').then(({ verified }) => verified({files: {a: 'SUM'}}, 'a')(Uint8Array.of(1, 2)))"
    found = page.evaluate(call.replace("SUM", hashlib.sha256(b"\1\2").hexdigest()) + ".then((bytes) => bytes.length)")
    assert found == 2
    said = page.evaluate(call.replace("SUM", "0" * 64) + ".catch((error) => error.message)")
    assert said == "a is damaged or changed: copy the whole folder again."


def test_threads_and_devices_are_those_that_the_device_has(page):
    """Catches more threads than cores or memory allow, and a graphics processor that nobody asked for."""

    def threads(device: str, size: int, **has) -> int:
        return page.evaluate(f"import('pool').then((pool) => pool.threadsFor('{device}', {size}, {json.dumps(has)}))")

    assert [threads("cpu", 1 << 20, hardwareConcurrency=cores, deviceMemory=8) for cores in (1, 3, 16)] == [1, 3, 4]
    found = [threads("cpu", 1 << 28, hardwareConcurrency=8, deviceMemory=size) for size in (0.5, 2, 4, 8)]
    assert found == [1, 1, 2, 4]
    assert threads("gpu", 1, hardwareConcurrency=8, deviceMemory=8) == 1

    def devices(adapter: str, has: bool = True) -> list[str]:
        gpu = f"{{gpu: {{requestAdapter: async () => {adapter}}}}}"
        return page.evaluate(f"import('device').then((device) => device.devices({json.dumps(has)}, {gpu}))")

    assert devices("({info: {isFallbackAdapter: false}})") == ["gpu", "cpu"]
    assert devices("({info: {isFallbackAdapter: true}})") == devices("null") == ["cpu"]
    assert devices("{ throw new Error('no driver') }") == devices("({info: {}})", has=False) == ["cpu"]
    assert page.evaluate("import('device').then((device) => device.devices(true, {}))") == ["cpu"]
