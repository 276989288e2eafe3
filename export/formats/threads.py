"""The number of threads that a graph is run with."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

QUOTAS = (  # files of control groups, version 2 and 1, with a quota and its period in microseconds
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def default_threads(most: float = math.inf) -> int:
    """The number of processors that this process may use, at most `most`.

    `os.cpu_count()` counts all of the machine. Here count those that the process may run on, or fewer if its container
    is given less.
    """
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        processors = os.cpu_count() or 1
    return max(1, int(min(processors, _quota(), most)))


def _quota() -> float:
    """The processors that a container is given; infinite without a limit."""
    for files in QUOTAS:
        with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
            quota, period = " ".join(Path(file).read_text("ascii") for file in files).split()
            if int(quota) > 0:
                return math.ceil(int(quota) / int(period))
    return math.inf
