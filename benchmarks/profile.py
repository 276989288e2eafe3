"""python -m benchmarks.profile CONFIG [section.key=value ...]: where the time of a training step goes.

TensorFlow's profiler records the operations of a few updates on random latents, on one thread, and the time of each
operation without those inside it is added up by what the operation is for: by its type, then by the layer that its name
gives. So this needs no data but the config's own base. Page faults and the time in the system's kernel come from the
operating system.
"""

from __future__ import annotations

import re
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.demo import trainer_and_batch
from codi_tf.core.arguments import integer
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow

OPERATION = re.compile(r"([^:]+):(_?[A-Z]\w*)")  # name:type
BY_TYPE = {
    "convolutions, to the filter": r"Conv2DBackpropFilter",
    "convolutions, to the input": r"Conv2DBackpropInput",
    "convolutions, forward": r"Conv2D",
    "attention: products": r"BatchMatMul",
    "dense layers: products": r"MatMul",
    "attention: softmax": r"Softmax",
    "layouts: transposing, padding, joining": r"Transpose|Pad|Concat|Slice|Split|ResizeNearest|Tile",
    "optimizer and moving averages": r"ResourceApply",
    "variables": r"VarHandle|ReadVariable|AssignVariable|Assign(Add|Sub)Variable",
    "random numbers": r"Random",
    "compiled by XLA": r"^_?Xla",
}
BY_NAME = {
    "optimizer and moving averages": r"averages|clip_by_global_norm|global_norm|optimizer",
    "normalization and its activation": r"norm",
    "attention: softmax": r"attn",
    "feed-forward networks: activation": r"/ff",
    "biases, sums of branches, other activations": r"conv|dense|resnets|proj|time_emb|mlp|fc1|fc2|to_out",
}
REST = "rest"


def kind_of(name: str, operation: str) -> str:
    """What an operation is for, one of the rows of the table."""
    for kind, pattern in BY_TYPE.items():
        if re.search(pattern, operation):
            return kind
    if operation == "Cast":
        return "casts"
    for kind, pattern in BY_NAME.items():
        if re.search(pattern, name):
            return kind
    return REST


def operations(folder: Path) -> Iterator[tuple[str, str, float]]:
    """(name, type, milliseconds without the operations inside it) of every operation that the profiler recorded."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    for file in folder.rglob("*.xplane.pb"):
        space = xplane_pb2.XSpace()
        space.ParseFromString(file.read_bytes())
        for plane in space.planes:
            names = {number: found for number, entry in plane.event_metadata.items() if (found := _named(entry.name))}
            for line in plane.lines:
                events = [
                    (e.offset_ps, e.duration_ps, names[e.metadata_id]) for e in line.events if e.metadata_id in names
                ]
                yield from _own_times(events)


def _named(text: str) -> tuple[str, str] | None:
    found = OPERATION.fullmatch(text.split("#")[0])
    return None if found is None else (found[1], found[2])


def _own_times(events: list) -> Iterator[tuple[str, str, float]]:
    """Of (start, length, (name, type)) on one thread: each length without those of the events inside, in ms."""
    own, open_events = [length for _, length, _ in events], []
    order = sorted(range(len(events)), key=lambda i: (events[i][0], -events[i][1]))
    for i in order:
        start, length, _ = events[i]
        while open_events and open_events[-1][1] <= start:
            open_events.pop()
        if open_events:
            own[open_events[-1][0]] -= length
        open_events.append((i, start + length))
    for (_, _, name), picoseconds in zip(events, own, strict=True):
        yield *name, picoseconds / 1e9


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.splitlines()[0])
    parser.add_argument("config", help="a file of configs/")
    parser.add_argument("--updates", type=integer(1, 1000), default=5, help="recorded updates (default: 5)")
    parser.add_argument("--operations", type=integer(0, 10_000), default=0, help="also list so many of the slowest")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values in place of the config's")
    options = parser.parse_intermixed_args(arguments)
    start_tensorflow(_one_thread)
    import tensorflow as tf

    settings, trainer, batch = trainer_and_batch(options.config, options.overrides)
    update = tf.function(trainer.update, autograph=False)
    for _ in range(2):
        update(batch)
    usage, began = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    for _ in range(options.updates):
        update(batch)
    seconds, after = (time.process_time() - began) / options.updates, resource.getrusage(resource.RUSAGE_SELF)
    with tempfile.TemporaryDirectory() as folder:
        recorder = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2, python_tracer_level=0)
        tf.profiler.experimental.start(folder, recorder)
        for _ in range(options.updates):
            update(batch)
        tf.profiler.experimental.stop()
        found = list(operations(Path(folder)))
    rows, single = Counter(), Counter()
    for name, operation, milliseconds in found:
        kind = kind_of(name, operation)
        rows[kind] += milliseconds / options.updates
        single[kind, operation, name] += milliseconds / options.updates
    total = sum(rows.values())
    faults = (after.ru_minflt - usage.ru_minflt) / options.updates
    system = (after.ru_stime - usage.ru_stime) / options.updates
    count = settings.train.batch_size
    print(f"{1e3 * seconds:.0f} ms of processor time an update of {count} examples, {count / seconds:.1f} examples/s;")
    print(f"{1e3 * system:.0f} ms of it in the kernel; {faults:.0f} page faults. Recorded: {total:.0f} ms an update,")
    print(f"{len(found) / options.updates:.0f} operations\n\n| | ms | share |\n|---|---:|---:|")
    for kind, milliseconds in rows.most_common():
        print(f"| {kind} | {milliseconds:.0f} | {milliseconds / total:.0%} |")
    if options.operations:
        print()
    for (kind, operation, name), milliseconds in single.most_common(options.operations):
        print(f"{milliseconds:7.2f} ms  {operation}, {name[-100:]} ({kind})")


def _one_thread() -> None:
    """The time of an operation is then the time that it takes of the processor."""
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)


if __name__ == "__main__":
    sys.exit(run_command(_main))
