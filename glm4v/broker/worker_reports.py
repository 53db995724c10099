"""What workers tell of themselves once a second, for people who watch a deployment."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import anyio
from google.protobuf.message import DecodeError

from glm4v.broker.connection import Connection, map_redis_errors
from glm4v.broker.keys import LM_GROUP, VISION_GROUP, Keys, Queue
from glm4v.errors import Overloaded, Unavailable
from glm4v.internal.v1 import worker_pb2 as pb

log = logging.getLogger(__name__)

_KINDS = {LM_GROUP: "language", VISION_GROUP: "vision"}
_PHASES = {
    pb.WORKER_PHASE_LOADING: "loading",
    pb.WORKER_PHASE_SERVING: "serving",
    pb.WORKER_PHASE_DRAINING: "draining",
}
_MAX_DIGITS = 15  # of a time in milliseconds
_EVERY_S = 1.0
_LAST_S = 1.0  # to remove the report at the end
SILENT_AFTER_S = 5.0
_FORGET_AFTER_S = 60.0


class WorkerReporter:
    """Reports on one worker."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        *,
        queue: Queue,
        consumer: str,
        device: str,
        description: str,
        report: Callable[[], pb.WorkerReport],
        started: asyncio.Event,
        stopping: asyncio.Event,
    ) -> None:
        """`report` fills in the numbers; the events say when the worker serves and drains."""
        self._connection = connection
        self._keys = keys
        self._consumer = consumer
        self._report = report
        self._started = started
        self._stopping = stopping
        self._fixed = pb.WorkerReport(
            queue=queue, device=device, description=description, host=socket.gethostname()
        )

    async def run(self) -> None:
        """Report until cancelled, then remove the report."""
        try:
            while True:
                report = self._report()
                report.MergeFrom(self._fixed)
                report.phase = self._phase()
                await self._store(report.SerializeToString())
                await asyncio.sleep(_EVERY_S)
        finally:
            with anyio.move_on_after(_LAST_S, shield=True):
                await self._store(b"")

    def _phase(self) -> "pb.WorkerPhase.ValueType":
        if self._stopping.is_set():
            return pb.WORKER_PHASE_DRAINING
        return pb.WORKER_PHASE_SERVING if self._started.is_set() else pb.WORKER_PHASE_LOADING

    async def _store(self, report: bytes) -> None:
        with suppress(Unavailable, Overloaded):  # nobody can see it then
            await self._connection.run(
                "report_worker", [self._keys.workers], [self._consumer, report]
            )


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker's last report, and its age by the clock of Redis."""

    consumer: str
    report: pb.WorkerReport
    age_s: float

    @property
    def is_silent(self) -> bool:
        """Whether it should have reported again: it hangs, is stopped or has died."""
        return self.age_s > SILENT_AFTER_S

    @property
    def phase(self) -> str:
        """What it does: "loading", "serving", "draining", or for how long it has been silent.

        "unknown" is a phase of a newer release.
        """
        if self.is_silent:
            return f"silent for {self.age_s:.0f} s"
        return _PHASES.get(self.report.phase, "unknown")

    def as_dict(self) -> dict[str, object]:
        """It as JSON; `done` counts tokens of a language worker, images of a vision worker."""
        report = self.report
        group = report.queue.partition(":")[0]
        return {
            "name": self.consumer,
            "kind": _KINDS.get(group, group),
            "host": report.host,
            "device": report.device,
            "description": report.description,
            "state": self.phase,
            "running": report.running,
            "waiting": report.waiting,
            "done": report.done,
            "kv_blocks_used": report.kv_blocks_used,
            "kv_blocks_total": report.kv_blocks_total,
        }


async def read_worker_states(connection: Connection, keys: Keys) -> list[WorkerState]:
    """All workers of a namespace that reported in the last minute, by name.

    Older reports are deleted. Raises Unavailable.
    """
    async with map_redis_errors(), connection.commands.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.hgetall(keys.workers)
        (seconds, micros), stored = await pipe.execute()
    now_s = seconds + micros / 1e6
    states = [_state(name, value, now_s) for name, value in stored.items()]
    forgotten = [
        name
        for name, state in zip(stored, states, strict=True)
        if state is None or state.age_s > _FORGET_AFTER_S
    ]
    if forgotten:
        async with map_redis_errors():
            await connection.commands.hdel(keys.workers, *forgotten)
    found = [each for each in states if each is not None and each.age_s <= _FORGET_AFTER_S]
    return sorted(found, key=lambda state: (state.report.queue, state.consumer))


async def count_workers(connection: Connection, keys: Keys) -> dict[tuple[str, str], int]:
    """Workers by kind and by what they do; a kind that serves has an entry, if only 0.

    Raises Unavailable.
    """
    counts = Counter({(kind, "serving"): 0 for kind in _KINDS.values()})
    for each in await read_worker_states(connection, keys):
        group = each.report.queue.partition(":")[0]
        state = "silent" if each.is_silent else each.phase
        counts[_KINDS.get(group, group), state] += 1
    return dict(counts)


def _state(consumer: bytes, value: bytes, now_s: float) -> WorkerState | None:
    at_ms, _, payload = value.partition(b" ")
    if not at_ms.isdigit() or len(at_ms) > _MAX_DIGITS:
        return None
    try:
        report = pb.WorkerReport.FromString(payload)
    except DecodeError:
        return None
    return WorkerState(consumer.decode(errors="replace"), report, now_s - int(at_ms) / 1000)
