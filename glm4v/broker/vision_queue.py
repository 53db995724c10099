"""What a vision worker asks of Redis: claim images, store embeddings, release who waits."""

import time
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from glm4v.broker.connection import BLOCK_S, Connection
from glm4v.broker.entries import Fields, Unreadable
from glm4v.broker.job_stream import JobStream
from glm4v.broker.keys import VISION_GROUP, Keys
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2


@dataclass(frozen=True, slots=True)
class VisionLease:
    """The right to speak for one image."""

    entry: str  # of the job stream
    job: pb.VisionJob
    lives: int  # times this entry was claimed before: with the entry, the fencing token


class VisionQueue:
    """The vision workers' side of the protocol, for one worker life."""

    def __init__(
        self, connection: Connection, keys: Keys, *, lease_s: float, result_ttl_s: float
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._retention_ms = int(result_ttl_s * 1000)
        self._jobs = JobStream(
            connection, keys.jobs_vision, VISION_GROUP, lease_s, dead=keys.dead, read=_lease
        )
        self.consumer = self._jobs.consumer

    async def ready(self) -> None:
        """Make sure the queue exists."""
        await self._jobs.ready()

    async def claim(self, room: int, wait_s: float = BLOCK_S) -> list[VisionLease]:
        """New images, at most `room`; waits for up to `wait_s` when there are none."""
        return await self._jobs.claim(room, wait_s)

    async def claim_expired(self, room: int) -> list[VisionLease]:
        """Images whose lease has lapsed, at most `room`."""
        return await self._jobs.claim_expired(room)

    async def begin(self, lease: VisionLease) -> int:
        """Tell those who wait that encoding starts; how many wait, -1 when the lease is lost.

        With 0 the job is dropped: nobody wants the image any more.
        """
        stage = pb.JournalStage(stage=inference_pb2.STAGE_ENCODING, at_ms=_now_ms())
        return await self._run(
            "begin_encoding",
            lease,
            [self._keys.open],
            [stage.SerializeToString()],
        )

    async def renew(self, lease: VisionLease) -> int:
        """Renew the lease; how many wait, -1 when the lease is lost."""
        return await self._run("renew_vision", lease, [self._keys.open], [])

    async def encoded(self, lease: VisionLease) -> int:
        """The embedding is stored: release those who wait; how many, -1 when the lease is lost."""
        stage = pb.JournalStage(stage=inference_pb2.STAGE_QUEUED, at_ms=_now_ms())
        return await self._run(
            "encoded",
            lease,
            [self._keys.open, self._keys.jobs_lm],
            [stage.SerializeToString()],
        )

    async def encode_failed(self, lease: VisionLease, code: str, message: str) -> int:
        """Fail those who wait, with a gRPC status name; how many, -1 when the lease is lost."""
        end = pb.JournalEnd(kind=pb.END_KIND_FAILED, code=code, message=message, at_ms=_now_ms())
        return await self._run(
            "encode_failed",
            lease,
            [self._keys.open, self._keys.readers],
            [end.SerializeToString(), self._retention_ms],
        )

    async def requeue(self, lease: VisionLease) -> int:
        """Put the image back at the end of the queue; 1 when it was still ours."""
        answer = await self._connection.run(
            "requeue_image",
            [self._keys.jobs_vision],
            [
                VISION_GROUP,
                self.consumer,
                lease.entry,
                lease.lives,
                lease.job.SerializeToString(),
            ],
        )
        return int(answer)

    async def _run(
        self, script: str, lease: VisionLease, keys: list[str], args: list[bytes | str | int]
    ) -> int:
        flight = self._keys.flight(lease.job.fingerprint, lease.job.image_digest)
        answer = await self._connection.run(
            script,
            [self._keys.jobs_vision, flight, *keys],
            [VISION_GROUP, self.consumer, lease.entry, lease.lives, *args],
        )
        return int(answer)


def _lease(entry: str, fields: Fields, claims: int) -> VisionLease:
    try:
        return VisionLease(entry, pb.VisionJob.FromString(fields[b"d"]), claims)
    except (DecodeError, KeyError) as error:
        raise Unreadable(f"it names no image: {error!r}") from None


def _now_ms() -> int:
    return int(time.time() * 1000)
