"""How a process ends: its last words, its exit code, and nothing that keeps it."""

import os
import traceback
from collections.abc import Callable

from glm4v.errors import Glm4vError, Overloaded
from glm4v.host.out_of_memory import is_out_of_memory
from glm4v.telemetry.log import end_log

_NO_MEMORY = "error: the process has not enough memory; free some"


def run_and_exit(body: Callable[[], None]) -> None:
    """Run `body` and end the process; the exit code is that of the error it raises.

    It ends at once: a thread whose result nobody waits for any more must not keep a process that
    has said it stopped.
    """
    exit_code, last_words = 0, ""
    try:
        body()
    except Glm4vError as error:
        exit_code, last_words = error.exit_code, f"error: {error}"
    except Exception as error:
        if is_out_of_memory(error):
            exit_code, last_words = Overloaded.exit_code, _NO_MEMORY
        else:
            exit_code, last_words = Glm4vError.exit_code, traceback.format_exc().rstrip()
    end_log(last_words)
    os._exit(exit_code)
