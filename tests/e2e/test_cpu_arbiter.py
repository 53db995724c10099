"""A language worker holds the cores' turn while it prefills, and at no other time."""

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.asking import ask
from tests.e2e.fleet import Fleet
from tests.e2e.reading import Reader, Reading
from tests.processes import until

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Turn:
    """What a vision worker would find, looked at every 2 ms."""

    def __init__(self, file: int) -> None:
        self._file = file
        self.was_held = False

    def is_held(self) -> bool:
        """Whether somebody prefills now."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return False

    def is_free(self) -> bool:
        """Whether an image could begin."""
        return not self.is_held()

    async def watch(self) -> None:
        """Note whether it is held at any time until cancelled."""
        while True:
            self.was_held |= self.is_held()
            await asyncio.sleep(0.002)


@contextmanager
def turn_of(path: Path) -> Iterator[Turn]:
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        yield Turn(file)
    finally:
        os.close(file)


async def test_the_turn_is_held_for_prefills_alone(
    checkpoint_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "turns"
    environment = {"GLM4V_CPU_ARBITER": str(path)}
    async with Fleet(checkpoint_dir("micro-glm4v"), environment=environment) as fleet:
        await fleet.only("gateway", "slow_lm_worker")
        with turn_of(path) as turn:
            async with Reader(fleet.targets) as reader:
                for question in ("first", "second"):
                    assert turn.is_free(), "nobody has asked anything"
                    await _one_answer(reader, turn, question)
                await fleet.kill("slow_lm_worker")
                await until(turn.is_free)


async def _one_answer(reader: Reader, turn: Turn, question: str) -> None:
    """Held before the first token; free while the others come, each 40 ms after the one before."""
    turn.was_held = False
    watching = asyncio.create_task(turn.watch())
    found_free = 0
    try:
        reading = Reading(ask(question))
        async for _ in reader.events(reading):
            if len(reading.token_ids) == 1:
                assert turn.was_held, "a prompt was prefilled in nobody's turn"
            elif len(reading.token_ids) > 1:
                found_free += turn.is_free()
    finally:
        watching.cancel()
    assert reading.terminal == ["finished"]
    assert found_free >= len(reading.token_ids) // 2, "decodes kept the turn"
