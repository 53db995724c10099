"""Queues that no worker serves, as after a rolling update to another model.

Their requests end by deadline or orphan timeout, as all do. What workers would clean up when they
claim it is cleaned up here.
"""

import logging
from contextlib import suppress

from google.protobuf.message import DecodeError

from glm4v.broker.connection import Connection, map_redis_errors
from glm4v.broker.keys import (
    LM_GROUP,
    UNSERVED_AFTER_MS,
    VISION_GROUP,
    Keys,
    Queue,
    lm_queue,
    queue_parts,
    vision_queue,
)
from glm4v.internal.v1 import journal_pb2 as pb

log = logging.getLogger(__name__)

_BATCH = 1000
DROP_AFTER_MS = 3_600_000


class UnservedQueues:
    """Prunes queues, and says whether workers are missing. Raises Unavailable."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def reason(self, job: pb.Job, now_ms: int) -> str:
        """Why a request may have waited in vain: which workers are missing; empty if none are."""
        queue, kind = lm_queue(job.fingerprint), "language"
        if await self._waits_for_image(job):
            queue, kind = vision_queue(job.fingerprint), "vision"
        async with map_redis_errors():
            seen_ms = await self._connection.commands.zscore(self._keys.queues, queue)
        if seen_ms is not None and now_ms - seen_ms < UNSERVED_AFTER_MS:
            return ""
        return f"no {kind} worker of model {job.fingerprint} is running"

    async def _waits_for_image(self, job: pb.Job) -> bool:
        if not job.image_digest:
            return False
        waiters = self._keys.encode_waiters(job.fingerprint, job.image_digest)
        async with map_redis_errors():
            return bool(await self._connection.commands.hexists(waiters, job.request_id))

    async def prune(self) -> None:
        """Delete the jobs of ended requests, and empty queues without workers."""
        async with map_redis_errors():
            names = await self._connection.commands.zrange(self._keys.queues, 0, -1)
        for name in names:
            queue = Queue(name.decode(errors="replace"))
            match queue_parts(queue):
                case (group, _) if group == LM_GROUP:
                    await self._prune_requests(queue)
                case (group, fingerprint) if group == VISION_GROUP:
                    await self._prune_images(queue, fingerprint)
            dropped = await self._connection.run(
                "drop_queue",
                [self._keys.queues, self._keys.jobs(queue)],
                [name, DROP_AFTER_MS],
            )
            if dropped:
                log.info("queue %s deleted: it is empty and no worker uses it", queue)

    async def _prune_requests(self, queue: Queue) -> None:
        keys = [self._keys.jobs(queue), self._keys.open_requests]
        last = "0-0"
        while last:
            answer = await self._connection.run("prune_requests", keys, [LM_GROUP, last, _BATCH])
            last = answer.decode()

    async def _prune_images(self, queue: Queue, fingerprint: str) -> None:
        jobs, last = self._keys.jobs(queue), "-"
        while True:
            async with map_redis_errors():
                entries = await self._connection.commands.xrange(jobs, last, count=_BATCH)
            for entry, fields in entries:
                with suppress(DecodeError, KeyError):  # a worker moves it to the dead letters
                    job = pb.VisionJob.FromString(fields[b"d"])
                    await self._prune_image(jobs, fingerprint, job.image_digest, entry)
            if len(entries) < _BATCH:
                return
            last = "(" + entries[-1][0].decode()

    async def _prune_image(self, jobs: str, fingerprint: str, digest: str, entry: bytes) -> None:
        waiters = self._keys.encode_waiters(fingerprint, digest)
        keys = [jobs, waiters, self._keys.open_requests]
        await self._connection.run("prune_image", keys, [VISION_GROUP, entry])
