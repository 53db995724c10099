"""Between broker and engine: claims requests, publishes tokens, keeps and returns leases."""

import asyncio
import logging
from collections.abc import Sequence

import anyio
from anyio.abc import TaskGroup

from glm4v.broker.blobs import Blobs
from glm4v.broker.lm_queue import Append, LmQueue, RequestLease
from glm4v.broker.resume import ResumeState
from glm4v.broker.retry import retry_until_available
from glm4v.checkpoint.spec import ModelSpec
from glm4v.device.arbiter import Arbiter, NoArbiter
from glm4v.errors import CheckpointError, Glm4vError, RequestFailed, Unavailable
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.tensor_bytes import TensorBytes
from glm4v.v1 import inference_pb2
from lm_worker.engine.engine import Engine, TokenOutput
from lm_worker.engine.fairness import underserved
from lm_worker.translate import LeasedRequest, now_ms, sequence_request, step_append

log = logging.getLogger(__name__)

_IDLE_S = 0.01
MAX_ISOLATED_FAILURES = 3  # times a request may kill a worker while it has steps of its own


class Worker:
    """Every run is a resume: the journal says what there is, the engine continues."""

    def __init__(
        self,
        queue: LmQueue,
        blobs: Blobs,
        *,
        spec: ModelSpec,
        fingerprint: str,
        max_num_seqs: int,
        lease_s: float,
        arbiter: Arbiter | None = None,
    ) -> None:
        self._queue = queue
        self._blobs = blobs
        self._spec = spec
        self._fingerprint = fingerprint
        self._max_sequences = max_num_seqs
        self._lease_s = lease_s
        self._arbiter = arbiter or NoArbiter()
        self._engine: Engine | None = None  # while it runs
        self._held: dict[str, LeasedRequest] = {}
        self._admitting: dict[str, RequestLease] = {}
        self._arriving: set[str] = set()  # of these, those that will compute as soon as they can
        self._trial = asyncio.Lock()  # one suspect at a time
        self._stuck = False  # the engine makes no progress: take nothing, renew nothing

    async def run(self, engine: Engine, stopping: asyncio.Event) -> None:
        """Answer requests until `stopping` is set, then hand back what is unfinished.

        That waits for the step in progress and nothing else. A claim that waits in Redis ends
        later, within a second; what it still brings is handed back too.
        """
        log.info("consumer=%s", self._queue.consumer)
        self._engine = engine
        async with anyio.create_task_group() as group:
            group.start_soon(self._renew_forever, engine)
            async with anyio.create_task_group() as claiming:
                claiming.start_soon(_stop_with, engine, stopping)
                async with anyio.create_task_group() as admitting:
                    for claim in (self._claim_new, self._take_over):
                        claiming.start_soon(claim, engine, admitting, stopping)
                    await engine.run()
                    admitting.cancel_scope.cancel()
                await self._hand_back(engine)
            await self._hand_back(engine)
            group.cancel_scope.cancel()
        if problems := engine.check_integrity():  # a bug: no sequence is left to hold a block
            raise RuntimeError(f"KV cache is inconsistent after the drain: {'; '.join(problems)}")

    async def publish(self, tokens: Sequence[TokenOutput]) -> set[int]:
        """Append a step's tokens to the journals; sequences of requests that are over for others.

        A token of a sequence whose request was lost and came back is nobody's.
        """
        at_ms = now_ms()
        appending = [
            (held, step_append(held, token, at_ms))
            for token in tokens
            if (held := self._held.get(token.request_id)) is not None
            and held.sequence_id == token.sequence_id
        ]
        answers = await retry_until_available(
            self._queue.append, [append for _, append in appending]
        )
        refused = set()
        for (held, append), answer in zip(appending, answers, strict=True):
            request_id = append.lease.request_id
            if self._held.get(request_id) is not held:  # settled while this was under way
                continue
            if answer != "ok":  # "behind": its lease lapses, and who takes over resumes
                log.info("request=%s dropped: %s", request_id, answer)
                assert held.sequence_id is not None
                refused.add(held.sequence_id)
            if answer != "ok" or append.end is not None:
                del self._held[request_id]
        self._update_arbiter()
        return refused

    def _update_arbiter(self) -> None:
        is_prefilling = self._engine is not None and self._engine.is_prefilling
        self._arbiter.set_prefilling(bool(self._arriving) or is_prefilling)

    async def _claim_new(
        self, engine: Engine, admitting: TaskGroup, stopping: asyncio.Event
    ) -> None:
        """Claim without waiting for what was claimed before: a response format may take seconds."""
        while not stopping.is_set():
            self._update_arbiter()
            room = self._room(engine)
            if room > 0:
                leases = await retry_until_available(self._queue.claim, room)
            else:
                await asyncio.sleep(_IDLE_S)
                leases = await self._claim_beyond()
            for lease in leases:
                self._take(engine, admitting, lease)

    async def _claim_beyond(self) -> list[RequestLease]:
        """Requests there is no room for, of clients that have less here than others: the scheduler
        makes place for them.
        """
        if self._stuck:
            return []
        waiting = await retry_until_available(self._queue.waiting_clients)
        clients = underserved(waiting, (held.job.client for held in self._held.values()))
        return await retry_until_available(self._queue.claim_of, clients) if clients else []

    async def _take_over(
        self, engine: Engine, admitting: TaskGroup, stopping: asyncio.Event
    ) -> None:
        """Look for lapsed leases a few times within a lease."""
        while not stopping.is_set():
            room = self._room(engine)
            if room > 0:
                leases = await retry_until_available(self._queue.claim_expired, room)
                for lease in leases:
                    log.warning(
                        "request=%s lease expired; reclaimed (attempt %d)",
                        lease.request_id,
                        lease.prior_attempts + 1,
                    )
                    self._take(engine, admitting, lease)
            with anyio.move_on_after(self._lease_s / 4):
                await stopping.wait()

    def _room(self, engine: Engine) -> int:
        """Requests worth claiming: none that another worker might run sooner."""
        if not engine.has_capacity or self._stuck:
            return 0
        return self._max_sequences - len(self._held.keys() | self._admitting.keys())

    def _take(self, engine: Engine, admitting: TaskGroup, lease: RequestLease) -> None:
        """Begin to admit a request; a draining worker leaves it where `_hand_back` finds it."""
        request_id = lease.request_id
        if request_id in self._admitting:  # it will find its lease lost
            return
        self._admitting[request_id] = lease
        if not admitting.cancel_scope.cancel_called:
            self._arriving.add(request_id)
            self._arbiter.set_prefilling(True)
            admitting.start_soon(self._admit, engine, lease)

    async def _admit(self, engine: Engine, lease: RequestLease) -> None:
        try:
            await self._continue(engine, lease)
        finally:
            self._arriving.discard(lease.request_id)
        self._admitting.pop(lease.request_id, None)

    async def _continue(self, engine: Engine, lease: RequestLease) -> None:
        """Read the journal and let the engine continue from what it finds."""
        if (lost := self._held.pop(lease.request_id, None)) is not None:
            # Our own lease lapsed and came back to us. Others may have written since: start anew.
            await _evict(engine, lost)
        resumed = await retry_until_available(self._queue.resume_or_release, lease)
        if resumed is None:
            return
        held = self._held[lease.request_id] = LeasedRequest(lease, resumed.job)
        try:
            await self._check(resumed)
            image = await self._image(resumed.job)
            if resumed.job.image_digest and image is None:
                log.warning("request=%s needs its image encoded again", lease.request_id)
                await retry_until_available(self._queue.await_encode, lease, resumed.job)
                self._held.pop(lease.request_id, None)
                return
            if lease.prior_attempts or resumed.job.HasField("response_format"):
                self._arriving.discard(lease.request_id)  # it may wait for long before it computes
            if lease.prior_attempts == 0:
                await self._start(engine, held, resumed, image, alone=False)
            else:
                async with self._trial:
                    await self._start(engine, held, resumed, image, alone=True)
                    if held.sequence_id is not None:
                        await engine.wait_isolated(held.sequence_id)
        except Unavailable:  # a rank is lost: the group goes down, and the next one resumes
            raise
        except Glm4vError as error:
            await self._fail(held, len(resumed.token_ids), error)

    async def _start(
        self,
        engine: Engine,
        held: LeasedRequest,
        resumed: ResumeState,
        image: TensorBytes | None,
        *,
        alone: bool,
    ) -> None:
        """Say in the journal that it is being answered, then do."""
        stage = pb.JournalStage(stage=inference_pb2.STAGE_RUNNING, at_ms=now_ms(), isolated=alone)
        request_id = held.lease.request_id
        if await retry_until_available(self._queue.renew, [held.lease], stage) == ["ok"]:
            request = sequence_request(resumed.job, self._spec)
            held.sequence_id = await engine.add(
                request, resumed.token_ids, image, is_quarantined=alone
            )
            if self._held.get(request_id) is not held:  # it ended meanwhile
                await _evict(engine, held)
        else:
            self._held.pop(request_id, None)

    async def _check(self, resumed: ResumeState) -> None:
        job = resumed.job
        if job.fingerprint != self._fingerprint:
            raise CheckpointError(
                f"the request was made for model {job.fingerprint}, "
                f"this worker serves {self._fingerprint}"
            )
        if resumed.isolated_failures >= MAX_ISOLATED_FAILURES:
            reason = (
                f"given up: {resumed.isolated_failures} workers died computing its next token alone"
            )
            await retry_until_available(self._queue.dead_letter, job, reason)
            raise RequestFailed(reason)

    async def _image(self, job: pb.Job) -> TensorBytes | None:
        """The embedding a request needs; None when it needs none or none can be used."""
        if not job.image_digest:
            return None
        digest = job.image_digest
        image = await retry_until_available(self._blobs.embedding, self._fingerprint, digest)
        shape = (self._spec.vision.num_image_tokens, self._spec.hidden_size)
        if image is not None and image.shape != shape:
            raise CheckpointError(f"the embedding has shape {image.shape}, the model {shape}")
        return image

    async def _fail(self, held: LeasedRequest, token_count: int, error: Glm4vError) -> None:
        log.warning("request=%s failed: %s", held.lease.request_id, error)
        end = pb.JournalEnd(
            kind=pb.END_KIND_FAILED,
            code=error.code,
            message=str(error),
            token_count=token_count,
            at_ms=now_ms(),
        )
        append = Append(held.lease, token_count, None, end)
        await retry_until_available(self._queue.append, [append])
        self._held.pop(held.lease.request_id, None)

    async def _renew_forever(self, engine: Engine) -> None:
        """Keep leases while there is progress: an engine that hangs loses its requests."""
        progress = -1
        while True:
            self._stuck = engine.progress == progress and not engine.is_idle
            if self._stuck:
                log.warning("no progress since the last renewal: leases are left to lapse")
            else:
                progress = -1 if engine.is_idle else engine.progress
                await self._renew(engine)
            await asyncio.sleep(self._lease_s / 4)

    async def _renew(self, engine: Engine) -> None:
        held = list(self._held.values())
        answers = await retry_until_available(self._queue.renew, [one.lease for one in held])
        for one, answer in zip(held, answers, strict=True):
            request_id = one.lease.request_id
            # One that ended while this was under way is no longer held, and was settled.
            if answer != "ok" and self._held.get(request_id) is one:
                log.info("request=%s dropped: %s", request_id, answer)
                del self._held[request_id]
                await _evict(engine, one)

    async def _hand_back(self, engine: Engine) -> None:
        held = list(self._held.values())
        # Those that are being admitted have the newer lease, where ours lapsed and came back.
        leases = {one.lease.request_id: one.lease for one in held} | self._admitting
        self._admitting.clear()
        self._held.clear()
        count = await retry_until_available(self._queue.requeue, list(leases.values()))
        for one in held:
            await _evict(engine, one)
        if count:
            log.info("handed back %d requests", count)


async def _stop_with(engine: Engine, stopping: asyncio.Event) -> None:
    await stopping.wait()
    engine.stop()


async def _evict(engine: Engine, held: LeasedRequest) -> None:
    """Take a request that is no longer held out of the engine, if it is there."""
    if held.sequence_id is not None:
        await engine.remove(held.sequence_id)
