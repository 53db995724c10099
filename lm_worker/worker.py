"""One language worker: runs the engine, renews leases, and drains."""

import asyncio
import logging

import anyio

from glm4v.broker.lm_queue import LmQueue
from glm4v.broker.retry import retry_until_available
from glm4v.process.watchdog import Watchdog
from lm_worker.claimer import Claimer, evict
from lm_worker.engine.engine import Engine
from lm_worker.publisher import Publisher

log = logging.getLogger(__name__)


class Worker:
    """Runs until it is told to stop, then requeues what is unfinished."""

    def __init__(
        self,
        queue: LmQueue,
        engine: Engine,
        publisher: Publisher,
        claimer: Claimer,
        *,
        lease_s: float,
    ) -> None:
        self._queue = queue
        self._engine = engine
        self._publisher = publisher
        self._claimer = claimer
        self._lease_s = lease_s

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve requests until `stopping` is set, then requeue the unfinished ones.

        That waits for the step in progress only. A claim that waits in Redis ends up to a second
        later, and what it returns is requeued too.
        """
        log.info("consumer=%s", self._queue.consumer)
        async with anyio.create_task_group() as group:
            group.start_soon(self._renew_forever)
            group.start_soon(self._claimer.watch_prefills)
            async with anyio.create_task_group() as claiming:
                claiming.start_soon(self._stop_with, stopping)
                async with anyio.create_task_group() as admitting:
                    self._claimer.start(claiming, admitting, stopping)
                    await self._engine.run()
                    admitting.cancel_scope.cancel()
                await self._requeue()
            await self._requeue()
            group.cancel_scope.cancel()
        if problems := self._engine.check_integrity():  # a bug: no sequence is left
            raise RuntimeError(f"KV cache is inconsistent after the drain: {'; '.join(problems)}")

    async def _stop_with(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._engine.stop()

    async def _renew_forever(self) -> None:
        """Renew leases while the engine makes progress; a stalled one loses its requests."""
        engine, watchdog = self._engine, Watchdog(self._lease_s)
        while True:
            is_stalled = watchdog.is_stalled(engine.progress, is_busy=not engine.is_idle)
            self._claimer.is_paused = is_stalled
            if is_stalled:
                log.warning("engine stalled for %g s; not renewing leases", self._lease_s)
            else:
                for lost in await self._publisher.renew():
                    await evict(engine, lost)
            await asyncio.sleep(self._lease_s / 4)

    async def _requeue(self) -> None:
        leased = self._publisher.clear()
        # A request that is being admitted again has its newer lease there.
        leases = {one.request_id: one.lease for one in leased} | self._claimer.clear()
        count = await retry_until_available(self._queue.requeue, list(leases.values()))
        for one in leased:
            await evict(self._engine, one)
        if count:
            log.info("requeued %d requests", count)
