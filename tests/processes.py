"""What tests ask about other processes."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended; a zombie has."""
    return state(pid) not in "ZX"


def state(pid: int) -> str:
    """The kernel's letter for a process: R, S, D, T (stopped), Z … (proc(5)); X when it is gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return status.rpartition(")")[2].split()[0]


def states_of_threads() -> dict[int, str]:
    """The kernel's letter for each other thread of this process: S sleeps, R runs or could."""
    states = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended in between
            text = (task / "stat").read_text(encoding="utf-8")
            states[int(task.name)] = text.rpartition(")")[2].split()[0]
    states.pop(threading.get_native_id())
    return states


def children(pid: int) -> list[int]:
    """Process ids of all that descend from a process."""
    direct: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):  # it, or a thread, ended in between
        for task in Path(f"/proc/{pid}/task").iterdir():
            direct += map(int, (task / "children").read_text(encoding="utf-8").split())
    return [*direct, *(below for child in direct for below in children(child))]


def wait_until(is_so: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Return when it is so; fail when it never is."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


async def until(is_so: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """The same in an event loop."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
