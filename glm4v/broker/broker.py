"""What a gateway asks of Redis: accept a request, read it, end it, and end what is overdue."""

import logging
from typing import Any

import anyio

from glm4v.broker.blobs import Blobs
from glm4v.broker.choices import candidates, choice_id, choice_jobs
from glm4v.broker.clock import RedisClock
from glm4v.broker.connection import Connection, TooFewReplicas
from glm4v.broker.journal import READER_GRACE_S, JournalHub, JournalReader, unknown_request
from glm4v.broker.keys import Keys
from glm4v.broker.own_server import is_refusing
from glm4v.broker.sweeper import Sweeper
from glm4v.errors import IdTaken, Overloaded, UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2

log = logging.getLogger(__name__)

_PLACE_TRIES = 3  # an image may be pushed out by others before it is pinned
_DISK_FULL = "the disk of Redis is nearly full; free some room there, or try again later"


class Broker:
    """Keeps nothing that another gateway could not read from Redis."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        *,
        max_open_requests: int,
        result_ttl_s: float,
        max_open_image_bytes: int = 0,
    ) -> None:
        """`max_open_image_bytes` of all images of open requests; 0: half of Redis' maxmemory."""
        self._connection = connection
        self._keys = keys
        self._max_open = max_open_requests
        self._max_image_bytes = max_open_image_bytes
        self._retention_ms = int(result_ttl_s * 1000)
        self._blobs = Blobs(connection, keys)
        self._clock = RedisClock(connection, keys)
        self._hub = JournalHub(connection, keys, self._clock)

    async def ready(self) -> None:
        """Make sure Redis answers and the queues exist, so that their lag can be read."""
        await self._connection.ensure_group(self._keys.jobs_lm, "lm")
        await self._connection.ensure_group(self._keys.jobs_vision, "vision")

    async def submit(self, job: pb.Job, image: bytes | None) -> bool:
        """Accept a request: all its choices or, when one does not fit in, none.

        True when it is new, False when the same was accepted before.
        `image` is the image file when the caller has it. Raises IdTaken, Overloaded,
        UnknownReference (a digest that is not known), Unavailable.
        """
        try:
            answer = await self._submit(job, image)
            for _ in range(_PLACE_TRIES - 1):
                if answer[0] != b"no image" or image is None:
                    break
                answer = await self._submit(job, image)
        except TooFewReplicas:
            if await is_refusing(self._connection):
                raise Overloaded(_DISK_FULL) from None
            raise
        match answer:
            case [b"taken"]:
                raise IdTaken(
                    f"request id {job.request_id!r} belongs to another request; choose a new one"
                )
            case [b"no image"] if image is None:
                raise UnknownReference(
                    f"no image is known under the digest {job.image_digest}; send its bytes"
                )
            case [b"no image"]:
                raise Overloaded("Redis has no room for another image; try again later")
        self._check_capacity(job, answer)
        return bool(answer[0] == b"accepted")

    async def _submit(self, job: pb.Job, image: bytes | None) -> list[Any]:
        """Store the image, and accept the request if it has room; what the script answers."""
        route = "lm"
        if job.image_digest:
            await self._ensure_image(job, image)
            if not await self._blobs.is_embedded(job.fingerprint, job.image_digest):
                route = "vision"
        vision_job = pb.VisionJob(image_digest=job.image_digest, fingerprint=job.fingerprint)
        keys, jobs = self._keys, choice_jobs(job)
        choices: list[str | bytes] = []
        for each in jobs:
            choices += [each.request_id, pb.JournalAccepted(job=each).SerializeToString()]
        answer: list[Any] = await self._connection.run(
            "submit",
            [
                keys.open,
                keys.readers,
                keys.jobs_lm,
                keys.jobs_vision,
                keys.flight(job.fingerprint, job.image_digest),
                keys.image(job.image_digest),
                *(keys.journal(each.request_id) for each in jobs),
            ],
            [
                job.content_digest,
                job.former_digest,
                _stage(inference_pb2.STAGE_QUEUED),
                job.timeout_ms,
                job.orphan_timeout_ms + int(1000 * READER_GRACE_S),
                self._max_open,
                self._max_image_bytes,
                job.image_digest,
                route,
                vision_job.SerializeToString(),
                _stage(inference_pb2.STAGE_ENCODING),
                *choices,
            ],
        )
        return answer

    async def close_request(self, request_id: str, end: pb.JournalEnd) -> bool:
        """End a request; False when it had ended. Raises UnknownReference."""
        keys = self._keys
        answer = await self._connection.run(
            "close",
            [keys.journal(request_id), keys.open, keys.readers],
            [request_id, end.SerializeToString(), self._retention_ms],
        )
        if answer == b"unknown":
            raise unknown_request(request_id)
        return bool(answer == b"closed")

    async def end_choices(self, job: pb.Job, end: pb.JournalEnd) -> bool:
        """End what is still open of the request whose first choice is `job`; whether there was any.

        A choice whose journal is gone has ended.
        """
        ended = False
        for choice in range(candidates(job)):
            try:
                ended |= await self.close_request(choice_id(job.request_id, choice), end)
            except UnknownReference as error:
                log.info("not ended: %s", error)
        return ended

    async def job(self, request_id: str, owner: str = "") -> pb.Job:
        """The job of a request of this owner.

        Raises UnknownReference, the same for another owner's request as for none, RequestFailed
        and Unavailable.
        """
        return await self._hub.job(request_id, owner)

    def now_ms(self) -> int:
        """Unix time in milliseconds by the clock of Redis, while it is away too.

        Known from the first request on that was read.
        """
        return self._clock.estimate_ms()

    async def follow_journal(self, request_id: str, owner: str = "") -> JournalReader:
        """Start to read the journal of a request of this owner. Raises as `job`.

        The caller closes the reader.
        """
        return await self._hub.follow(request_id, owner)

    def stop_reading(self) -> None:
        """End what waits for news with Unavailable: readers go on through another gateway."""
        self._hub.close()

    async def run(self) -> None:
        """Deliver journal news, keep readers known and end what is overdue, until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._hub.run)
            group.start_soon(self._hub.heartbeat_readers)
            group.start_soon(
                Sweeper(self._connection, self._keys, self._clock, self.close_request).run
            )

    async def _ensure_image(self, job: pb.Job, image: bytes | None) -> None:
        """Store an image, but not megabytes of one whose request has no room."""
        answer = await self._connection.run(
            "room",
            [self._keys.open, self._keys.journal(job.request_id)],
            [
                candidates(job),
                self._max_open,
                job.image_digest,
                len(image or b""),
                self._max_image_bytes,
            ],
        )
        self._check_capacity(job, answer)
        if image is not None:
            await self._blobs.put_image(job.image_digest, image)

    def _check_capacity(self, job: pb.Job, answer: list[Any]) -> None:
        """Raise Overloaded, with the numbers, where a script has found no room."""
        choices = candidates(job)
        match answer:
            case [b"full", count]:
                asked = f", this one is for {choices} answers" if choices > 1 else ""
                raise Overloaded(
                    f"{count} requests are open (limit {self._max_open}){asked}; try again later"
                )
            case [b"images", held, limit]:
                raise Overloaded(
                    f"images of open requests take {held} bytes (limit {limit}), and this one has "
                    "no room; try again later"
                )


def _stage(stage: "inference_pb2.Stage.ValueType") -> bytes:
    return pb.JournalStage(stage=stage).SerializeToString()
