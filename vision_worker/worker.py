"""Between the broker and the encoder: claims images, stores embeddings, releases who waits."""

import asyncio
import logging

import anyio

from glm4v.broker.blobs import Blobs
from glm4v.broker.retry import retry_until_available
from glm4v.broker.vision_queue import ImageLease, VisionQueue
from glm4v.errors import CheckpointError, Glm4vError, RequestFailed, UnknownReference
from vision_worker.encoder import Encoder

log = logging.getLogger(__name__)

_IDLE_S = 0.02
MAX_ATTEMPTS = 5  # times an image may be taken over before it is given up


class Worker:
    """Stateless: everything it knows is in Redis, so it can be killed, added or scaled to zero.

    `room` images are under way at once: one on the device, one being decoded, one being stored;
    those that take long to decode are aside and take no room.
    """

    def __init__(
        self,
        queue: VisionQueue,
        blobs: Blobs,
        encoder: Encoder,
        *,
        fingerprint: str,
        room: int,
        lease_s: float,
    ) -> None:
        self._queue = queue
        self._blobs = blobs
        self._encoder = encoder
        self._fingerprint = fingerprint
        self._room = room
        self._lease_s = lease_s
        self._held: dict[str, ImageLease] = {}  # by entry
        self._scopes: dict[str, anyio.CancelScope] = {}  # of those being encoded

    async def run(self, stopping: asyncio.Event) -> None:
        """Encode images until `stopping` is set, then hand back what is unfinished.

        A claim that waits in Redis ends within a second; what it still brings is handed back too.
        """
        log.info("consumer=%s", self._queue.consumer)
        async with anyio.create_task_group() as claiming:
            async with anyio.create_task_group() as encoding:
                encoding.start_soon(self._renew_forever)
                claiming.start_soon(self._claim, encoding, stopping)
                claiming.start_soon(self._take_over, encoding, stopping)
                await stopping.wait()
                encoding.cancel_scope.cancel()
            await self._hand_back()
        await self._hand_back()

    async def _hand_back(self) -> None:
        leases = list(self._held.values())
        self._held.clear()
        for lease in leases:
            await retry_until_available(self._queue.requeue, lease)
        if leases:
            log.info("handed back %d images", len(leases))

    def _take(self, group: anyio.abc.TaskGroup, lease: ImageLease) -> None:
        self._held[lease.entry] = lease
        if not group.cancel_scope.cancel_called:
            group.start_soon(self._encode, lease)

    def _free_room(self) -> int:
        return self._room + self._encoder.aside - len(self._held)

    async def _claim(self, group: anyio.abc.TaskGroup, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            room = self._free_room()
            if room <= 0:
                await asyncio.sleep(_IDLE_S)
                continue
            for lease in await retry_until_available(self._queue.claim, room):
                self._take(group, lease)

    async def _take_over(self, group: anyio.abc.TaskGroup, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            room = self._free_room()
            for lease in (
                await retry_until_available(self._queue.claim_expired, room) if room > 0 else []
            ):
                if lease.entry in self._held:  # our own, lapsed while we were held up
                    continue
                log.warning(
                    "image=%s lease expired; reclaimed (attempt %d)",
                    lease.job.image_digest,
                    lease.delivery_count,
                )
                self._take(group, lease)
            with anyio.move_on_after(self._lease_s / 4):
                await stopping.wait()

    async def _encode(self, lease: ImageLease) -> None:
        """One image from claim to release; an image that cannot be encoded fails its waiters."""
        with anyio.CancelScope() as scope:
            self._scopes[lease.entry] = scope
            try:
                await self._encode_and_store(lease)
            except Glm4vError as error:
                log.warning("image=%s not encoded: %s", lease.job.image_digest, error)
                await retry_until_available(self._queue.fail, lease, error.code, str(error))
        self._scopes.pop(lease.entry, None)
        self._held.pop(lease.entry, None)

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
        """Keep leases while there is progress: an encoder that hangs loses its images."""
        progress = -1
        while True:
            if self._encoder.progress != progress:
                progress = self._encoder.progress
                for lease in list(self._held.values()):
                    await self._renew(lease)
            elif self._held:
                log.warning("no progress since the last renewal: leases are left to lapse")
            await asyncio.sleep(self._lease_s / 4)

    async def _renew(self, lease: ImageLease) -> None:
        """Renew one lease; an image without waiters, or of another worker, is cancelled."""
        waiting = await retry_until_available(self._queue.renew, lease)
        if waiting == 0:  # `begin` drops the job, unless somebody has come to wait for it since
            waiting = await retry_until_available(self._queue.begin, lease)
        scope = self._scopes.get(lease.entry)
        if waiting > 0 or scope is None:
            return
        reason = "lease lost to another worker" if waiting < 0 else "has no waiting requests"
        log.info("image=%s %s; cancelled", lease.job.image_digest, reason)
        scope.cancel()
