"""Claims requests from the queue and adds them to the engine, quarantined ones in isolation."""

import asyncio
import logging

import anyio
from anyio.abc import TaskGroup

from glm4v.broker.blobs import Blobs
from glm4v.broker.lm_queue import LmQueue, RequestLease
from glm4v.broker.resume import ResumeState
from glm4v.broker.retry import retry_until_available
from glm4v.checkpoint.spec import ModelSpec
from glm4v.device.arbiter import Arbiter
from glm4v.errors import CheckpointError, DeviceFailed, Glm4vError, RequestFailed, Unavailable
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.tensor_bytes import TensorBytes
from glm4v.v1 import inference_pb2 as api
from lm_worker.engine.engine import Engine
from lm_worker.engine.fairness import underserved
from lm_worker.publisher import LeasedRequest, Publisher
from lm_worker.translate import now_ms, sequence_request

log = logging.getLogger(__name__)

_POLL_S = 0.01  # while there is no capacity
MAX_ISOLATED_FAILURES = 3  # workers that may die while a request runs alone


class Claimer:
    """Every admission is a resume: the journal has the state, and the engine continues from it.

    `is_paused` stops claims, not admissions.
    """

    def __init__(
        self,
        queue: LmQueue,
        blobs: Blobs,
        engine: Engine,
        publisher: Publisher,
        *,
        spec: ModelSpec,
        fingerprint: str,
        max_num_seqs: int,
        lease_s: float,
        arbiter: Arbiter,
    ) -> None:
        self._queue = queue
        self._blobs = blobs
        self._engine = engine
        self._publisher = publisher
        self._spec = spec
        self._fingerprint = fingerprint
        self._max_num_seqs = max_num_seqs
        self._lease_s = lease_s
        self._arbiter = arbiter
        self._admitting: dict[str, RequestLease] = {}
        self._arriving: set[str] = set()  # those being admitted that will prefill without delay
        self._isolation = asyncio.Lock()  # one quarantined request at a time
        self.is_paused = False

    def start(self, claiming: TaskGroup, admitting: TaskGroup, stopping: asyncio.Event) -> None:
        """Claim in `claiming` until `stopping`, and admit in `admitting` until it is cancelled."""
        claiming.start_soon(self._claim_new, admitting, stopping)
        claiming.start_soon(self._claim_expired, admitting, stopping)

    async def watch_prefills(self) -> None:
        """Tell the CPU arbiter after each step whether prefills are left, until cancelled."""
        while True:
            self._update_arbiter()
            await self._engine.wait_step()

    def clear(self) -> dict[str, RequestLease]:
        """The leases of requests that are not admitted yet, by request; it forgets them."""
        leases = dict(self._admitting)
        self._admitting.clear()
        return leases

    def _update_arbiter(self) -> None:
        self._arbiter.set_prefilling(bool(self._arriving) or self._engine.is_prefilling)

    async def _claim_new(self, admitting: TaskGroup, stopping: asyncio.Event) -> None:
        """Claim without waiting for admissions: a response format may take seconds to compile."""
        while not stopping.is_set():
            self._update_arbiter()
            capacity = self._capacity()
            if capacity > 0:
                leases = await retry_until_available(self._queue.claim, capacity)
            else:
                await asyncio.sleep(_POLL_S)
                leases = await self._claim_for_underserved()
            for lease in leases:
                self._admit_soon(admitting, lease)

    async def _claim_for_underserved(self) -> list[RequestLease]:
        """Requests beyond the capacity, of clients with fewer requests here than others.

        The scheduler preempts sequences of the others for them.
        """
        if self.is_paused:
            return []
        waiting = await retry_until_available(self._queue.waiting_clients)
        clients = underserved(waiting, self._publisher.clients)
        return await retry_until_available(self._queue.claim_of, clients) if clients else []

    async def _claim_expired(self, admitting: TaskGroup, stopping: asyncio.Event) -> None:
        """Look for expired leases four times within a lease."""
        while not stopping.is_set():
            capacity = self._capacity()
            if capacity > 0:
                for lease in await retry_until_available(self._queue.claim_expired, capacity):
                    log.warning(
                        "request=%s lease expired; reclaimed (attempt %d)",
                        lease.request_id,
                        lease.prior_attempts + 1,
                    )
                    self._admit_soon(admitting, lease)
            with anyio.move_on_after(self._lease_s / 4):
                await stopping.wait()

    def _capacity(self) -> int:
        """Requests to claim now; none that another worker could run sooner."""
        if not self._engine.has_capacity or self.is_paused:
            return 0
        return self._max_num_seqs - len(self._publisher.request_ids | self._admitting.keys())

    def _admit_soon(self, admitting: TaskGroup, lease: RequestLease) -> None:
        """Start an admission; while the worker drains, only remember the lease for the requeue."""
        request_id = lease.request_id
        if request_id in self._admitting:  # that admission finds its lease lost
            return
        self._admitting[request_id] = lease
        if not admitting.cancel_scope.cancel_called:
            self._arriving.add(request_id)
            self._update_arbiter()
            admitting.start_soon(self._admit, lease)

    async def _admit(self, lease: RequestLease) -> None:
        try:
            await self._resume(lease)
        finally:
            self._arriving.discard(lease.request_id)
        self._admitting.pop(lease.request_id, None)
        self._update_arbiter()

    async def _resume(self, lease: RequestLease) -> None:
        """Read the journal and let the engine continue from it."""
        if (lost := self._publisher.discard(lease.request_id)) is not None:
            # Our lease expired and we claimed it again; another worker may have written since.
            await evict(self._engine, lost)
        resumed = await retry_until_available(self._queue.resume_or_release, lease)
        if resumed is None:
            return
        leased = LeasedRequest(lease, resumed.job)
        self._publisher.add(leased)
        try:
            await self._check(resumed)
            image = await self._embedding(resumed.job)
            if resumed.job.image_digest and image is None:
                log.warning("request=%s needs its image encoded again", lease.request_id)
                await retry_until_available(self._queue.await_encode, lease, resumed.job)
                self._publisher.discard(lease.request_id)
                return
            if lease.prior_attempts or resumed.job.HasField("response_format"):
                self._arriving.discard(lease.request_id)  # its prefill may be far away
            if lease.prior_attempts:
                await self._run_isolated(leased, resumed, image)
            else:
                await self._start(leased, resumed, image, is_quarantined=False)
        except (Unavailable, DeviceFailed):  # a rank is lost: the group stops, another resumes
            raise
        except Glm4vError as error:
            await self._publisher.fail(leased, len(resumed.token_ids), error)

    async def _run_isolated(
        self, leased: LeasedRequest, resumed: ResumeState, image: TensorBytes | None
    ) -> None:
        """Compute the next token of a request that was running when its worker died, alone."""
        async with self._isolation:
            await self._start(leased, resumed, image, is_quarantined=True)
            if leased.sequence_id is not None:
                await self._engine.wait_isolated(leased.sequence_id)

    async def _start(
        self,
        leased: LeasedRequest,
        resumed: ResumeState,
        image: TensorBytes | None,
        *,
        is_quarantined: bool,
    ) -> None:
        """Record in the journal that the request runs, then add it to the engine."""
        stage = pb.JournalStage(
            stage=api.STAGE_RUNNING,
            at_ms=now_ms(),
            isolated=is_quarantined,
            worker=self._queue.consumer,
        )
        if await retry_until_available(self._queue.renew, [leased.lease], stage) != ["ok"]:
            self._publisher.discard(leased.request_id)
            return
        request = sequence_request(resumed.job, self._spec)
        leased.sequence_id = await self._engine.add(
            request, resumed.token_ids, image, is_quarantined=is_quarantined
        )
        if not self._publisher.owns(leased):  # it ended meanwhile
            await evict(self._engine, leased)

    async def _check(self, resumed: ResumeState) -> None:
        job, failures = resumed.job, resumed.isolated_failures
        if job.fingerprint != self._fingerprint:
            raise CheckpointError(
                f"the request was made for model {job.fingerprint}, "
                f"this worker serves {self._fingerprint}"
            )
        if failures >= MAX_ISOLATED_FAILURES:
            reason = f"aborted: {failures} workers died computing its next token in isolation"
            await retry_until_available(self._queue.dead_letter, job, reason)
            raise RequestFailed(reason)

    async def _embedding(self, job: pb.Job) -> TensorBytes | None:
        """The embedding of a request's image; None without an image, or if it is not stored."""
        if not job.image_digest:
            return None
        digest = job.image_digest
        image = await retry_until_available(self._blobs.embedding, self._fingerprint, digest)
        shape = (self._spec.vision.num_image_tokens, self._spec.hidden_size)
        if image is not None and image.shape != shape:
            raise CheckpointError(f"the embedding has shape {image.shape}, the model {shape}")
        return image


async def evict(engine: Engine, leased: LeasedRequest) -> None:
    """Remove a request that is no longer leased from the engine, if it was added."""
    if leased.sequence_id is not None:
        await engine.remove(leased.sequence_id)
