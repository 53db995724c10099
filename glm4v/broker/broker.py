"""What a gateway does with Redis: accept requests, follow them, and end them."""

import logging
from typing import Any

import anyio

from glm4v.broker.blobs import Blobs
from glm4v.broker.choices import candidates, choice_id, choice_jobs
from glm4v.broker.clock import RedisClock
from glm4v.broker.connection import Connection, TooFewReplicas
from glm4v.broker.deployment_state import deployment_state
from glm4v.broker.former_keys import adopt_former_keys
from glm4v.broker.hub import JournalHub
from glm4v.broker.journal_reader import JournalReader, unknown_request
from glm4v.broker.keys import LM_GROUP, VISION_GROUP, Keys, lm_queue, vision_queue
from glm4v.broker.own_server import is_refusing
from glm4v.broker.queue_position import queue_position
from glm4v.broker.readers import READER_GRACE_S
from glm4v.broker.sweeper import Sweeper
from glm4v.broker.timeline import read_timeline
from glm4v.errors import IdTaken, Overloaded, RequestFailed, UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2

log = logging.getLogger(__name__)

_STORE_TRIES = 3  # the image may be evicted before it is pinned
_DISK_FULL = "the disk of Redis is nearly full; free some room there, or try again later"


class Broker:
    """The gateways' side of the protocol. Holds no state that other gateways lack."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        *,
        max_open_requests: int,
        result_ttl_s: float,
        max_open_image_bytes: int = 0,
    ) -> None:
        """Limits count all gateways and all models of the namespace.

        `max_open_image_bytes` is for all images of open requests; 0 is half of Redis' maxmemory.
        """
        self._connection = connection
        self._keys = keys
        self._max_open = max_open_requests
        self._max_image_bytes = max_open_image_bytes
        self._result_ttl_ms = int(result_ttl_s * 1000)
        self._blobs = Blobs(connection, keys)
        self._clock = RedisClock(connection, keys)
        self._hub = JournalHub(connection, keys, self._clock)
        self.embedding_lookups = {"hit": 0, "miss": 0}  # of requests with an image

    async def ready(self, fingerprint: str) -> None:
        """Make sure that Redis answers and that the queues of a model exist."""
        await self._connection.ensure_group(self._keys.jobs_lm(fingerprint), LM_GROUP)
        await self._connection.ensure_group(self._keys.jobs_vision(fingerprint), VISION_GROUP)
        queues = [lm_queue(fingerprint), vision_queue(fingerprint)]
        await self._connection.run("register_queues", [self._keys.queues], queues)
        await adopt_former_keys(self._connection, self._keys, self._hub.first_job)

    async def submit(self, job: pb.Job, image: bytes | None) -> bool:
        """Accept a request with all its choices, or refuse it as a whole.

        Returns True when it is new, False when the same request was accepted before. `image` is
        the image file if the caller has it. Raises IdTaken, Overloaded, UnknownReference (the
        owner has sent no image with the digest, or it is gone), Unavailable.
        """
        try:
            return await self._accept(job, image)
        except Overloaded:
            # The caller may not know that it was accepted: the reply was lost, and this is a retry.
            if await self._is_accepted(job):
                return False
            raise

    async def _accept(self, job: pb.Job, image: bytes | None) -> bool:
        try:
            answer = await self._submit(job, image)
            for _ in range(_STORE_TRIES - 1):
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
                    f"no image is stored under the digest {job.image_digest}; send its bytes"
                )
            case [b"no image"]:
                raise Overloaded("Redis has no room for another image; try again later")
        self._check_capacity(job, answer)
        return bool(answer[0] == b"accepted")

    async def _is_accepted(self, job: pb.Job) -> bool:
        """Whether this very request was accepted before. Writes nothing."""
        try:
            first = await self._hub.first_job(job.request_id)
        except (UnknownReference, RequestFailed):
            return False
        return first.content_digest == job.content_digest

    async def _submit(self, job: pb.Job, image: bytes | None) -> list[Any]:
        """Store the image, then run the script; returns its answer."""
        route = LM_GROUP
        if job.image_digest:
            await self._ensure_image(job, image)
            is_stored = await self._blobs.touch_embedding(job.fingerprint, job.image_digest)
            self.embedding_lookups["hit" if is_stored else "miss"] += 1
            route = LM_GROUP if is_stored else VISION_GROUP
        vision_job = pb.VisionJob(image_digest=job.image_digest, fingerprint=job.fingerprint)
        keys, jobs = self._keys, choice_jobs(job)
        choices: list[str | bytes] = []
        for each in jobs:
            choices += [each.request_id, pb.JournalAccepted(job=each).SerializeToString()]
        answer: list[Any] = await self._connection.run(
            "submit",
            [
                keys.open_requests,
                keys.reader_deadlines,
                keys.queues,
                keys.jobs_lm(job.fingerprint),
                keys.jobs_vision(job.fingerprint),
                keys.encode_waiters(job.fingerprint, job.image_digest),
                keys.image(job.image_digest),
                keys.image_owner(job.image_digest, job.owner),
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
                job.fingerprint,
                job.client,
                self._client_limit(job),
                int(image is not None),
                *choices,
            ],
        )
        return answer

    async def close_request(self, request_id: str, end: pb.JournalEnd) -> bool:
        """End a request; False when it had ended already. Raises UnknownReference."""
        keys = self._keys
        answer = await self._connection.run(
            "close",
            [keys.journal(request_id), keys.open_requests, keys.reader_deadlines],
            [request_id, end.SerializeToString(), self._result_ttl_ms],
        )
        if answer == b"unknown":
            raise unknown_request(request_id)
        return bool(answer == b"closed")

    async def end_choices(self, job: pb.Job, end: pb.JournalEnd) -> bool:
        """End all open choices of the request whose first choice is `job`; False without any.

        A choice whose journal is gone has ended.
        """
        ended = False
        for choice in range(candidates(job)):
            try:
                ended |= await self.close_request(choice_id(job.request_id, choice), end)
            except UnknownReference as error:
                log.info("choice not ended: %s", error)
        return ended

    async def job(self, request_id: str, owner: str = "") -> pb.Job:
        """The job of a request of this owner.

        Raises UnknownReference, the same for another owner's request as for none, RequestFailed
        and Unavailable.
        """
        return await self._hub.job(request_id, owner)

    async def watch_request(self, job: pb.Job) -> dict[str, object]:
        """The phases of a request so far, and its position in a queue, as JSON. Raises as `job`."""
        found = await read_timeline(self._connection, self._keys, job.request_id)
        position = None
        if found.end is None:
            position = await queue_position(self._connection, self._keys, job)
        return found.as_dict() | {"queue_position": position}

    async def watch_workers(self) -> dict[str, object]:
        """The queues and workers of the namespace, as JSON. Raises Unavailable."""
        return (await deployment_state(self._connection, self._keys)).as_dict()

    def now_ms(self) -> int:
        """Unix time in milliseconds by the clock of Redis, also while Redis is away.

        Available once a request has been followed.
        """
        return self._clock.estimate_ms()

    async def follow_journal(self, request_id: str, owner: str = "") -> JournalReader:
        """Start to read the journal of a request of this owner. Raises as `job`.

        The caller closes the reader.
        """
        return await self._hub.follow(request_id, owner)

    def stop_reading(self) -> None:
        """Fail all waiting readers with Unavailable: they continue on another gateway."""
        self._hub.close()

    async def run(self) -> None:
        """Deliver journal entries, send heartbeats of readers and sweep, until cancelled."""
        sweeper = Sweeper(
            self._connection,
            self._keys,
            self._clock,
            first_job=self._hub.first_job,
            close=self.close_request,
        )
        async with anyio.create_task_group() as group:
            group.start_soon(self._hub.run)
            group.start_soon(self._hub.readers.run)
            group.start_soon(sweeper.run)

    async def _ensure_image(self, job: pb.Job, image: bytes | None) -> None:
        """Store an image, unless the request would be refused anyway."""
        answer = await self._connection.run(
            "check_capacity",
            [self._keys.open_requests, self._keys.journal(job.request_id)],
            [
                candidates(job),
                self._max_open,
                job.image_digest,
                len(image or b""),
                self._max_image_bytes,
                job.client,
                self._client_limit(job),
            ],
        )
        self._check_capacity(job, answer)
        if image is not None:
            await self._blobs.put_image(job.image_digest, image)

    def _check_capacity(self, job: pb.Job, answer: list[Any]) -> None:
        """Raise Overloaded, with the numbers, if a script found a limit reached."""
        choices = candidates(job)
        asked = f", this one has {choices} choices" if choices > 1 else ""
        match answer:
            case [b"full", count]:
                raise Overloaded(
                    f"{count} requests are open (limit {self._max_open}){asked}; try again later"
                )
            case [b"client full", count]:
                raise Overloaded(
                    f"{count} requests of this client are open (limit "
                    f"{self._client_limit(job)}){asked}; try again later"
                )
            case [b"images", pinned_bytes, limit]:
                raise Overloaded(
                    f"images of open requests take {pinned_bytes} bytes (limit {limit}), so this "
                    "one does not fit; try again later"
                )

    def _client_limit(self, job: pb.Job) -> int:
        """Requests that one client may have open: half of all, or what one request needs."""
        return max(self._max_open // 2, candidates(job))


def _stage(stage: "inference_pb2.Stage.ValueType") -> bytes:
    return pb.JournalStage(stage=stage).SerializeToString()
