"""Measures how long workers take until they are ready, and what memory they hold.

The checkpoint is in the page cache already. In turns with the workers the same bytes are read by
plain calls: into memory that is kept, the least that a process with these weights has to do, and
into one buffer, again and again.

A virtual machine may give free memory back to its host within seconds, and the host takes its time
to find it again: up to 3 s for a GB were seen, for one process and not for the next. So as much
memory is taken first, touched, and given back when reading begins.
"""

import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.errors import Unavailable

_PIECE_BYTES = 2**23
_POLL_S = 0.005
_READY_S = 1800.0
_STOP_S = 60.0
_CACHE_BYTES = 2**26  # of the KV cache; none of it is touched before the first request
_VISION = "transformer.vision."
MODULES = {"language": "lm_worker", "vision": "vision_worker"}


@dataclass(frozen=True, slots=True)
class Reading:
    """Seconds of reading a worker's bytes from the page cache."""

    kept_s: float  # into memory that is kept, in large pages
    buffer_s: float  # into one buffer of 8 MiB


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a worker, in seconds and bytes."""

    imports_s: float  # until its log's first line: interpreter and imports
    ready_s: float  # until it says that it is ready
    peak: int  # anonymous memory, at most, before it was ready
    held: int  # anonymous memory, once it was ready
    pss: int  # that, and its share of files and libraries


def weight_ranges(checkpoint: Checkpoint, *, vision: bool) -> list[tuple[Path, int, int]]:
    """Files with the first byte and the end of what a worker reads of them, neighbours joined."""
    joined: list[tuple[Path, int, int]] = []
    places = [
        place for name, place in checkpoint.tensors.items() if name.startswith(_VISION) == vision
    ]
    for place in sorted(places, key=lambda place: (place.file, place.start)):
        if joined and joined[-1][0] == place.file and joined[-1][2] == place.start:
            joined[-1] = (place.file, joined[-1][1], place.end)
        else:
            joined.append((place.file, place.start, place.end))
    return joined


def read(ranges: list[tuple[Path, int, int]]) -> Reading:
    """Read the bytes twice, by one thread."""
    total = sum(end - start for _, start, end in ranges)
    touched_memory(total).close()
    begin = time.perf_counter()
    with _large_pages(total) as kept:
        with memoryview(kept) as memory:
            _read_into(ranges, memory)
        kept_s = time.perf_counter() - begin
    begin = time.perf_counter()
    _read_into(ranges, memoryview(bytearray(_PIECE_BYTES)))
    return Reading(kept_s, time.perf_counter() - begin)


def _read_into(ranges: list[tuple[Path, int, int]], memory: memoryview) -> None:
    """Fill the memory from its start on, and again from there where it is full."""
    at = 0
    for path, start, end in ranges:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while start < end:
                at = at if at < len(memory) else 0
                piece = memory[at : at + min(_PIECE_BYTES, end - start)]
                count = file.readinto(piece)
                assert count, "the file was shorter than its header says"
                start, at = start + count, at + count


def touched_memory(size: int) -> mmap.mmap:
    """Memory in large pages, all of them there; to be closed."""
    memory = _large_pages(size)
    for at in range(0, size, mmap.PAGESIZE):
        memory[at] = 1
    return memory


def _large_pages(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class Workers:
    """Starts workers of one kind, one after the other, with a Redis that is running."""

    def __init__(self, kind: str, model: Path, redis_url: str, folder: Path) -> None:
        self._module = MODULES[kind]
        self._environment = {
            **os.environ,
            "GLM4V_MODEL": str(model),
            "GLM4V_REDIS_URL": redis_url,
            "GLM4V_LISTEN": f"unix:{folder / 'worker.sock'}",
        }

    def start(self, weight_dtype: str, size: int) -> Start:
        """Start one, wait until it is ready, look at its memory, and stop it.

        `size` is about what it will take. Raises Unavailable, with the end of its log, where it
        does not become ready.
        """
        environment = {**self._environment, "GLM4V_WEIGHT_DTYPE": weight_dtype}
        if self._module == "lm_worker":
            environment["GLM4V_KV_CACHE_BYTES"] = str(_CACHE_BYTES)
        free = touched_memory(size)
        begin = time.perf_counter()
        with (
            free,
            subprocess.Popen(
                [sys.executable, "-m", self._module],
                env=environment,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                text=True,
            ) as process,
        ):
            watchdog = threading.Timer(_READY_S, process.kill)
            watchdog.start()
            try:
                with _peak(process.pid) as peak:
                    imports_s, ready_s = self._wait(process, begin, free)
                held, pss = _anonymous(process.pid), _rollup(process.pid, "Pss")
                return Start(imports_s, ready_s, max([held, *peak]), held, pss)
            finally:
                watchdog.cancel()
                _stop(process)

    def _wait(
        self, process: subprocess.Popen[str], begin: float, free: mmap.mmap
    ) -> tuple[float, float]:
        assert process.stderr is not None
        lines: list[str] = []
        first = 0.0
        for line in process.stderr:
            now = time.perf_counter() - begin
            if not first:
                first = now
                free.close()
            lines.append(line)
            if " ready on " in line:
                return first, now
        raise Unavailable(f"{self._module} ended before it was ready: {''.join(lines[-3:])}")


@contextmanager
def _peak(pid: int) -> Iterator[list[int]]:
    """Looks at a process's anonymous memory all the time; yields what it has seen."""
    done = threading.Event()
    seen: list[int] = []

    def look() -> None:
        while not done.wait(_POLL_S):
            seen.append(_anonymous(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _anonymous(pid: int) -> int:
    """Bytes of RssAnon, which is quick to read; 0 for a process that has ended. Source: proc(5)."""
    return _kib(Path(f"/proc/{pid}/status"), "RssAnon") * 1024


def _rollup(pid: int, field: str) -> int:
    return _kib(Path(f"/proc/{pid}/smaps_rollup"), field) * 1024


def _kib(path: Path, field: str) -> int:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
