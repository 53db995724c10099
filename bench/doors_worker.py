"""A language worker that computes nothing: one token to each of its requests in every step."""

import asyncio
import time
from pathlib import Path
from types import TracebackType

from glm4v.broker import Connection, Keys
from glm4v.broker.lm_queue import Append, LmQueue, RequestLease
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.internal.v1 import journal_pb2 as pb

_TOKEN = ord("a")  # of the tiny checkpoint, whose first tokens are bytes
_LEASE_S = 60.0


class StepWorker:
    """Answers the requests for one model, all together."""

    def __init__(self, model: Path, redis_url: str) -> None:
        self._connection = Connection(redis_url)
        fingerprint = Checkpoint.open(model).fingerprint
        self._queue = LmQueue(
            self._connection, Keys("glm4v"), fingerprint, lease_s=_LEASE_S, result_ttl_s=60
        )
        self._leases: list[RequestLease] = []
        self._tokens = 0

    async def __aenter__(self) -> "StepWorker":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._connection.close()

    async def claim(self, count: int) -> None:
        """Take requests until there are as many."""
        while len(self._leases) < count:
            for lease in await self._queue.claim(count - len(self._leases)):
                if await self._queue.resume_or_release(lease) is not None:
                    self._leases.append(lease)

    async def step(self, *, is_last: bool = False) -> float:
        """Append a token to each request; when that began."""
        began, now_ms = time.monotonic(), int(1000 * time.time())
        end = None
        if is_last:
            kind = pb.END_KIND_LENGTH
            end = pb.JournalEnd(kind=kind, at_ms=now_ms, token_count=self._tokens + 1)
        tokens = pb.JournalTokens(ids=[_TOKEN], at_ms=now_ms)
        await self._queue.append(
            [Append(lease, self._tokens, tokens, end) for lease in self._leases]
        )
        self._tokens += 1
        return began

    async def run(self, steps: int, rate: float) -> list[float]:
        """Append that many tokens to each request, at a rate; when each step began."""
        began, first = [], time.monotonic()
        for number in range(steps):
            await asyncio.sleep(max(0.0, first + number / rate - time.monotonic()))
            began.append(await self.step(is_last=number == steps - 1))
        return began
