"""Every tier is updated under load, from the release before and back: nothing is lost."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest
import pytest_asyncio

from tests.e2e.asking import again, ask, draw
from tests.e2e.fleet import Fleet
from tests.e2e.former_release import FormerRelease
from tests.e2e.reading import Reader, Reading

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
    pytest.mark.needs_history,
]
TIERS = ("vision_worker", "lm_worker", "gateway")  # workers first: they read all older formats
CLIENTS = 4
ANSWERS_BETWEEN = 4  # answers that end between two steps


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(checkpoint_dir: Callable[[str], Path]) -> AsyncIterator[Fleet]:
    """A Redis, and this release's processes when they are started."""
    async with Fleet(checkpoint_dir("micro-glm4v")) as fleet:
        yield fleet


class Load:
    """Clients that ask the same questions again and again, and what they received."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._questions = [ask("why", seed=7), ask("what", draw("rolling"), seed=9), ask("who")]
        self.expected: list[Reading] = []
        self.readings: list[tuple[int, Reading]] = []
        self._ended = asyncio.Condition()

    async def learn(self) -> None:
        """The answers of a system that nobody disturbs."""
        self.expected = [await self._reader.read(again(each)) for each in self._questions]

    async def ask_for_ever(self, first: int) -> None:
        """One client."""
        number = first
        while True:
            chosen = number % len(self._questions)
            reading = await self._reader.read(again(self._questions[chosen]))
            self.readings.append((chosen, reading))
            async with self._ended:
                self._ended.notify_all()
            number += 1

    async def more(self) -> None:
        """Wait for further answers."""
        count = len(self.readings) + ANSWERS_BETWEEN
        with anyio.fail_after(60):
            async with self._ended:
                await self._ended.wait_for(lambda: len(self.readings) >= count)


@pytest.mark.parametrize("direction", ["update", "back"])
async def test_all_tiers_roll_under_load(fleet: Fleet, tmp_path: Path, direction: str) -> None:
    former = FormerRelease(fleet, tmp_path)
    names = {tier: (f"{tier}-{direction}1", f"{tier}-{direction}2") for tier in TIERS}
    targets = [fleet.target(name) for name in names["gateway"]]
    begin, change = (
        (former.start, fleet.start) if direction == "update" else (fleet.start, former.start)
    )
    try:
        for tier in TIERS:
            await begin(names[tier][0])
        async with Reader(targets) as reader:
            load = Load(reader)
            await load.learn()
            async with anyio.create_task_group() as clients:
                for number in range(CLIENTS):
                    clients.start_soon(load.ask_for_ever, number)
                for tier in TIERS:
                    await change(names[tier][1])
                    await load.more()
                    assert await drain(fleet, former, names[tier][0], direction) == 0
                    await load.more()
                clients.cancel_scope.cancel()
    finally:
        former.kill()
        await fleet.only()
    assert len(load.readings) >= 2 * ANSWERS_BETWEEN * len(TIERS)
    for chosen, reading in load.readings:
        assert reading.terminal == ["finished"], reading.details
        assert (reading.duplicated, reading.missing) == (0, 0)
        assert reading.token_ids == load.expected[chosen].token_ids
        assert reading.text == load.expected[chosen].text


async def drain(fleet: Fleet, former: FormerRelease, name: str, direction: str) -> int:
    """SIGTERM; the exit code."""
    if direction == "update":
        return await former.drain(name)
    fleet.signal(name, signal.SIGTERM)
    return await fleet.ended(name)
