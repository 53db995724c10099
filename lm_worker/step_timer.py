"""Time of steps, by part."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class StepSeconds(NamedTuple):
    """Total seconds since the start."""

    plan: float  # planning steps and applying their results
    device: float  # the forward pass
    sample: float  # sampling
    publish: float  # waiting for publication, beyond the step that ran meanwhile

    def since(self, earlier: "StepSeconds") -> "StepSeconds":
        """Seconds spent after `earlier`."""
        return StepSeconds(*(now - before for now, before in zip(self, earlier, strict=True)))


class StepTimer:
    """Sums seconds by name."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def __getitem__(self, name: str) -> float:
        return self._seconds[name]

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the duration of the block to `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start
