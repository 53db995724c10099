"""The `glm4v` command without its imports: a process has done them, and each call is a fork of it.

`python -m tests.integration.warm_command FOLDER` writes FOLDER/glm4v, which hands its arguments,
environment, working folder and streams over, and ends with the exit code of the fork. The process
serves until its standard input ends.
"""

import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path

from glm4v.host.torch_environment import prepare_torch

IMPORTED = ("glm4v.cli.app", "offline.rank_group", "offline.batch", "bench.offline_report")
_STREAMS = 3
_COMMAND = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as call:
    call.connect({path!r})
    handed = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode() + b"\\n"
    socket.send_fds(call, [handed[:1]], [0, 1, 2])
    call.sendall(handed[1:])
    code = call.recv(4)
sys.exit(int(code or 1))
"""


def main(folder: Path) -> None:
    """Serve calls."""
    prepare_torch()
    for name in IMPORTED:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a fork takes one thread along"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks that have ended are gone
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        command = folder / "glm4v"
        command.write_text(_COMMAND.format(python=sys.executable, path=str(path)))
        command.chmod(0o755)
        os.write(1, b"ready\n")
        while True:
            readable, _, _ = select.select([sys.stdin, listener], [], [])
            if sys.stdin in readable:
                return
            call, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(call)
            call.close()


def _answer(call: socket.socket) -> None:
    """Be the command, and tell its exit code."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        first, streams, _, _ = socket.recv_fds(call, 1, _STREAMS)
        arguments, environment, folder = json.loads(first + call.makefile("rb").readline())
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdin, sys.stdout, sys.stderr = map(os.fdopen, range(_STREAMS), "rww")
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["glm4v", *arguments]
        code = _run()
    except BaseException:  # nothing of this copy may go on in the loop above
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        call.sendall(str(code).encode())
        os._exit(code)


def _run() -> int:
    from glm4v.cli import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
