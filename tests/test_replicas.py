"""The same mathematics on one and on two replicas; several workers as real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.workers import local_cluster
from codi_tf.data.pipeline import REPLACED

pytestmark = pytest.mark.slow  # processes of their own

HERE = Path(__file__).parent
IN_PAIRS = "codi, accumulated, two steps in a call"
CASES = ("codi", "finetune", "halving", IN_PAIRS)


def seen_by(program: str) -> dict:
    """What a program beside this file prints."""
    done = subprocess.run(
        [sys.executable, HERE / program],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found():
    """What tests/on_two_replicas.py saw."""
    return seen_by("on_two_replicas.py")


@pytest.mark.parametrize("case", CASES)
def test_two_replicas_learn_what_one_does(found, case):
    """Gradients are summed in another order: the weights agree within rounding, after steps that moved them far more.

    Adam's first steps are nearly signs, which turn where a gradient is nearly 0: a weight or two may then be a step
    of 1e-3 apart, not the mean.
    """
    results = found[case]
    assert results["moved"] > 1e-3 and results["iterations"] == 4
    assert results["weights"] < 2e-5 and results["average"] < 2e-5


@pytest.mark.parametrize("case", CASES)
def test_the_copies_of_a_variable_stay_equal_bit_by_bit(found, case):
    assert found[case]["copies"] == 0


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_traced_anew(found, case):
    assert found[case]["traced"] == 1


@pytest.mark.parametrize("case", CASES)
def test_a_number_that_is_not_finite_on_one_replica_skips_the_step_on_all(found, case):
    assert found[case]["poisoned"] == {"stop": 1, "changed": 0, "skipped": 1, "in a row": 1, "copies": 0}


@pytest.mark.parametrize("case", CASES[:3])
def test_logs_are_means_over_the_global_batch(found, case):
    for one, two in zip(found[case]["logs of one"], found[case]["logs of two"], strict=True):
        assert two == pytest.approx(one, rel=2e-4)
        assert one["loss"] > 0 and one["skipped"] == 0 and one[REPLACED] > 0  # counts are sums over the batch


def test_steps_in_one_call_are_those_of_several(found):
    results = found[IN_PAIRS]
    one, pairs = results["logs of one"], results["logs of two"]
    means = [(a["loss"] + b["loss"]) / 2 for a, b in zip(one[::2], one[1::2], strict=True)]
    assert [pair["loss"] for pair in pairs] == pytest.approx(means, rel=2e-4)


def test_buckets_are_shared_by_replicas(found):
    """Catches a replica that has another bucket than the others, a shape that is traced anew, and one left out."""
    results = found["buckets"]
    (shapes, losses, traces), (of_two, losses_of_two, traces_of_two) = results["one"], results["two"]
    assert traces == traces_of_two == 2 and sum(count for count, *_ in shapes) == 6
    assert {tuple(shape) for _, *shape in shapes} == {(4, 16, 32, 3), (4, 32, 16, 3)}
    assert of_two == [[count, 2, *shape] for count, _, *shape in shapes]
    assert losses_of_two == pytest.approx(losses, rel=2e-4)
    assert results["weights"] < 2e-5 and results["copies"] == 0


def test_what_a_run_measures_is_computed_by_every_replica_alike(found):
    """In a TPU's scope: outside of it the host would compute, with weights that it fetches from the chips."""
    probes = found["probes"]
    assert probes["two"] == pytest.approx(probes["one"], rel=1e-4) and probes["one"]["condition_use"] > 0
    assert probes["replicas"] == 2


def test_replicas_encode_whole_batches_with_the_bits_of_one(found):
    """An example's bytes must not depend on how many chips encode; the last call has a batch for one of two."""
    assert found["encoded"] == [True, True, True]


def test_two_workers_end_with_the_same_bits_from_different_halves_of_the_data():
    workers = [
        subprocess.Popen(
            [sys.executable, HERE / "on_two_workers.py"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent), "TF_CONFIG": cluster},
        )
        for cluster in local_cluster(2)
    ]
    try:
        outputs = [worker.communicate(timeout=600) for worker in workers]
    finally:  # one that is alone waits for the other
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], [errors[-2000:] for _, errors in outputs]
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in outputs)
    assert first["data"] != second["data"] and first["start"] != first["end"]
    assert (first["start"], first["end"]) == (second["start"], second["end"])
    assert first["traced"] == second["traced"] == 1 == first["stop"] == second["stop"]


def test_fit_on_two_replicas_is_fit_on_one_or_one_line_before_training():
    """Catches a last, partial batch that ends an epoch with a trace, and means that are added up over replicas."""
    found = seen_by("fit_on_two_replicas.py")
    assert found["furthest"] < 2e-5 and found["one"].keys() == found["two"].keys() >= {"loss", "val_loss", "skipped"}
    for name, values in found["one"].items():
        assert found["two"][name] == pytest.approx(values, rel=2e-4) == found["keras"][name]
    for case in ("partial", "odd", "evaluation"):
        assert "which 2 replicas must share evenly: use .batch(N, drop_remainder=True)" in found[case], found[case]
    assert "2 replicas must divide it: use .batch(N, drop_remainder=True)" in found["arrays"]
    assert "on several replicas clips the gradient of each: use codi_tf" in found["clip"]
    assert found["updates"] == 0
    assert "within the strategy.scope() that it was made in" in found["scope"]
