"""A language worker that is killed by BEL characters, three in a row of one step."""

import os
import signal

from lm_worker.__main__ import run
from lm_worker.model.runner import Runner
from lm_worker.plan import StepPlan, StepResult

POISON = "\a" * 64  # so many that no cut between steps hides them
_MARK = tuple(b"\a\a\a")  # the smallest checkpoint's vocabulary is the bytes
_execute = Runner.execute


def _crash(self: Runner, plan: StepPlan) -> StepResult:
    for chunk in plan.chunks:
        ids = tuple(chunk.token_ids)
        if any(ids[at : at + 3] == _MARK for at in range(len(ids))):
            os.kill(os.getpid(), signal.SIGKILL)
    return _execute(self, plan)


if __name__ == "__main__":
    Runner.execute = _crash  # type: ignore[method-assign]
    run()
