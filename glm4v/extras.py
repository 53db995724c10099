"""What to install for a process whose packages are missing; needs nothing but Python itself."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_EXIT = 2  # as for a wrong configuration


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around the imports of a process: one that fails ends it with the extra that has it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "glm4v").partition(".")[0]
        if package in ("glm4v", "gateway", "vision_worker", "lm_worker"):
            raise
        sys.stderr.write(
            f"error: {package} is not installed; pip install 'glm4v-serve[{name}]' brings it\n"
        )
        sys.exit(_EXIT)
