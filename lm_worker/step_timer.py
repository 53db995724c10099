"""Where the time of steps goes."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class StepSeconds(NamedTuple):
    """Seconds since the start; the difference of two is what happened between."""

    plan: float  # deciding what to compute, and taking in what was
    device: float  # the forward pass
    sample: float  # choosing tokens from its logits
    publish: float  # waited for, beyond the step that ran meanwhile

    def since(self, earlier: "StepSeconds") -> "StepSeconds":
        """What was spent after `earlier`."""
        return StepSeconds(*(now - then for now, then in zip(self, earlier, strict=True)))


class StepTimer:
    """Sums up seconds by name."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def __getitem__(self, name: str) -> float:
        return self._seconds[name]

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add what the block takes, waiting included, to `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start
