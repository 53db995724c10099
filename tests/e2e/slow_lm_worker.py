"""A language worker whose steps take 40 ms more: a test can hit the time between two tokens."""

import time

from lm_worker.__main__ import run
from lm_worker.model.runner import Runner
from lm_worker.plan import StepPlan, StepResult

STEP_S = 0.04
_execute = Runner.execute


def _slowly(self: Runner, plan: StepPlan) -> StepResult:
    time.sleep(STEP_S)
    return _execute(self, plan)


if __name__ == "__main__":
    Runner.execute = _slowly  # type: ignore[method-assign]
    run()
