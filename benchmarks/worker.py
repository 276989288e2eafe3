"""python -m benchmarks.worker NAME FORMAT: one candidate of a benchmark in another process.

The process does the candidate's work once for every line that it reads, and answers with the seconds of the work and
its peak memory so far in bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from benchmarks.own_process import peak_memory


class Process:
    """A process that does its work once for each line that it reads, answers with a line of JSON, and is idle between.

    Args:
        command: the program and its arguments.
        variables: of the environment, besides those of this process.
    """

    def __init__(self, command: list[str], **variables: str):
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if "VERBOSE" not in os.environ else None,
            text=True,
        )

    def answer(self) -> dict:
        """Do the work once. Raises RuntimeError if the process has ended."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args[2:])} ended; VERBOSE=1 shows why")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


class Worker(Process):
    """A process that does a candidate's work when it is called."""

    def __init__(self, name: str, dtype: str):
        super().__init__([sys.executable, "-m", "benchmarks.worker", name, dtype])
        self.peak = 0

    def __call__(self) -> float:
        """Do the work once; return its seconds."""
        answer = self.answer()
        self.peak = answer["peak"]
        return answer["seconds"]


def _main(name: str, dtype: str) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    from benchmarks.candidates import CANDIDATES

    run = CANDIDATES[name](dtype)
    for _ in sys.stdin:
        began = time.perf_counter()
        result = run()
        if hasattr(result, "numpy") and "torch" not in type(result).__module__:
            result.numpy() if result.dtype != "bfloat16" else None  # wait for the result
        seconds = time.perf_counter() - began
        peak = peak_memory()
        print(json.dumps({"seconds": seconds, "peak": peak}), file=answers, flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
