"""Requests that have ended, each given to one gateway, which records it in log, metrics and traces.

A gateway that dies before it has recorded a request loses its claim, and another one records it;
so a request may be recorded twice, but not never, unless Redis loses the stream.
"""

import time
import uuid
from typing import Any

from glm4v.broker.connection import Connection, QueueLost, WrongType, map_redis_errors
from glm4v.broker.keys import ENDED_GROUP, Keys
from glm4v.broker.timeline import Timeline, read_timeline
from glm4v.errors import RequestFailed, UnknownReference

_COUNT = 100
CLAIM_S = 30.0  # what is not recorded until then is another gateway's
_LAPSED_MS = int(CLAIM_S * 1000)
_FORGET_EVERY_S = 60.0
_FORGET_IDLE_MS = 600_000  # a live gateway claims twice a second


class EndedRequests:
    """The claims of one gateway. Raises Unavailable and Overloaded."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self.consumer = f"{ENDED_GROUP}-{uuid.uuid4().hex[:12]}"
        self._forgotten_at = -_FORGET_EVERY_S

    async def claim(self) -> list[tuple[bytes, str]]:
        """At most 100 requests, new ones or those of gateways that died: entry and request id."""
        try:
            claimed = await self._claim_lapsed() or await self._claim_new()
            await self._forget_gateways()
        except QueueLost:
            await self._connection.ensure_group(self._keys.ended, ENDED_GROUP)
            return []
        return claimed

    async def timeline(self, request_id: str) -> Timeline | None:
        """The timeline of a request; None where its journal is gone, damaged or foreign."""
        try:
            return await read_timeline(self._connection, self._keys, request_id)
        except (UnknownReference, RequestFailed, WrongType):
            return None

    async def done(self, entries: list[bytes]) -> None:
        """These are recorded."""
        async with (
            map_redis_errors(),
            self._connection.commands.pipeline(transaction=True) as pipe,
        ):
            pipe.xack(self._keys.ended, ENDED_GROUP, *entries)
            pipe.xdel(self._keys.ended, *entries)
            await pipe.execute()

    async def _forget_gateways(self) -> None:
        """Delete consumers of gateways that are gone, once a minute."""
        now = time.monotonic()
        if now - self._forgotten_at >= _FORGET_EVERY_S:
            self._forgotten_at = now
            names = [self._keys.ended]
            await self._connection.run("forget_consumers", names, [ENDED_GROUP, _FORGET_IDLE_MS])

    async def _claim_new(self) -> list[tuple[bytes, str]]:
        async with map_redis_errors():
            answer = await self._connection.commands.xreadgroup(
                ENDED_GROUP, self.consumer, {self._keys.ended: ">"}, count=_COUNT
            )
        return [_request(entry) for _, entries in answer for entry in entries]

    async def _claim_lapsed(self) -> list[tuple[bytes, str]]:
        async with map_redis_errors():
            commands: Any = self._connection.commands
            answer = await commands.xautoclaim(
                self._keys.ended, ENDED_GROUP, self.consumer, _LAPSED_MS, count=_COUNT
            )
        return [_request(entry) for entry in answer[1] if entry[1]]


def _request(entry: tuple[bytes, dict[bytes, bytes]]) -> tuple[bytes, str]:
    return entry[0], entry[1].get(b"r", b"").decode(errors="replace")
