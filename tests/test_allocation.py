"""How a process of several workers keeps its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, sys, threading
from codi_tf.core.allocation import share_one_arena

c, shared = ctypes.CDLL(None), share_one_arena() if sys.argv[1] == "share" else None
c.malloc.restype = c.fopen.restype = ctypes.c_void_p
c.fopen.argtypes, c.fclose.argtypes = [ctypes.c_char_p] * 2, [ctypes.c_void_p]
c.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
together = threading.Barrier(4)

def allocate():
    together.wait()
    c.malloc(100_000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = c.fopen(sys.argv[2].encode(), b"w")
c.malloc_info(0, file)
c.fclose(file)
print(shared)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_threads_share_one_arena_if_asked_to(tmp_path):
    """mallopt is silently without effect where it comes too late, and a user's own setting comes first."""

    def arenas(what: str, **variables: str) -> tuple[int, str]:
        command = [sys.executable, "-c", PROGRAM, what, tmp_path / "info.xml"]
        env = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")} | variables
        env["PYTHONPATH"] = str(Path(__file__).parents[1])
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        return (tmp_path / "info.xml").read_text().count("<heap nr="), done.stdout.strip()

    assert arenas("share") == (1, "True")
    assert arenas("leave")[0] > 1
    several, shared = arenas("share", MALLOC_ARENA_MAX="3")
    assert several > 1 and shared == "False"
