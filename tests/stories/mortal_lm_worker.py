"""A language worker that is killed by a prompt with three BEL characters in a row."""

import os
import signal

from lm_worker.__main__ import run
from lm_worker.plan import SampledToken, StepPlan
from lm_worker.runner import Runner

POISON = "\a\a\a"
_MARK = tuple(POISON.encode())  # the smallest checkpoint's vocabulary is the bytes
_execute = Runner.execute


def _mortally(self: Runner, plan: StepPlan) -> tuple[SampledToken, ...]:
    for chunk in plan.chunks:
        ids = tuple(chunk.row_ids)
        if any(ids[at : at + 3] == _MARK for at in range(len(ids))):
            os.kill(os.getpid(), signal.SIGKILL)
    return _execute(self, plan)


if __name__ == "__main__":
    Runner.execute = _mortally  # type: ignore[method-assign]
    run()
