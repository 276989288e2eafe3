"""Timing of candidates that take turns, so that other work on the machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def side_by_side(
    candidates: dict[str, Callable[[], object]], *, rounds: int = 15, warm_up: int = 2
) -> dict[str, float]:
    """Median seconds of each candidate over `rounds` rounds, after `warm_up` rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warm_up + rounds):
        for name, run in candidates.items():
            began = time.perf_counter()
            run()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}
