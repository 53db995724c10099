"""Python processes that try what this one must not: import torch, open a device."""

import json
import subprocess
import sys
from dataclasses import dataclass

from glm4v.errors import Unavailable

TIMEOUT_S = 60.0  # PyTorch alone takes 10 s on a slow disk
_INSTALL = "; run "


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended."""

    exit_code: int
    output: str
    last_error_line: str


def run_python(*arguments: str, timeout_s: float = TIMEOUT_S) -> Ended:
    """Run the interpreter; raises Unavailable if it does not end in time."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"no answer within {timeout_s:g} s") from None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return Ended(done.returncode, done.stdout, lines[-1] if lines else "")


def import_error(module: str) -> tuple[str, str] | None:
    """(what is wrong, how to mend it) with the imports of a process; None if they succeed."""
    try:
        ended = run_python("-c", f"import {module}")
    except Unavailable as error:
        return f"importing {module}: {error}", f"{sys.executable} -c 'import {module}'"
    if ended.exit_code == 0:
        return None
    what, _, fix = ended.last_error_line.removeprefix("error: ").partition(_INSTALL)
    return what or _end(
        ended
    ), fix or f"{sys.executable} -c 'import {module}' shows the whole error"


def probe_device(name: str, timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """What `glm4v.device.probe` says of a device; "error" says why it cannot be used."""
    try:
        ended = run_python("-m", "glm4v.device.probe", name, timeout_s=timeout_s)
    except Unavailable as error:
        return {"error": f"opening it: {error}; its driver may hang"}
    if not ended.output:
        return {"error": f"opening it: {_end(ended)}"}
    found: dict[str, str] = json.loads(ended.output)
    return found


def _end(ended: Ended) -> str:
    if ended.exit_code < 0:
        return f"the process was ended by signal {-ended.exit_code}"
    return ended.last_error_line or f"the process ended with code {ended.exit_code}"
