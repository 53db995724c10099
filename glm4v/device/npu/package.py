"""Imports torch_npu: late, quietly, and with one line when it cannot be."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from glm4v.device.npu.environment import set_defaults
from glm4v.errors import ConfigurationError

_CANN = (
    "source Ascend's ascend-toolkit/set_env.sh and nnal/atb/set_env.sh, which set up CANN and ATB"
)


def is_installed() -> bool:
    """Whether torch_npu can be found; it is not imported."""
    return importlib.util.find_spec("torch_npu") is not None


def has_npu() -> bool:
    """Whether there is an NPU for this process, and torch_npu to use it; neither is opened."""
    return is_installed() and any(Path("/dev").glob("davinci[0-9]*"))


@cache
def load_torch_npu() -> None:
    """Import torch_npu, with the environment's defaults; raises ConfigurationError."""
    if not is_installed():
        raise ConfigurationError(
            "the device npu needs torch_npu; install glm4v-serve with the extra npu"
        )
    set_defaults(os.environ)
    try:
        with _stdout_as_stderr():
            import torch_npu  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"torch_npu cannot be imported: {reason}; {_CANN}") from error


@contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    """Standard output belongs to the answers of commands; torch_npu prints warnings there."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
