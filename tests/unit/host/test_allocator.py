"""Threads that come and go with large blocks leave little behind."""

import platform
import subprocess
import sys

PROGRAM = """
import ctypes
import os
import sys
import threading

from glm4v.host.allocator import limit_arenas
from tests.hostile.run import resident_mb

if sys.argv[1] == "limited":
    limit_arenas()
MB = 2**20
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free(libc.malloc(27 * MB))  # from now on glibc takes such blocks from its heaps
done, ending = threading.Semaphore(0), threading.Event()

def use() -> None:
    block = libc.malloc(20 * MB)
    libc.memset(block, 1, 20 * MB)
    libc.malloc(100_000)  # stays, behind it
    libc.free(block)
    done.release()
    ending.wait()

for _ in range(12):
    threading.Thread(target=use, daemon=True).start()
    done.acquire()
print(resident_mb(os.getpid()))
"""


def test_freed_blocks_are_used_by_other_threads() -> None:
    def resident(argument: str) -> float:
        command = [sys.executable, "-c", PROGRAM, argument]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    saved_mb = resident("not") - resident("limited")
    assert saved_mb > 100 or platform.libc_ver()[0] != "glibc"
