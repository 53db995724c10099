"""Says what to install when packages are missing; imports nothing but Python itself."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from glm4v.errors import ConfigurationError

EXTRAS = "gateway,worker"  # of the command
_EXIT = 2  # that of ConfigurationError


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Wrap the imports of a process: a missing package ends it with the extra to install.

    Modules stay, so no garbage is looked for among them, now or later; that takes an eighth of the
    time that torch's imports take.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    except ModuleNotFoundError as error:
        package = (error.name or "glm4v").partition(".")[0]
        if package in ("glm4v", "gateway", "vision_worker", "lm_worker"):
            raise
        sys.stderr.write(f"error: {what_to_install(package, name)}\n")
        sys.exit(_EXIT)
    finally:
        gc.enable()


def require(package: str, extra: str) -> None:
    """Raise ConfigurationError, with the extra to install, unless a package is installed."""
    if find_spec(package) is None:
        raise ConfigurationError(what_to_install(package, extra))


def what_to_install(package: str, extras: str) -> str:
    """The error for a missing package: which extras of this project install it."""
    return f"{package} is not installed; run pip install 'glm4v-serve[{extras}]'"
