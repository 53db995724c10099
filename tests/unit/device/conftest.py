"""The compiled kernels, for this processor and for older ones."""

import platform

import pytest

from glm4v.device.cpu.kernels import Kernels, open_kernels
from glm4v.device.cpu.kernels.loading import load_compiled

# Other vector widths than this machine's own.
OLDER = ("x86-64-v3", "x86-64") if platform.machine() == "x86_64" else ()


@pytest.fixture(scope="session")
def native() -> Kernels:
    """Kernels for this processor."""
    found = open_kernels()
    assert found is not None
    return found


@pytest.fixture(scope="session", params=["native", *OLDER])
def kernels(request: pytest.FixtureRequest, native: Kernels) -> Kernels:
    """Kernels for this processor, and for older ones that it can stand in for.

    Each is compiled once, for all test files and later runs: they are in the user's cache.
    """
    found = native
    if request.param != "native":
        found = Kernels(load_compiled((f"-march={request.param}",)))
    found.set_num_threads(3)
    return found
