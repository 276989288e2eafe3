"""The devices of a training run: tf.distribute's strategies by their names in configs."""

from __future__ import annotations

import contextlib
import os
import socket
import time

from codi_tf import config
from codi_tf.core.allocation import share_one_arena
from codi_tf.core.errors import UserError
from codi_tf.core.showing import clipped
from codi_tf.io.json_files import parse_json

PATIENCE = 10.0  # seconds that a dispatcher has to answer
WORKER_PATIENCE = 60.0  # seconds that its first worker has to appear
_WORKERS = "/tensorflow.data.DispatcherService/GetWorkers"  # a call of TensorFlow's dispatcher


def make_strategy(settings: config.Distribution):
    """The `tf.distribute.Strategy` of a config; for "none" TensorFlow's default one.

    Call it before TensorFlow looks at its devices: it cannot be configured for several workers, or for a split CPU,
    after that.

    Raises:
        UserError: TF_CONFIG is missing or is no cluster, the TPU cannot be reached, or there are too few devices.
    """
    import tensorflow as tf

    if settings.strategy == "none":
        return tf.distribute.get_strategy()
    if settings.strategy == "multiworker":
        _check_cluster()
        if not tf.config.list_physical_devices("GPU"):
            share_one_arena()  # see docs/benchmarks.md; where GPUs compute, the threads of the input matter more
        return tf.distribute.MultiWorkerMirroredStrategy()
    if settings.strategy == "tpu":
        return _tpu_strategy(tf, settings.tpu)
    return tf.distribute.MirroredStrategy(_local_devices(tf, settings.devices))


def scope_of_probes(strategy):
    """The scope in which a run measures, samples and saves: on a TPU the chips compute, see `replicas.compiled`.

    Other strategies keep their first device at hand, and a scope of several workers is for all of them alone.
    """
    import tensorflow as tf

    return strategy.scope() if isinstance(strategy, tf.distribute.TPUStrategy) else contextlib.nullcontext()


def check_data_service(settings: config.Distribution) -> None:
    """Raises UserError where a data service is named and nobody answers at its address, or no worker is there in time.

    TensorFlow itself would wait without end for both.
    """
    if settings.data_service is None:
        return
    host, _, port = settings.data_service.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE):
            pass
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"data service {settings.data_service}: nobody answers there ({reason}); start its dispatcher, or leave "
            "out --data-service"
        ) from None
    end = time.monotonic() + WORKER_PATIENCE
    while not _has_workers(settings.data_service):
        if time.monotonic() > end:
            raise UserError(
                f"data service {settings.data_service}: it has had no worker for {WORKER_PATIENCE:.0f} seconds; start "
                "one, or leave out --data-service"
            )
        time.sleep(1.0)


def _has_workers(address: str) -> bool:
    """Whether a dispatcher has workers. Raises UserError for what is no dispatcher."""
    import grpc

    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            return bool(channel.unary_unary(_WORKERS)(b"", timeout=PATIENCE))  # the answer is a list of them
        except grpc.RpcError as error:
            reason = " ".join(str(getattr(error, "details", str)()).split())
            raise UserError(
                f"data service {address}: what answers there is no dispatcher ({clipped(reason, 200)}); give the "
                "address of one, or leave out --data-service"
            ) from None


def _local_devices(tf, count: int) -> list[str] | None:
    """Names of `count` GPUs, or of parts of the CPU where there is no GPU; None, for all devices, where it is 0."""
    if not count:
        return None
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if len(gpus) < count:
            raise UserError(f"distribution.devices is {count}: this machine has {len(gpus)} GPUs; ask for fewer")
        return [f"/gpu:{i}" for i in range(count)]
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * count)
    return [f"/cpu:{i}" for i in range(count)]


def _check_cluster() -> None:
    text = os.environ.get("TF_CONFIG")
    example = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
    if not text:
        raise UserError(f"TF_CONFIG is not set: every worker needs it, for example TF_CONFIG='{example}'")
    try:
        cluster = parse_json(text, "TF_CONFIG")
        tasks = cluster["cluster"][cluster["task"]["type"]]
        tasks[int(cluster["task"]["index"])]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise UserError(
            f"TF_CONFIG is {clipped(repr(text), 400)}: no cluster with this task in it ({problem}); like {example}"
        ) from None


def _tpu_strategy(tf, name: str):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"TPU {name!r} cannot be reached ({reason}); on a TPU VM install codi-tf[tpu] and use --tpu local"
        ) from None
    return tf.distribute.TPUStrategy(resolver)
