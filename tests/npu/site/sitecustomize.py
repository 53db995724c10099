"""Python imports this when it starts: workers then compute on the pretend device.

The arithmetic belongs to a thread, so it is put around what device threads run. Some programs
compute in their main thread. Nothing is imported for processes that have neither.
"""

import sys
import threading

_COMPUTING = {
    "lm_worker.parallel.follower",
    "tests.npu.check.collectives",
    "tests.npu.check.parallel",
}
_run = threading.Thread.run


def _run_emulated(thread: threading.Thread) -> None:
    if thread.name != "device":
        return _run(thread)
    from tests.npu.pretend.emulation import Emulation

    with Emulation():
        return _run(thread)


threading.Thread.run = _run_emulated  # type: ignore[assignment, method-assign]
if _COMPUTING & set(sys.orig_argv):
    from tests.npu.pretend.emulation import Emulation

    Emulation().__enter__()
