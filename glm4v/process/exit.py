"""Ends a process: with the right exit code, a final line, and at once."""

import os
import traceback
from collections.abc import Callable

from glm4v.errors import Glm4vError, Overloaded
from glm4v.host.out_of_memory import is_out_of_memory
from glm4v.telemetry.log import end_log

_NO_MEMORY = "error: out of memory; free some and start again"


def run_and_exit(body: Callable[[], None]) -> None:
    """Run `body` and end the process with the exit code of the error it raises.

    The process ends at once: a thread whose result is not awaited must not keep it alive.
    """
    exit_code, last_line = 0, ""
    try:
        body()
    except Glm4vError as error:
        exit_code, last_line = error.exit_code, f"error: {error}"
    except Exception as error:
        if is_out_of_memory(error):
            exit_code, last_line = Overloaded.exit_code, _NO_MEMORY
        else:
            exit_code, last_line = Glm4vError.exit_code, traceback.format_exc().rstrip()
    end_log(last_line)
    os._exit(exit_code)
