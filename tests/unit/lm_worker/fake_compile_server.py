"""A compile server whose compiler does what the format's text says: `… COUNTS CONTROL`.

Each compilation adds a line to the file COUNTS.
"""

import os
import socket
import sys
import time
from pathlib import Path

from glm4v.errors import InvalidRequest
from lm_worker.plan import OutputFormat
from lm_worker.structured_output.compile_server import serve

COUNTS = Path(sys.argv[1])
KEPT: list[bytes] = []


def compile_(output_format: OutputFormat) -> None:
    """`WHAT` or `WHAT NUMBER`, and anything behind a `#`."""
    with COUNTS.open("a") as file:
        file.write(f"{output_format.text}\n")
    what, _, number = output_format.text.partition("#")[0].strip().partition(" ")
    if what == "refuse":
        raise InvalidRequest("response_format.regex: no")
    if what == "environment":
        raise InvalidRequest(", ".join(name for name in os.environ if "GLM4V_" in name.upper()))
    if what == "sleep":
        time.sleep(float(number))
    if what == "compute":
        until = time.process_time() + float(number)
        while time.process_time() < until:
            pass
    if what == "allocate":
        KEPT.extend(b"x" * 2**20 for _ in range(int(number)))
    if what == "signal":
        os.kill(os.getpid(), int(number))
    if what == "exit":
        os._exit(int(number))
    if what == "recurse":
        recurse(int(number))


def recurse(depth: int) -> None:
    """Use about as much of Python's stack as one frame."""
    if depth:
        recurse(depth - 1)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[2])), compile_)
