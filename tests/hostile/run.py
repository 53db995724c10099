"""Runs attacks against a whole system, and measures what they do to it and to an honest client."""

import asyncio
import multiprocessing
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path

import anyio

from tests.hostile.attacks import Attack, Statuses
from tests.hostile.honest import Experience, Honest

ANSWERS = 200  # of the honest client, alone and beside: the p99 is between the 2 slowest of them
_WARM_UP = 20  # answers before that
_MOST_S = 30.0  # beside an attack, where that is too few for so many answers
_LOOK_S = 0.02

_over: list[Event] = []  # in the attack's process: whether it is to end


@dataclass
class Outcome:
    """Of one attack."""

    name: str
    idle: Experience
    beside: Experience
    statuses: Statuses
    cores: float  # that the attack's process took
    memory_mb: dict[str, float] = field(default_factory=dict)  # of each process, at most

    def line(self, ordinary_mb: dict[str, float]) -> str:
        """As a line of a table; `ordinary_mb` is what processes hold at most without attacks."""
        memory = ", ".join(
            f"{name} {most:.0f} ({most / ordinary_mb[name]:.2f} ×)"
            for name, most in self.memory_mb.items()
        )
        statuses = ", ".join(f"{count} {name}" for name, count in sorted(self.statuses.items()))
        failures = Counter(failure[:60] for failure in self.beside.failures)
        p50, p99 = (b / a for a, b in zip(self._idle, self._beside, strict=True))
        return (
            f"| {self.name} | {_ms(self._idle)} "
            f"| {_ms(self._beside)} ({len(self.beside.answers_s)}) | {p50:.1f} / {p99:.1f} "
            f"| {1000 * self.beside.slowest_health_s:.0f} | {self.cores:.1f} | {memory} "
            f"| {statuses} | {dict(failures) or 'none'} |"
        )

    @property
    def _idle(self) -> tuple[float, float]:
        return self.idle.quantiles()

    @property
    def _beside(self) -> tuple[float, float]:
        return self.beside.quantiles()


def _ms(quantiles: tuple[float, float]) -> str:
    return " / ".join(f"{1000 * each:.0f}" for each in quantiles)


class Watch:
    """The most memory that processes hold while it runs."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self.most_mb = dict.fromkeys(pids, 0.0)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch)
            yield
            group.cancel_scope.cancel()

    async def _watch(self) -> None:
        while True:
            for name, pid in self._pids.items():
                self.most_mb[name] = max(self.most_mb[name], resident_mb(pid))
            await asyncio.sleep(_LOOK_S)


def resident_mb(pid: int) -> float:
    """Of a process that runs."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


async def measure(
    name: str, attack: Attack, target: str, pids: dict[str, int], answers: int = ANSWERS
) -> Outcome:
    """`answers` to the honest client alone, and as many beside an attack, which is repeated.

    The attack comes from a process of its own.
    """
    loop = asyncio.get_running_loop()
    context = multiprocessing.get_context("spawn")
    over, watch = context.Event(), Watch(pids)
    with ProcessPoolExecutor(1, context, _use, (over,)) as pool:
        await loop.run_in_executor(pool, _warm_up)
        async with Honest(target) as honest:
            await honest.ask(_WARM_UP, _MOST_S)
            idle = await honest.ask(answers, _MOST_S)
            async with watch.watching():
                attacking = loop.run_in_executor(pool, _run, attack, target)
                try:
                    beside = await honest.ask(answers, _MOST_S)
                finally:
                    over.set()
                statuses, cores = await attacking
    return Outcome(name, idle, beside, statuses, cores, watch.most_mb)


def _use(over: Event) -> None:
    _over.append(over)


def _warm_up() -> None:
    """So that imports are over before the attack."""


def _run(attack: Attack, target: str) -> tuple[Statuses, float]:
    """Attack until it is over; how calls ended, and the cores that it took on average."""
    statuses: Statuses = Counter()
    began, before = time.monotonic(), time.process_time()
    asyncio.run(_repeat(attack, target, statuses))
    return statuses, (time.process_time() - before) / (time.monotonic() - began)


async def _repeat(attack: Attack, target: str, statuses: Statuses) -> None:
    async with anyio.create_task_group() as group:

        async def attack_again() -> None:
            while True:
                await attack(target, statuses)

        group.start_soon(attack_again)
        [over] = _over
        await asyncio.to_thread(over.wait)
        group.cancel_scope.cancel()
