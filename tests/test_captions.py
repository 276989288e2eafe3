"""Text beside images: encodings, JSON, texts that are not needed, missing and long prompts."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from shards import encoded, new_image, write_tar

from codi_tf import data
from codi_tf.checkpoints.tokenizer import Tokenizer
from codi_tf.core.errors import UserError, user_errors
from codi_tf.data import open_source as opening
from codi_tf.data.open_source import open_source
from codi_tf.data.stream import Stream

S = 16
TOKENIZER = Tokenizer.from_merges([])
GOOD = {
    "bom.txt": "a red cat".encode("utf-8-sig"),
    "utf16.txt": "a red cat".encode("utf-16"),
    "utf16be.txt": b"\xfe\xff" + "a red cat".encode("utf-16-be"),
    "lines.txt": b"a\r\n red\tcat \n",
    "caption.json": b'{"caption": "a red cat", "width": 3}',
    "text.json": b'{"text": "a red cat"}',
    "prompt.json": b'{"prompt": "a red cat"}',
    "list.json": b'{"caption": ["a red cat", "another"]}',
    "bom.json": json.dumps({"caption": "a red cat"}).encode("utf-8-sig"),
    "utf16.json": json.dumps({"caption": "a red cat"}).encode("utf-16"),
    "word.json": b'"a red cat"',
}
DAMAGED = {
    "latin1.txt": "un café".encode("latin-1"),
    "utf16 without a mark.txt": "a red cat".encode("utf-16-le"),
    "number.json": b'{"caption": 3}',
    "list.json": b"[1]",
    "cut.json": b'{"caption"',
    "half.json": b'{"caption": "\\ud800"}',
    "deep.json": b"[" * 200_000,
}


class Watched:
    """Records that note the fields that were read of them."""

    def __init__(self, records, read):
        self.records, self.noted, self.fields = records, read, records.fields

    def __len__(self):
        return len(self.records)

    def read(self, i, fields=None):
        self.noted.append(found := self.records.read(i, fields))
        return found


def members(files):
    found = {}
    for i, (name, payload) in enumerate(files.items()):
        found[f"{i}.png"] = encoded(new_image(i))
        found[f"{i}.{name.rpartition('.')[2]}"] = payload
    return found


def sources(folder, monkeypatch, files, **options):
    """The same files in memory, streamed from a folder, and from a tar file."""
    folder.mkdir(exist_ok=True)
    for name, payload in files.items():
        (folder / name).write_bytes(payload)
    yield open_source(str(folder), **options)
    with monkeypatch.context() as patch:
        patch.setattr(opening, "IN_MEMORY", 0)
        yield open_source(str(folder), **options)
    yield open_source(str(write_tar(folder.parent / "a.tar", files)), **options)


def prompts(source, count=60):
    with user_errors():
        examples = data.crops(source, image_size=S, seed=0).take(count).as_numpy_iterator()
        return {example["prompt"].decode() for example in examples}


def batches(source, count=8, tokenizer=TOKENIZER):
    with user_errors():
        made = data.batches(source, None, image_size=S, batch_size=4, seed=0, tokenizer=tokenizer)
        return list(made.take(count).as_numpy_iterator())


def test_every_encoding_and_layout_of_a_caption(tmp_path, monkeypatch):
    """Fault: a byte order mark becomes three tokens, UTF-16 is refused, JSON without "caption" is "" in silence."""
    for source in sources(tmp_path / "data", monkeypatch, members(GOOD)):
        assert prompts(source) == {"a red cat"}


def test_damaged_texts_cost_the_image_where_prompts_are_used_and_only_there(tmp_path, monkeypatch):
    """Fault: a text that the task does not use costs the image; half of a character is a trace."""
    files = members({"good.txt": b"good", **DAMAGED})
    for source in sources(tmp_path / "data", monkeypatch, files, max_unreadable=0.99):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert len(batches(source, 20, tokenizer=None)) == 20
            assert not getattr(source, "unreadable", ()) and not caught
        assert prompts(source) == {"good"}
    for source in sources(tmp_path / "data", monkeypatch, files, max_unreadable=0.1):
        with pytest.raises(
            UserError, match=r"of \d records are unreadable.*(its text is damaged|, not a text)"
        ) as caught:
            prompts(source)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_texts_that_are_not_used_are_not_read(tmp_path, monkeypatch):
    """Fault: a million caption files are opened for a task without prompts."""
    files = members({"good.txt": b"good", "other.txt": b"other"})
    for source in sources(tmp_path / "data", monkeypatch, files):
        monkeypatch.setattr("codi_tf.data.prompts.text_of", lambda fields: pytest.fail("a text was read"))
        read = []
        if isinstance(source, Stream):
            source.records = Watched(source.records, read)
        batches(source, 2, tokenizer=None)
        data.evaluation_set(source, None, image_size=S, count=2, seed=0, prompts=False)
        assert all(set(one) == {"image"} for one in read)
        monkeypatch.undo()


def test_a_run_says_how_many_prompts_are_missing(tmp_path, monkeypatch):
    """Fault: images without a caption are trained with the empty prompt in silence."""
    files = members({"a.txt": b"a cat", "b.txt": b"a dog"}) | {"9.png": encoded(new_image(9))}
    for source in sources(tmp_path / "data", monkeypatch, files):
        with pytest.warns(UserWarning, match="1 of 3 images have no prompt, and take the empty one"):
            batches(source)


def test_a_run_without_any_prompt_is_refused(tmp_path, monkeypatch):
    """Fault: a run on prompts trains on empty ones alone."""
    empty = members({"a.txt": b" \n", "b.json": b'{"title": "a dog"}'})
    for source in sources(tmp_path / "data", monkeypatch, empty):
        with pytest.raises(UserError, match="none of (these 2 images has a prompt|the first 400 prompts has a word)"):
            batches(source, 101)
    with pytest.raises(UserError, match="images without prompt"):
        batches(open_source(str(write_tar(tmp_path / "b.tar", {"a.png": encoded(new_image(0))}))))


def test_long_prompts_are_counted(tmp_path, monkeypatch):
    """Fault: a line for each long caption, each time it is read."""
    files = members({f"{i}.txt": f"{i} {'word ' * 90}".encode() for i in range(12)})
    for source in sources(tmp_path / "data", monkeypatch, files):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            batches(source, 40)
        said = [str(one.message) for one in caught]
        assert 1 <= len(said) <= 3 and all("prompts cut off so far" in line and len(line) < 250 for line in said), said


def test_several_long_prompts_in_one_call_are_one_warning():
    """Fault: `tokenizer(prompts)` warns of each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ids = TOKENIZER([f"{i} {'word ' * 90}" for i in range(5)] + ["short"])
    assert ids.shape == (6, 77) and len(caught) == 1
    assert "(the first of 5 that are cut off)" in str(caught[0].message)
    assert np.array_equal(TOKENIZER("short"), ids[5:])
