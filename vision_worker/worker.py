"""Claims images, encodes them, stores the embeddings, and releases the waiting requests."""

import asyncio
import logging

import anyio

from glm4v.broker.blobs import Blobs
from glm4v.broker.retry import retry_until_available
from glm4v.broker.vision_queue import ImageLease, VisionQueue
from glm4v.errors import CheckpointError, DeviceFailed, Glm4vError, RequestFailed, UnknownReference
from glm4v.process.watchdog import Watchdog
from vision_worker.encoder import Encoder

log = logging.getLogger(__name__)

_IDLE_S = 0.02
MAX_ATTEMPTS = 5  # times a worker may start an image before it fails


class Worker:
    """Stateless: all state is in Redis, so workers can be killed, added or scaled to zero.

    At most `max_in_flight` images are held at once: on the device, being decoded, being stored.
    Images in the decoders' slow lane do not count.
    """

    def __init__(
        self,
        queue: VisionQueue,
        blobs: Blobs,
        encoder: Encoder,
        *,
        fingerprint: str,
        max_in_flight: int,
        lease_s: float,
    ) -> None:
        self._queue = queue
        self._blobs = blobs
        self._encoder = encoder
        self._fingerprint = fingerprint
        self._max_in_flight = max_in_flight
        self._lease_s = lease_s
        self._leases: dict[str, ImageLease] = {}  # by entry
        self._scopes: dict[str, anyio.CancelScope] = {}  # of images being encoded, by entry

    @property
    def held_images(self) -> int:
        """Images that this worker has claimed."""
        return len(self._leases)

    async def run(self, stopping: asyncio.Event) -> None:
        """Encode images until `stopping` is set, then requeue the unfinished ones.

        A claim that is waiting in Redis returns within a second; its images are requeued too.
        """
        log.info("consumer=%s", self._queue.consumer)
        async with anyio.create_task_group() as claiming:
            async with anyio.create_task_group() as encoding:
                encoding.start_soon(self._renew_forever)
                claiming.start_soon(self._claim, encoding, stopping)
                claiming.start_soon(self._reclaim, encoding, stopping)
                await stopping.wait()
                encoding.cancel_scope.cancel()
            await self._requeue()
        await self._requeue()

    async def _requeue(self) -> None:
        leases = list(self._leases.values())
        self._leases.clear()
        for lease in leases:
            await retry_until_available(self._queue.requeue, lease)
        if leases:
            log.info("requeued %d images", len(leases))

    def _start(self, group: anyio.abc.TaskGroup, lease: ImageLease) -> None:
        self._leases[lease.entry] = lease
        if not group.cancel_scope.cancel_called:
            group.start_soon(self._encode, lease)

    def _capacity(self) -> int:
        return self._max_in_flight + self._encoder.slow_images - len(self._leases)

    async def _claim(self, group: anyio.abc.TaskGroup, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            capacity = self._capacity()
            if capacity <= 0:
                await asyncio.sleep(_IDLE_S)
                continue
            for lease in await retry_until_available(self._queue.claim, capacity):
                self._start(group, lease)

    async def _reclaim(self, group: anyio.abc.TaskGroup, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            capacity = self._capacity()
            for lease in (
                await retry_until_available(self._queue.claim_expired, capacity)
                if capacity > 0
                else []
            ):
                if lease.entry in self._leases:  # our own, expired while this process was slow
                    continue
                log.warning(
                    "image=%s lease expired; reclaimed (attempt %d)",
                    lease.job.image_digest,
                    lease.delivery_count,
                )
                self._start(group, lease)
            with anyio.move_on_after(self._lease_s / 4):
                await stopping.wait()

    async def _encode(self, lease: ImageLease) -> None:
        """Process one image; if it cannot be encoded, the requests that wait for it fail."""
        with anyio.CancelScope() as scope:
            self._scopes[lease.entry] = scope
            try:
                await self._encode_and_store(lease)
            except DeviceFailed:
                raise  # this process ends, and another takes the image over
            except Glm4vError as error:
                log.warning("image=%s not encoded: %s", lease.job.image_digest, error)
                await retry_until_available(self._queue.fail, lease, error.code, str(error))
        self._scopes.pop(lease.entry, None)
        self._leases.pop(lease.entry, None)

    async def _encode_and_store(self, lease: ImageLease) -> None:
        digest, fingerprint = lease.job.image_digest, lease.job.fingerprint
        if fingerprint != self._fingerprint:
            raise CheckpointError(
                f"the image is queued for model {fingerprint}, "
                f"this worker serves {self._fingerprint}"
            )
        if lease.prior_attempts >= MAX_ATTEMPTS:
            raise RequestFailed(f"image aborted: {lease.prior_attempts} workers did not finish it")
        if await retry_until_available(self._queue.begin, lease) <= 0:
            log.info("image=%s has no waiting requests; skipped", digest)
            return
        embedding = None
        # Another worker may have stored it since the job was queued.
        if not await retry_until_available(self._blobs.touch_embedding, fingerprint, digest):
            data = await retry_until_available(self._blobs.image, digest)
            if data is None:
                raise UnknownReference(f"the image {digest} has expired; send its bytes again")
            embedding = await self._encoder.encode(data)
        released = await self._queue.finish(lease, embedding)
        if released < 0:
            log.info("image=%s lease lost to another worker", digest)
        else:
            log.info("image=%s released=%d", digest, released)

    async def _renew_forever(self) -> None:
        """Renew leases while the encoder makes progress; one that hangs loses its images."""
        watchdog = Watchdog(self._lease_s)
        while True:
            if watchdog.is_stalled(self._encoder.progress, is_busy=bool(self._leases)):
                log.warning("encoder stalled for %g s; not renewing leases", self._lease_s)
            else:
                for lease in list(self._leases.values()):
                    await self._renew(lease)
            await asyncio.sleep(self._lease_s / 4)

    async def _renew(self, lease: ImageLease) -> None:
        """Renew one lease; an image without waiters, or of another worker, is cancelled."""
        waiting = await retry_until_available(self._queue.renew, lease)
        if waiting == 0:  # `begin` drops the job, unless a request started to wait meanwhile
            waiting = await retry_until_available(self._queue.begin, lease)
        scope = self._scopes.get(lease.entry)
        if waiting > 0 or scope is None:
            return
        reason = "lease lost to another worker" if waiting < 0 else "has no waiting requests"
        log.info("image=%s %s; cancelled", lease.job.image_digest, reason)
        scope.cancel()
