"""Python processes that try what this one must not: import torch, open a device."""

import json
import sys

from glm4v.doctor.bounded import Ended, run_bounded

TIMEOUT_S = 60.0  # PyTorch alone takes 10 s on a slow disk
_INSTALL = "; run "


def run_python(*arguments: str, timeout_s: float = TIMEOUT_S) -> Ended | None:
    """Run the interpreter; None if it does not end in time."""
    return run_bounded([sys.executable, *arguments], timeout_s)


def import_error(module: str) -> tuple[str, str] | None:
    """(what is wrong, how to mend it) with the imports of a process; None if they succeed."""
    again = f"{sys.executable} -c 'import {module}' shows the whole error"
    ended = run_python("-c", f"import {module}")
    if ended is None:
        return f"importing {module} takes more than {TIMEOUT_S:g} s", again
    if ended.exit_code == 0:
        return None
    what, _, fix = _how(ended).removeprefix("error: ").partition(_INSTALL)
    return what, fix or again


def probe_device(name: str, timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """What `glm4v.device.probe` says of a device; "error" says why it cannot be used."""
    ended = run_python("-m", "glm4v.device.probe", name, timeout_s=timeout_s)
    if ended is None:
        return {"error": f"no answer within {timeout_s:g} s; its driver may hang"}
    if ended.exit_code != 0:
        return {"error": _how(ended)}
    found: dict[str, str] = json.loads(ended.output)
    return found


def _how(ended: Ended) -> str:
    """Why a process failed: its last line, or what it ended with."""
    if ended.exit_code < 0:
        return f"the process was ended by signal {-ended.exit_code}"
    lines = [line.strip() for line in ended.error_output.splitlines() if line.strip()]
    return lines[-1] if lines else f"the process ended with code {ended.exit_code}"
