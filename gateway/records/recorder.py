"""Records each request that has ended, whichever process ended it."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from glm4v.broker.ended_requests import CLAIM_S, EndedRequests
from glm4v.broker.timeline import Timeline
from glm4v.errors import Overloaded, Unavailable

log = logging.getLogger(__name__)

_EVERY_S = 0.5
_RETRY_S = 2.0
_BATCH_S = CLAIM_S / 2


class Recorder:
    """Passes the timelines of ended requests to `sinks`, in a gateway.

    A request for several answers has a timeline for each.
    """

    def __init__(self, ended: EndedRequests, sinks: Sequence[Callable[[Timeline], None]]) -> None:
        self._ended = ended
        self._sinks = sinks

    async def run(self) -> None:
        """Record, until cancelled."""
        while True:
            try:
                has_more = await self.record()
            except (Unavailable, Overloaded) as error:
                log.warning("requests not recorded, retried in %s s: %s", _RETRY_S, error)
                await asyncio.sleep(_RETRY_S)
            else:
                await asyncio.sleep(0 if has_more else _EVERY_S)

    async def record(self) -> bool:
        """Record what has ended; False when there was nothing. Raises Unavailable, Overloaded."""
        claimed = await self._ended.claim()
        recorded: list[bytes] = []
        stop_at = time.monotonic() + _BATCH_S
        for entry, request_id in claimed:
            found = await self._ended.timeline(request_id)
            if found is not None and found.end is not None:
                self._pass_on(found)
            recorded.append(entry)
            if time.monotonic() > stop_at:
                break  # the claims of the others lapse, and are taken again
        if recorded:
            await self._ended.done(recorded)
        return bool(claimed)

    def _pass_on(self, found: Timeline) -> None:
        for sink in self._sinks:
            try:
                sink(found)
            except Exception:  # a request that cannot be recorded must not stop the gateway
                log.exception("request=%s could not be recorded", found.job.request_id)
