"""The vision workers' side of the protocol: claim images, store embeddings, release requests."""

import logging
import time
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from glm4v.broker import keys as key_names
from glm4v.broker.blobs import Blobs
from glm4v.broker.connection import Connection
from glm4v.broker.entries import Fields, Unreadable
from glm4v.broker.job_stream import JobStream, Lease
from glm4v.broker.keys import Keys
from glm4v.broker.retry import retry_until_available
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.tensor_bytes import TensorBytes
from glm4v.v1 import inference_pb2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImageLease(Lease):
    """The right to encode one image."""

    job: pb.VisionJob


class VisionQueue(JobStream[ImageLease]):
    """The queue of one model's images, for one worker process."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        fingerprint: str,
        *,
        lease_s: float,
        result_ttl_s: float,
    ) -> None:
        queue = key_names.vision_queue(fingerprint)
        super().__init__(connection, keys, queue, lease_s, read=_lease)
        self._fingerprint = fingerprint
        self._blobs = Blobs(connection, keys)
        self._result_ttl_ms = int(result_ttl_s * 1000)

    async def begin(self, lease: ImageLease) -> int:
        """Tell the waiting requests that encoding starts.

        Returns their number; with 0 the job is deleted. -1 when the lease is lost.
        """
        stage = self._stage(inference_pb2.STAGE_ENCODING)
        return await self._run("begin_encode", lease, [], [stage.SerializeToString()])

    async def renew(self, lease: ImageLease) -> int:
        """Renew the lease. Returns the number of waiting requests, -1 when the lease is lost."""
        await self.report()
        return await self._run("renew_image", lease, [], [])

    async def finish(self, lease: ImageLease, embedding: TensorBytes | None) -> int:
        """Store the embedding, then release the waiting requests to the language workers.

        `embedding` is None when it is stored already. Waits while Redis is away, so that the
        embedding is stored once. Returns the number of requests released, -1 when the lease is
        lost; then nothing is stored.
        """
        if embedding is not None:
            if await retry_until_available(self.renew, lease) < 0:
                return -1
            await retry_until_available(self._store, lease, embedding)
        return await retry_until_available(self._release, lease)

    def _stage(self, stage: "inference_pb2.Stage.ValueType") -> pb.JournalStage:
        return pb.JournalStage(stage=stage, at_ms=_now_ms(), worker=self.consumer)

    async def _store(self, lease: ImageLease, embedding: TensorBytes) -> None:
        digest = lease.job.image_digest
        await self._blobs.put_embedding(self._fingerprint, digest, embedding)
        log.info("image=%s encoded", digest)

    async def _release(self, lease: ImageLease) -> int:
        """The embedding must be stored before: a released request expects to find it."""
        stage = self._stage(inference_pb2.STAGE_QUEUED)
        jobs_lm = self._keys.jobs_lm(self._fingerprint)
        return await self._run("encode_done", lease, [jobs_lm], [stage.SerializeToString()])

    async def fail(self, lease: ImageLease, code: str, message: str) -> int:
        """End the waiting requests with an error, `code` a gRPC status name.

        Returns their number, -1 when the lease is lost.
        """
        end = pb.JournalEnd(kind=pb.END_KIND_FAILED, code=code, message=message, at_ms=_now_ms())
        return await self._run(
            "encode_failed",
            lease,
            [self._keys.reader_deadlines],
            [end.SerializeToString(), self._result_ttl_ms],
        )

    async def requeue(self, lease: ImageLease) -> bool:
        """Put the image back at the end of the queue; False when the lease is lost."""
        answer = await self._connection.run(
            "requeue_image", [self.name], [*self.fencing(lease), lease.job.SerializeToString()]
        )
        return bool(answer)

    async def _run(
        self, script: str, lease: ImageLease, keys: list[str], args: list[bytes | str | int]
    ) -> int:
        waiters = self._keys.encode_waiters(self._fingerprint, lease.job.image_digest)
        answer = await self._connection.run(
            script,
            [self.name, waiters, self._keys.open_requests, *keys],
            [*self.fencing(lease), *args],
        )
        return int(answer)


def _lease(entry: str, fields: Fields, delivery_count: int) -> ImageLease:
    try:
        return ImageLease(entry, delivery_count, pb.VisionJob.FromString(fields[b"d"]))
    except (DecodeError, KeyError) as error:
        raise Unreadable(f"no image is named in it: {error!r}") from None


def _now_ms() -> int:
    return int(time.time() * 1000)
