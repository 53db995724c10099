"""A seeded schedule of faults: processes are killed, paused and drained, and come back."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Sequence
from random import Random

import anyio
from redis.exceptions import RedisError

from glm4v.local.disk_guard import guard_disk
from tests.e2e.fleet import LEASE_S, Fleet
from tests.processes import is_running
from tests.shifted_redis import ShiftedRedis
from tests.small_disk import SmallDisk

NAMES = (
    *("gateway", "gateway-2"),
    *("vision_worker", "vision_worker-2"),
    *("lm_worker", "lm_worker-2"),
)
OTHER = "other"  # suffix of the services of a second model
OTHER_NAMES = (f"gateway-{OTHER}", f"vision_worker-{OTHER}", f"lm_worker-{OTHER}")
_KINDS = {  # with how often each is chosen
    ("kill", "lm_worker"): 5,
    ("pause", "lm_worker"): 3,
    ("drain", "lm_worker"): 2,
    ("kill", "vision_worker"): 3,
    ("pause", "vision_worker"): 2,
    ("drain", "vision_worker"): 1,
    ("kill", "gateway"): 2,
    ("pause", "gateway"): 1,
    ("drain", "gateway"): 1,
    ("kill while it starts", "lm_worker"): 2,
    ("kill while it starts", "vision_worker"): 1,
    ("kill while it starts", "gateway"): 1,
    ("kill while it drains", "lm_worker"): 2,
    ("kill while it drains", "vision_worker"): 1,
    ("kill while it drains", "gateway"): 1,
    ("kill", "redis"): 1,
    ("pause", "redis"): 1,
    ("rewrite the file of", "redis"): 1,
    ("kill while it rewrites the file", "redis"): 1,
}
_FULL_DISK = {("fill the disk of", "redis"): 1, ("kill with its disk full", "redis"): 1}
_CLOCK = {("set the clock of", "redis"): 1}
_ERASE = {("erase", "redis"): 2}
_MEAN_S = 1.2  # between two faults
_START_S = 0.6  # imports are there already: settings, checkpoint, first contact with Redis
_DRAIN_S = 0.5
_REWRITE_S = 0.1
_ROOM_BYTES = 2**20  # at most, that a full disk has left
_GUARD_S = 1.2  # how long writes may be refused once there is room again
_AHEAD_S = 40.0  # at most, that its clock is ahead or behind


class Faults:
    """Breaks a fleet; at the end everything runs again.

    `counts` are the faults by kind and process; `crashes` the ends that nobody asked for. `disk`
    is what Redis lies on, where that can be filled. Its clock is set where it is one that can be.
    `names` are the services. With `erases` Redis also loses everything it holds, now and then.
    Those `spared` are never broken.
    """

    def __init__(
        self,
        fleet: Fleet,
        seed: int,
        *,
        disk: SmallDisk | None = None,
        erases: bool = False,
        names: Sequence[str] = NAMES,
        spared: Sequence[str] = (),
    ) -> None:
        self._fleet = fleet
        self._names = names
        self._disk = disk
        has_clock = isinstance(fleet.redis, ShiftedRedis)
        self._kinds = (
            _KINDS
            | (_FULL_DISK if disk else {})
            | (_CLOCK if has_clock else {})
            | (_ERASE if erases else {})
        )
        self._dice = Random(seed)
        self._spared = frozenset(spared)
        self._broken: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.crashes: list[str] = []

    @property
    def erasures(self) -> int:
        """How often Redis lost everything."""
        return self.counts["erase redis"]

    async def run(self, seconds: float) -> None:
        """Break things for so long, then let everything come back."""
        with anyio.move_on_after(seconds) as time_is_up:
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch)
                if self._disk is not None:
                    url, folder = self._fleet.redis.url, self._disk.folder
                    group.start_soon(guard_disk, url, folder, lambda line: None)
                while True:
                    await asyncio.sleep(self._dice.expovariate(1 / _MEAN_S))
                    self._break_something(group)
        assert time_is_up.cancelled_caught
        await self._mend()

    def _break_something(self, group: anyio.abc.TaskGroup) -> None:
        kinds, weights = zip(*self._kinds.items(), strict=True)
        [(kind, module)] = self._dice.choices(kinds, weights)
        names = [name for name in (*self._names, "redis") if name.startswith(module)]
        name = self._dice.choice(names)
        pause_s = self._dice.uniform(0.2, 2.5) * LEASE_S
        if name in self._broken | self._spared or name not in (*self._fleet.running, "redis"):
            return
        self._broken.add(name)
        self.counts[f"{kind} {module}"] += 1
        group.start_soon(self._break, kind, name, pause_s)

    async def _break(self, kind: str, name: str, pause_s: float) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself: `_watch` sees it
            await self._break_and_mend(kind, name, pause_s)
        self._broken.discard(name)

    async def _break_and_mend(self, kind: str, name: str, pause_s: float) -> None:
        if kind == "pause":
            self._fleet.signal(name, signal.SIGSTOP)
            await asyncio.sleep(pause_s)
            self._fleet.signal(name, signal.SIGCONT)
        elif name == "redis":
            await self._break_redis(kind, pause_s)
        else:
            await self._break_service(kind, name, pause_s)

    async def _break_redis(self, kind: str, pause_s: float) -> None:
        if kind == "erase":
            await self._fleet.connection.commands.flushall()
            return
        if kind == "set the clock of" and isinstance(self._fleet.redis, ShiftedRedis):
            self._fleet.redis.shift(self._dice.uniform(-_AHEAD_S, _AHEAD_S))
            return
        if "disk" in kind:
            await self._fill_disk(kind, pause_s)
            return
        if "rewrite" in kind:
            with contextlib.suppress(RedisError):
                await self._fleet.connection.commands.bgrewriteaof()
        if kind == "rewrite the file of":
            return
        if kind == "kill while it rewrites the file":
            await asyncio.sleep(self._dice.uniform(0, _REWRITE_S))
        self._fleet.signal("redis", signal.SIGKILL)
        await asyncio.sleep(pause_s / 4)
        self._fleet.start_redis()

    async def _fill_disk(self, kind: str, pause_s: float) -> None:
        """The guard sees it, or a write fails and ends the server, whichever is first."""
        assert self._disk is not None  # or the kind would not have been chosen
        self._disk.fill(self._dice.randrange(_ROOM_BYTES))
        try:
            with anyio.move_on_after(pause_s):
                if kind == "kill with its disk full":
                    await asyncio.sleep(self._dice.uniform(0, pause_s))
                    self._fleet.signal("redis", signal.SIGKILL)
                while True:  # as the supervisor does
                    await asyncio.sleep(0.05)
                    self._start_redis_if_it_ended()
        finally:
            self._disk.empty()
        await asyncio.sleep(_GUARD_S)
        self._start_redis_if_it_ended()

    def _start_redis_if_it_ended(self) -> None:
        if not is_running(self._fleet.redis.pid):
            self._fleet.start_redis()

    async def _break_service(self, kind: str, name: str, pause_s: float) -> None:
        self._fleet.signal(name, signal.SIGTERM if "drain" in kind else signal.SIGKILL)
        if kind == "kill while it drains":
            await asyncio.sleep(self._dice.uniform(0, _DRAIN_S))
            with contextlib.suppress(ProcessLookupError):  # it may have been quicker
                self._fleet.signal(name, signal.SIGKILL)
        code = await self._fleet.ended(name)
        if kind == "drain" and code != 0:
            self.crashes.append(f"{name}: {code} after a drain: {self._fleet.log(name)[-2000:]}")
        await asyncio.sleep(pause_s / 4)
        if kind == "kill while it starts":
            await self._fleet.start(name, wait=False)
            await asyncio.sleep(self._dice.uniform(0, _START_S))
            await self._fleet.kill(name)
        await self._fleet.start(name)

    async def _watch(self) -> None:
        """Start again what ended by itself; that is a fault of ours."""
        while True:
            await asyncio.sleep(0.2)
            running = self._fleet.running
            for name in self._names:
                if name not in running and name not in self._broken:
                    self.crashes.append(f"{name}: {self._fleet.log(name)[-2000:]}")
                    await self._fleet.start(name, wait=False)

    async def _mend(self) -> None:
        """Whatever the end of the time has left in pieces."""
        if "redis" in self._broken:
            self._fleet.signal("redis", signal.SIGKILL)
            self._fleet.start_redis()
        for name in self._names:
            with contextlib.suppress(ProcessLookupError, KeyError):  # it has ended meanwhile
                self._fleet.signal(name, signal.SIGCONT)
        await asyncio.sleep(LEASE_S)  # one that was being drained is gone by now
        running = self._fleet.running
        await self._fleet.start(*(name for name in self._names if name not in running))
