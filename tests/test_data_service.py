"""Batches of a tf.data service: the order and the bits of a single process, whatever workers come and go."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from numbered_images import S
from prepared_records import numbered_records
from safetensors.numpy import load_file
from shards import write_tar
from tiny import tiny_run

from codi_tf import config, data
from codi_tf.cli import cache
from codi_tf.cli.train import train
from codi_tf.core.errors import UserError
from codi_tf.data.open_source import open_source
from codi_tf.data.service import AHEAD, in_order, served_batches
from codi_tf.tasks import make_task
from codi_tf.training import distribution

ROOT = Path(__file__).parents[1]
SERVER = """
import sys, tensorflow as tf
service = tf.data.experimental.service
if sys.argv[1] == "dispatcher":
    config = service.DispatcherConfig(port=int(sys.argv[2]), worker_timeout_ms=5000)
    server = service.DispatchServer(config)
else:
    config = service.WorkerConfig(dispatcher_address="localhost:" + sys.argv[2], heartbeat_interval_ms=500)
    server = service.WorkerServer(config)
print("ready", flush=True)
server.join()
"""


def numbers(values):
    """A dataset of (number, batch), where a batch says its number and who made it."""
    dataset = tf.data.Dataset.from_tensor_slices(np.array(values, np.int64))
    return dataset.map(lambda number: (number, {"x": tf.fill([2, 3], number), "made_here": False}))


def made_here(number):
    return tf.data.Dataset.from_tensors({"x": tf.fill([2, 3], number), "made_here": True})


def sorted_up(values, start=0):
    found = list(in_order(numbers(values), made_here, start).as_numpy_iterator())
    assert all((batch["x"] == batch["x"][0, 0]).all() for batch in found)
    return [int(batch["x"][0, 0]) for batch in found], [int(b["x"][0, 0]) for b in found if b["made_here"]]


def test_batches_come_in_the_order_of_their_numbers():
    assert sorted_up([7, 5, 6, 8, 10, 9], start=5) == ([5, 6, 7, 8, 9, 10], [])
    shuffled = np.concatenate([16 * block + np.random.default_rng(block).permutation(16) for block in range(12)])
    assert sorted_up(shuffled) == (list(range(192)), [])


def test_a_batch_that_does_not_come_is_made_here_and_not_taken_twice():
    """Faults: a worker that is lost stops the run; a batch that comes late after all is trained on twice."""
    late = [n for n in range(80) if n not in (3, 4, 50)]
    order, ours = sorted_up([*late[:60], 3, *late[60:], *range(80, 80 + AHEAD + 20)])
    assert order == list(range(len(order))) and len(order) == 80 + AHEAD + 20 and ours == [3, 4, 50]
    far = 10 * AHEAD
    order, ours = sorted_up([0, 2, far])
    assert order == list(range(far - AHEAD + 1)) and set(ours) == set(order) - {0, 2}


@pytest.fixture
def records(tmp_path):
    return numbered_records(tmp_path)


def maker(source):
    options = {"image_size": S, "batch_size": 4, "seed": 3}
    return functools.partial(data.batches, source, make_task("inpainting"), **options)


def source_of(records, kind):
    """The same images, written by `codi prepare`, as files, and in a tar file."""
    if kind == "records":
        return data.load_source(str(records), None)
    files = {path.name: path.read_bytes() for path in (records.parent / "images").iterdir()}
    name = records.parent / "images" if kind == "folder" else write_tar(records.parent / "a.tar", files)
    return open_source(str(name), in_memory=False)


def check_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert set(ours) == set(theirs)
        for key, value in theirs.items():
            np.testing.assert_array_equal(ours[key], value)


@pytest.mark.parametrize("kind", ["records", "folder", "tar"])
def test_a_service_gives_the_batches_of_this_process(records, kind):
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=0))
    address = dispatcher.target.removeprefix("grpc://")
    workers = [service.WorkerServer(service.WorkerConfig(dispatcher_address=address)) for _ in range(2)]
    make = maker(source_of(records, kind))
    served = served_batches(lambda step: make(start_step=step, count=1), 2, address, "records")
    assert served.element_spec == make().element_spec
    check_same(served.take(6).as_numpy_iterator(), make(start_step=2).take(6).as_numpy_iterator())
    del workers


def test_a_source_that_python_reads_is_refused(records):
    source = open_source(str(records.parent / "images"), in_memory=False).in_python()
    make = functools.partial(data.batches, source, None, image_size=S, batch_size=4, seed=3)
    with pytest.raises(UserError, match="images is read by Python in this process, .* write it with codi prepare"):
        served_batches(lambda step: make(start_step=step, count=1), 0, "localhost:1", "images")


def test_a_service_without_a_worker_is_one_line(monkeypatch):
    """Fault: a run that waits for ever for its first batch. What is no dispatcher is told from one."""
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=0))
    address = dispatcher.target.removeprefix("grpc://")
    settings = config.Distribution(data_service=address)
    monkeypatch.setattr(distribution, "WORKER_PATIENCE", 0.5)
    with pytest.raises(UserError, match=f"{address}: it has had no worker for 0 seconds; start one") as caught:
        distribution.check_data_service(settings)
    assert "\n" not in str(caught.value)
    worker = service.WorkerServer(service.WorkerConfig(dispatcher_address=address))
    distribution.check_data_service(settings)
    other = worker._address
    with pytest.raises(UserError, match=f"{other}: what answers there is no dispatcher"):
        distribution.check_data_service(config.Distribution(data_service=other))


@contextlib.contextmanager
def servers(*kinds, program=SERVER):
    """Processes of a dispatcher and workers: (its address, the processes)."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = []
    try:
        for kind in kinds:
            command = [sys.executable, "-c", program, kind, str(port)]
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
            one = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
            processes.append(one)
            assert one.stdout is not None and one.stdout.readline() == "ready\n"
        yield f"localhost:{port}", processes
    finally:
        for one in processes:
            one.kill()
            one.wait()


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_no_bit(records):
    make = maker(source_of(records, "records"))
    expected = make().take(60).as_numpy_iterator()
    with servers("dispatcher", "worker", "worker") as (address, (_, _, second)):
        found = iter(served_batches(lambda step: make(start_step=step, count=1), 0, address, "records"))
        for number in range(60):
            if number == 20:
                second.send_signal(signal.SIGKILL)
            ours = {key: value.numpy() for key, value in next(found).items()}
            check_same([ours], [next(expected)])


