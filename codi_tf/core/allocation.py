"""The C library's memory in a process whose threads free each other's arrays. Needs no TensorFlow."""

from __future__ import annotations

import ctypes
import os

M_ARENA_MAX = -8  # of mallopt(3)


def share_one_arena() -> bool:
    """Let all threads that start from now on share one arena of memory, in glibc; call it as early as possible.

    With an arena for each thread, what one thread frees is not at hand for another, and the C library gives it back to
    the system: a step of several workers, whose sums wake other threads than those that computed, then begins with
    fresh pages, and each costs a page fault. One arena is a lock for all threads, which matters where many of them
    allocate at once.

    Returns whether it is so: not where the C library is another one, or MALLOC_ARENA_MAX says otherwise.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return os.environ["MALLOC_ARENA_MAX"] == "1"
    try:
        return bool(ctypes.CDLL("libc.so.6").mallopt(M_ARENA_MAX, 1))
    except (OSError, AttributeError):
        return False
