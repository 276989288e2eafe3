"""Unreadable records and damaged shards: replaced, counted, named, refused if there are too many."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import tensorflow as tf
from numbered_images import S, marks, numbered_files, stream_of, take
from shards import new_image, write_tar

from codi_tf import data
from codi_tf.core.errors import UserError, user_errors
from codi_tf.data.counts import Counts
from codi_tf.data.permutation import permuted
from codi_tf.data.pipeline import REPLACED
from codi_tf.data.records import index_files, index_webdataset
from codi_tf.data.stream import Stream, warn_of_unreadable
from codi_tf.data.unreadable import warn_of_damage
from codi_tf.io.listing import files_below


@pytest.fixture(autouse=True)
def no_iterator_is_left():
    """An error leaves its iterator in a reference cycle. Collected in one of its own readers, it waits for itself."""
    yield
    gc.collect()


# --- unreadable records


def damaged(count, bad):
    members = numbered_files(count)
    for number, i in enumerate(sorted(bad)):
        payload = members[f"{i:03}.png"]
        members[f"{i:03}.png"] = (payload[: len(payload) // 2], b"", b"text")[number % 3]
    return members


def test_unreadable_images_are_replaced_by_the_next_ones(tmp_path):
    """Zero bytes, no image, a truncated one: still a function of the number, in any order and any number of threads."""
    bad = {3, 7, 8}
    stream = stream_of(tmp_path, damaged(30, bad), max_unreadable=0.1)
    found = take(stream, 60)
    expected = []
    for i in range(60):
        order = [permuted(k, 30, seed=0, epoch=i // 30) for k in range(30)]
        expected.append(next(order[(i + k) % 30] for k in range(30) if order[(i + k) % 30] not in bad))
    assert list(marks(found)) == list(marks(take(stream.in_python(), 60))) == expected
    assert sorted(line.split(": ")[1] for line in stream.unreadable) == ["003", "007", "008"]
    again = stream_of(tmp_path, damaged(30, bad), max_unreadable=0.1)
    assert list(marks(take(again, 60))) == expected and [line.split(": ")[1] for line in again.unreadable] == [
        "007",
        "008",
    ]
    assert again.look_at(0, 60) == found[REPLACED].sum() >= 2  # of 003, in each epoch
    assert sorted(again.unreadable) == sorted(stream.unreadable)
    assert list(marks(take(again, 20, start=40))) == expected[40:]


def test_a_folder_with_damaged_files(tmp_path):
    for name, payload in damaged(10, {1, 2, 3}).items():
        (tmp_path / name).write_bytes(payload)
    stream = Stream(index_files(files_below(tmp_path)[0]), max_unreadable=0.3)
    assert set(marks(take(stream, 10))) == set(range(10)) - {1, 2, 3}
    stream.look_at(0, 10)
    lines = sorted(stream.unreadable)
    assert [line.split(": ")[0] for line in lines] == [str(tmp_path / f"{i:03}.png") for i in (1, 2, 3)]
    assert all("\n" not in line for line in lines)


def test_a_run_stops_when_too_many_are_unreadable(tmp_path):
    """Of 50 records 1 % is none, of a tenth the sixth is one too many; other threads may have met more by then."""
    for allowed, count in ((0.01, 1), (0.1, 6)):
        stream = stream_of(tmp_path, damaged(50, range(0, 50, 2)), max_unreadable=allowed)
        said = rf"^\d+ of \d+ records are unreadable, more than max_unreadable {allowed} allows: .*a\.tar: 0"
        with pytest.raises(UserError, match=said) as error, user_errors():
            for _ in data.crops(stream, image_size=S, seed=0).take(50):
                pass
        text = str(error.value)
        met = int(text.split()[0])
        assert "\n" not in text and text.endswith("; repair or remove them")
        assert count <= met <= len(stream.unreadable) < 25
        assert (f" and {met - 3} more; " in text) == (met > 3)


def stops(stream, count):
    """Whether reading so many examples, one after the other, ends in an error."""
    try:
        for i in range(count):
            stream.example(i, np.zeros(5, np.float32), S)
    except UserError:
        return True
    return False


@pytest.mark.parametrize(
    ("count", "bad", "allowed", "expected"),
    [(30, 1, 0.01, True), (60, 1, 0.0, True), (60, 5, 0.1, False), (100, 1, 0.01, False), (90, 1, 0.01, True)],
)
def test_of_few_records_the_share_is_one_of_all(tmp_path, count, bad, allowed, expected):
    """Every epoch meets the same bad ones; they count once."""
    stream = stream_of(tmp_path, damaged(count, range(bad)), max_unreadable=allowed)
    assert stops(stream, 8 * count) == expected
    assert len(stream.unreadable) == bad


def test_of_many_records_the_share_is_one_of_400_at_least(tmp_path):
    """Five bad ones among the first hundred of 600 end a run, four do not, nor do five that come one by one."""
    order = [permuted(i, 600, seed=0, epoch=0) for i in range(600)]
    for bad, expected in ((order[:5], True), (order[96:100], False), ([*order[50:54], order[520]], False)):
        assert stops(stream_of(tmp_path, damaged(600, bad)), 600) == expected


def test_what_vanishes_late_is_counted_too(tmp_path):
    """Of all records, however often they were read before."""
    for name, payload in numbered_files(100).items():
        (tmp_path / name).write_bytes(payload)
    stream = Stream(index_files(files_below(tmp_path)[0]))
    assert not stops(stream, 500) and stream.unreadable == []
    for i in (7, 8):
        (tmp_path / f"{i:03}.png").unlink()
    assert stops(stream, 100)
    assert sorted(stream.unreadable) == [f"{tmp_path}/00{i}.png: No such file or directory" for i in (7, 8)]


def test_nothing_can_be_read(tmp_path):
    stream = stream_of(tmp_path, damaged(3, range(3)), max_unreadable=1.0)
    with pytest.raises(UserError, match="none of the 3 records can be read: .* 00"):
        stream.example(0, np.zeros(5, np.float32), S)


def test_counting_from_many_threads(tmp_path):
    stream = stream_of(tmp_path, damaged(64, range(0, 64, 4)), max_unreadable=0.9)
    threads = [
        threading.Thread(target=lambda k=k: [stream.example(i, np.zeros(5), S) for i in range(k, 64, 4)])
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stream.unreadable) == 16
    assert stream.tally.tried >= 64 + 16


def test_other_errors_of_tensorflow_pass(tmp_path):
    with pytest.raises(tf.errors.InvalidArgumentError), user_errors():
        tf.constant([1, 2]) + tf.constant([1, 2, 3])


# --- damaged shards


def test_damaged_shards_are_named(tmp_path):
    """Judged by their share of all shards: what is cut off a file leaves no trace in its size."""
    whole = write_tar(tmp_path / "whole.tar", numbered_files(2))
    short = write_tar(tmp_path / "short.tar", numbered_files(20, 60, 60))
    short.write_bytes(short.read_bytes()[: short.stat().st_size // 2])
    records = index_webdataset([whole, short])
    kept = len(records) - 2
    assert 5 <= kept < 20
    named = (
        rf"1 of 2 shards .*short\.tar: cut off at byte \d+, after {kept} records; the number of lost records is unknown"
    )
    with pytest.warns(UserWarning, match=named):
        warn_of_damage(records.damaged, 2, 0.5)
    with pytest.raises(
        UserError, match=rf"more than max_unreadable 0\.49 allows: .*short\.tar: .*{kept} records; .*copy"
    ):
        warn_of_damage(records.damaged, 2, 0.49)
    with pytest.raises(UserError, match=r"1 of 1 shards are damaged, none is intact: .*short\.tar"):
        warn_of_damage(records.damaged, 1, 1.0)
    warn_of_damage((), 1, 0.0)


# --- what is said of it


def test_what_was_unreadable_is_counted_and_named_afterwards(tmp_path):
    stream = stream_of(tmp_path, damaged(20, range(5)), max_unreadable=0.3)
    counts = Counts([stream])
    counts.add(20, replaced=float(take(stream, 20)[REPLACED].sum()))
    counts.warn_of_replaced()  # nothing: the source names them itself
    with pytest.warns(UserWarning) as caught:
        warn_of_unreadable(stream)
    (line,) = (str(one.message) for one in caught)
    assert line.startswith("5 of 20 records were unreadable, ") and line.endswith(" and 2 more") and "\n" not in line
    assert line.count("a.tar: 00") == 3


def test_where_all_is_readable_nothing_is_said(tmp_path, recwarn):
    stream = stream_of(tmp_path, numbered_files(4))
    take(stream, 4)
    for source in (stream, data.Photos({"a": new_image(0)})):
        warn_of_unreadable(source)
    assert not recwarn
