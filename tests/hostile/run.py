"""Runs attacks against a whole system, and measures what they do to it and to an honest client."""

import asyncio
import multiprocessing
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.hostile.attacks import Attack, Statuses
from tests.hostile.honest import Experience, Honest


@dataclass
class Outcome:
    """Of one attack."""

    name: str
    idle: Experience
    beside: Experience
    statuses: Statuses
    memory_mb: dict[str, tuple[float, float]]  # of each process, before and at most

    def line(self) -> str:
        """As a row of a table."""
        idle, beside = self.idle.quantiles(), self.beside.quantiles()
        memory = ", ".join(f"{n} {a:.0f} → {b:.0f}" for n, (a, b) in self.memory_mb.items())
        statuses = ", ".join(f"{n} {_name(status)}" for status, n in sorted(self.statuses.items()))
        failures = Counter(failure[:60] for failure in self.beside.failures)
        return (
            f"| {self.name} | {1000 * idle[0]:.0f} / {1000 * idle[1]:.0f} "
            f"| {1000 * beside[0]:.0f} / {1000 * beside[1]:.0f} ({len(self.beside.answers_s)}) "
            f"| {1000 * self.beside.slowest_health_s:.0f} | {memory} | {statuses} "
            f"| {dict(failures) or 'none'} |"
        )


def _name(status: str) -> str:
    """Of one of gRPC's numbers, which stand in headers."""
    codes = {str(code.value[0]): code.name for code in grpc.StatusCode}
    return codes.get(status, status)


class Watch:
    """The most memory that processes hold while it runs."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self.before = self._resident()
        self.most = dict(self.before)

    async def run(self) -> None:
        while True:
            for name, megabytes in self._resident().items():
                self.most[name] = max(self.most[name], megabytes)
            await asyncio.sleep(0.02)

    def _resident(self) -> dict[str, float]:
        return {name: resident_mb(pid) for name, pid in self._pids.items()}


def resident_mb(pid: int) -> float:
    """Of a process that runs."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


async def measure(
    name: str, attack: Attack, target: str, pids: dict[str, int], idle_s: float = 5.0
) -> Outcome:
    """One attack, from a process of its own, after `idle_s` without one."""
    loop = asyncio.get_running_loop()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        await loop.run_in_executor(pool, _warm_up)
        async with Honest(target) as honest:
            idle = await honest.ask(idle_s)
            watch = Watch(pids)
            watching = asyncio.create_task(watch.run())
            attacking = loop.run_in_executor(pool, _run, attack, target)
            beside = Experience()
            while not attacking.done():
                more = await honest.ask(0.5)
                beside.answers_s += more.answers_s
                beside.healths_s += more.healths_s
                beside.failures += more.failures
            statuses = await attacking
            watching.cancel()
    memory = {each: (watch.before[each], watch.most[each]) for each in pids}
    return Outcome(name, idle, beside, statuses, memory)


def _warm_up() -> None:
    """So that imports are over before the attack."""


def _run(attack: Attack, target: str) -> Statuses:
    async def run() -> Statuses:
        return await attack(target)

    return asyncio.run(run())
