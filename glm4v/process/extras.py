"""What to install for a process whose packages are missing; needs nothing but Python itself."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from glm4v.errors import ConfigurationError

EXTRAS = "gateway,worker"  # those of the command
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
        sys.stderr.write(f"error: {what_to_install(package, name)}\n")
        sys.exit(_EXIT)


def require(package: str, extra: str) -> None:
    """Raise ConfigurationError, with the extra to install, unless a package is there."""
    if find_spec(package) is None:
        raise ConfigurationError(what_to_install(package, extra))


def what_to_install(package: str, extras: str) -> str:
    """Says that a package is missing, and which extras of this project have it."""
    return f"{package} is not installed; pip install 'glm4v-serve[{extras}]' brings it"
