"""Vision and language in one process: the same admission, models, engine and replies, no Redis."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

from gateway.access.caller import Caller
from gateway.admission.admission import Admission, AdmissionLimits
from gateway.admission.sampling import read_defaults
from gateway.streaming.events import EventBuilder, accepted
from gateway.text.tokenizer import Tokenizer
from glm4v.broker.entries import Event
from glm4v.broker.lm_queue import RequestLease
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import Device
from glm4v.errors import InvalidRequest
from glm4v.images import ImageLimits
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.tensor_bytes import TensorBytes
from glm4v.v1 import inference_pb2 as api
from lm_worker.engine.blocks import BlockPool
from lm_worker.engine.engine import Engine, TokenOutput
from lm_worker.engine.scheduler import Scheduler
from lm_worker.model.layers import Shard
from lm_worker.model.runner import Runner
from lm_worker.parallel.ranks import Ranks
from lm_worker.structured_output.grammar import GrammarCache
from lm_worker.translate import LeasedRequest, now_ms, sequence_request, step_append
from vision_worker.decoders import Decoders
from vision_worker.encoder import Encoder

_BLOCK_SIZE = 16
_MAX_BATCHED_TOKENS = 2048
_DEADLINE_S = 3600.0


class Pipeline:
    """Answers one request at a time; a journal in memory joins the parts."""

    def __init__(self, checkpoint: Checkpoint, device: Device, limits: ImageLimits) -> None:
        self._model = model = checkpoint.directory
        self._checkpoint = checkpoint
        self._spec = checkpoint.spec
        self._device = device
        self._limits = limits
        self._tokenizer = Tokenizer.read(model, self._spec)
        self._admission = Admission(
            self._spec,
            self._checkpoint.fingerprint,
            self._tokenizer,
            read_defaults(model),
            AdmissionLimits(limits, _DEADLINE_S, _DEADLINE_S),
        )

    async def answer(self, request: api.GenerateRequest) -> AsyncIterator[api.GenerationEvent]:
        """Events as a gateway would stream them; raises what it would refuse the request with."""
        admitted = await self._admission.admit(request, Caller(), None)
        job = admitted.job
        job.accepted_ms = now_ms()
        image_tokens = self._spec.vision.num_image_tokens
        builder = EventBuilder(job, self._tokenizer, image_tokens=image_tokens)
        yield accepted(job, with_prompt_ids=request.return_prompt_ids)
        async for entry in self._journal(job, admitted.image):
            for event in builder.to_events(entry):
                yield event
            if builder.stop_string is not None and not isinstance(entry, pb.JournalEnd):
                end = pb.JournalEnd(kind=pb.END_KIND_STOP_STRING, at_ms=now_ms())
                yield builder.finished(end)
                return

    async def _journal(self, job: pb.Job, image: bytes | None) -> AsyncIterator[Event]:
        embedding = None
        if job.image_digest:
            if image is None:
                raise InvalidRequest("an image by its digest needs a server; give the file")
            yield _stage(api.STAGE_ENCODING)
            embedding = await self._encode(image)
            yield _stage(api.STAGE_QUEUED)
        yield _stage(api.STAGE_RUNNING)
        async for entry in self._generate(job, embedding):
            yield entry

    async def _encode(self, image: bytes) -> TensorBytes:
        decoders = Decoders(self._limits, self._spec.vision.image_size, quick=1)
        encoder = Encoder(self._checkpoint, self._device, decoders)
        try:
            await encoder.start()
            return await encoder.encode(image)
        finally:
            encoder.close()

    async def _generate(self, job: pb.Job, embedding: TensorBytes | None) -> AsyncIterator[Event]:
        request = sequence_request(job, self._spec)
        held = LeasedRequest(RequestLease("", 1, job.request_id), job)
        produced: asyncio.Queue[TokenOutput] = (
            asyncio.Queue()
        )  # bounded by the request's max_tokens

        async def publish(tokens: Sequence[TokenOutput]) -> set[int]:
            for token in tokens:
                produced.put_nowait(token)
            return set()

        rows = len(job.prompt_ids) + self._spec.vision.num_image_tokens + job.max_tokens
        blocks = -(-rows // _BLOCK_SIZE)
        grammars = GrammarCache(self._model, self._spec)
        ranks = Ranks(
            partial(Runner.load, self._checkpoint, self._device, Shard(0, 1), grammars=grammars),
            blocks=blocks,
            block_size=_BLOCK_SIZE,
        )
        scheduler = Scheduler(
            BlockPool(blocks, _BLOCK_SIZE), max_num_seqs=1, max_batched_tokens=_MAX_BATCHED_TOKENS
        )
        num_image_tokens = self._spec.vision.num_image_tokens
        engine = Engine(
            scheduler, ranks, publish, num_image_tokens=num_image_tokens, grammars=grammars
        )
        await ranks.start()
        running = asyncio.create_task(engine.run())
        try:
            await engine.add(request, (), embedding)
            is_last = False
            while not is_last:
                token = await _first_of(produced, running)
                append = step_append(held, token, now_ms())
                is_last = token.is_last
                if append.tokens is not None:
                    yield append.tokens
                if append.end is not None:
                    yield append.end
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            ranks.close()
            grammars.end()


async def _first_of(
    produced: "asyncio.Queue[TokenOutput]", running: "asyncio.Task[None]"
) -> TokenOutput:
    """The next token, or the error that ended the engine."""
    getting = asyncio.ensure_future(produced.get())
    await asyncio.wait({getting, running}, return_when=asyncio.FIRST_COMPLETED)
    if not getting.done():
        getting.cancel()
        await running
        raise AssertionError("the engine returned without being stopped")
    return getting.result()


def _stage(stage: "api.Stage.ValueType") -> pb.JournalStage:
    return pb.JournalStage(stage=stage, at_ms=now_ms())
