"""Runs a program that is killed when its parent ends.

`pdeathsig.py PARENT_PID NICE PROGRAM ARGUMENT…` sets PR_SET_PDEATHSIG (prctl(2)) to SIGKILL and
executes the program, which keeps the setting and the process id. It is a separate program because
the parent has gRPC's threads: Python code between fork and exec may hang. On systems other than
Linux a parent that is killed with SIGKILL leaves its children running.

The kernel watches the *thread* that started the program: start it from a thread that lives as long
as the program should.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def with_pdeathsig(command: Sequence[str], nice: int = 0) -> list[str]:
    """The command that runs `command` (an absolute path first) until this process ends.

    `nice` is the niceness of the program; it holds for a child in its own session too.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(nice), *command]


def _become(parent: int, nice: int, command: list[str]) -> None:
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:
            sys.exit(1)  # the parent ended before the kernel watched it
    if nice:
        os.nice(nice)
        # Linux may schedule by session, where the niceness of a process does not count (autogroup
        # in sched(7)). Where that is off or not permitted, it competes as an equal.
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:
            file.write(str(nice))
    os.execv(command[0], command)


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