@pytest.fixture
def trainings(tmp_path, records):
    """The settings of two trainings: on prepared records, and on encoded examples."""
    values = tiny_run(tmp_path, steps=16, save_every=16, batch_size=4)
    whole = {**values, "data": {"image_size": 16, "source": str(records), "heldout_fraction": 0.0}}
    assert cache.encode(config.from_dict(whole), tmp_path / "cache", examples=30, shard=8)
    return {"records": whole, "cache": {**whole, "data": {**whole["data"], "source": str(tmp_path / "cache")}}}


class Kill(keras.callbacks.Callback):
    """Kills a process after the fifth update."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    def on_train_batch_end(self, batch, logs=None):
        if batch == 5:
            self.process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["records", "cache"])
def test_a_training_whose_worker_is_killed_ends_with_the_same_weights(trainings, tmp_path, kind):
    values = trainings[kind]
    train(config.from_dict(values), tmp_path / "alone")
    with servers("dispatcher", "worker", "worker") as (address, (_, _, second)):
        served = config.from_dict({**values, "distribution": {"data_service": address}})
        train(served, tmp_path / "served", callbacks=[Kill(second)])
        assert second.poll() is not None
    weights = [tmp_path / name / "result" / "adapter" for name in ("alone", "served")]
    alone, ours = (load_file(folder / "diffusion_pytorch_model.safetensors") for folder in weights)
    assert alone.keys() == ours.keys() and len(alone) > 0
    for key, value in alone.items():
        np.testing.assert_array_equal(ours[key], value)


REMOTE = """
import sys, numpy as np, tensorflow as tf
from codi_tf import data
from codi_tf.tasks import make_task

if sys.argv[2] != "here":
    tf.config.experimental_connect_to_host(sys.argv[2])
with tf.device("/job:worker/replica:0/task:0/device:CPU:0") if sys.argv[2] != "here" else tf.device(None):
    source = data.load_source(sys.argv[1], None)
    dataset = data.batches(source, make_task("inpainting"), image_size=16, batch_size=4, seed=3)
    batch = next(iter(dataset))
assert ("job:worker" in batch["image"].device) == (sys.argv[2] != "here"), batch["image"].device
print([float(tf.reduce_sum(batch[key] * tf.range(1.0, 17.0)[:, None])) for key in ("image", "condition")])
"""
HOST = """
import sys, tensorflow as tf
server = tf.distribute.Server({"worker": ["localhost:" + sys.argv[2]]}, job_name="worker", task_index=0)
print("ready", flush=True)
server.join()
"""


@pytest.mark.slow
def test_another_host_reads_prepared_records(records):
    """As hosts of a pod do, for a program that runs on one of them."""

    def printed(where):
        command = [sys.executable, "-c", REMOTE, str(records), where]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    with servers("worker", program=HOST) as (address, _):
        assert printed(address) == printed("here")
