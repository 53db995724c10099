"""Runs a program for a bounded time, whatever it does."""

import contextlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

_KILLED_S = 1.0  # for the kernel to end a killed process


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    exit_code: int  # negative: the signal that ended it
    output: str
    error_output: str


def run_bounded(command: Sequence[str], timeout_s: float) -> Ended | None:
    """Run `command`; None if it has not ended, or not closed its output, within `timeout_s`.

    A process that waits inside a driver does not even end when it is killed. It is left behind
    then, which `subprocess.run` would not do. Raises OSError if the program cannot be started.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        output, error_output = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILLED_S)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        return None
    return Ended(process.returncode, output, error_output)
