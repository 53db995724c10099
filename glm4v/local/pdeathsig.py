"""Runs a program that must not outlive its parent: `tether.py PARENT_PID NICE PROGRAM ARGUMENT…`.

A separate program, so that nothing of ours runs between fork and exec: the parent has gRPC's
threads, and a forked copy of them may hang. It asks the kernel for SIGKILL at the parent's end and
becomes the program, which keeps the request and the process id. Linux only: elsewhere a parent that
is killed with SIGKILL leaves its children running.

The kernel means the *thread* that started the program; start it from one that lives as long as the
program should.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def with_pdeathsig(command: Sequence[str], nice: int = 0) -> list[str]:
    """The command that runs `command` (an absolute path first) tied to this process.

    `nice` says to whom it gives way, for children that are sessions of their own too.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(nice), *command]


def _become(parent: int, nice: int, command: list[str]) -> None:
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:
            sys.exit(1)  # it died before the kernel knew whom to watch
    if nice:
        os.nice(nice)
        # Linux may share the processor among sessions, where a process's own level does not count
        # (sched(7), autogroup). Where that is off or refused it competes as an equal.
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:
            file.write(str(nice))
    os.execv(command[0], command)


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
