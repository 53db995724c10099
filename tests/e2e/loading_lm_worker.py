"""A language worker, of any rank, whose weights take minutes to read."""

import sys
import time
from typing import Any

from lm_worker.__main__ import run
from lm_worker.model.runner import Runner


def _for_minutes(*args: Any, **kwargs: Any) -> Runner:
    sys.stderr.write("reading weights\n")
    time.sleep(600)
    raise AssertionError


if __name__ == "__main__":
    Runner.load = _for_minutes  # type: ignore[method-assign]
    run()
