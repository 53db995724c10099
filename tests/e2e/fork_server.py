"""Starts service processes in a fraction of a second: what they import is imported once, here.

A program of its own, without threads. Lines of JSON on its standard input ask for processes; each
is a fork that becomes the service as `python -m` would make it, dies with this one, and may be
killed like any other. On standard output it says which process was started and how each ended:

    {"module": "lm_worker", "environment": {...}, "log": "/path"}   →  {"pid": 7}
                                                            later   →  {"pid": 7, "code": -9}
"""

import ctypes
import importlib
import json
import os
import runpy
import select
import signal
import sys
import threading
import traceback
from collections.abc import Mapping

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
SERVICES = ("gateway", "vision_worker", "lm_worker")


def main() -> None:
    """Serve until standard input ends; the kernel then kills what is still running."""
    for name in SERVICES:  # their dependencies stay
        importlib.import_module(f"{name}.__main__")
        del sys.modules[f"{name}.__main__"]  # runpy is to make it anew
    assert threading.active_count() == 1, "a fork takes one thread along"
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    _say({"ready": True})
    asked = b""
    while True:
        readable, _, _ = select.select([0, wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
            _reap()
        if 0 in readable:
            data = os.read(0, 2**16)
            if not data:
                return
            *lines, asked = (asked + data).split(b"\n")
            for line in lines:
                _say({"pid": _start(**json.loads(line))})


def _start(module: str, environment: Mapping[str, str], log: str) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _become(parent, environment, log)
            code = _run(module)
        except BaseException:  # nothing of this copy may go on in the loop above
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def _become(parent: int, environment: Mapping[str, str], log: str) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environment)


def _run(module: str) -> int:
    sys.argv = [module]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say({"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _say(message: Mapping[str, object]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
