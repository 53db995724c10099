"""Processes to break."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio

from tests.e2e.fleet import Fleet


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def fleet(checkpoint_dir: Callable[[str], Path]) -> AsyncIterator[Fleet]:
    """The smallest checkpoint; each test says which processes it needs."""
    async with Fleet(checkpoint_dir("micro-glm4v")) as fleet:
        yield fleet
