"""Vision and language in one process: the services' admission, models, engine and events."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from gateway.access.caller import Caller
from gateway.streaming.events import EventBuilder, accepted
from gateway.text.tokenizer import Tokenizer
from glm4v.broker.entries import Event
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import Device
from glm4v.errors import InvalidRequest
from glm4v.images import ImageLimits
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.tensor_bytes import TensorBytes
from glm4v.v1 import inference_pb2 as api
from lm_worker.assembly import EngineConfig, build_engine
from lm_worker.engine.sequence import TokenOutput
from lm_worker.translate import journal_entries, now_ms, sequence_request
from offline.admission import open_admission
from vision_worker.decoders import Decoders
from vision_worker.encoder import Encoder

_MAX_BATCHED_TOKENS = 2048


class Pipeline:
    """Serves one request at a time, without Redis."""

    def __init__(self, checkpoint: Checkpoint, device: Device, limits: ImageLimits) -> None:
        self._checkpoint = checkpoint
        self._spec = checkpoint.spec
        self._device = device
        self._limits = limits
        self._tokenizer = Tokenizer.read(checkpoint.directory, self._spec)
        self._admission = open_admission(checkpoint, self._tokenizer, limits)

    async def answer(self, request: api.GenerateRequest) -> AsyncIterator[api.GenerationEvent]:
        """The events that a gateway would stream; raises the errors of admission."""
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
                raise InvalidRequest("an image by digest needs a server; send the file")
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
        num_tokens = len(job.prompt_ids) + self._spec.vision.num_image_tokens + job.max_tokens
        config = EngineConfig(
            blocks=-(-num_tokens // self._device.block_size),
            max_num_seqs=1,
            max_batched_tokens=_MAX_BATCHED_TOKENS,
        )
        outputs = _Outputs()
        engine = build_engine(self._checkpoint, self._device, config, outputs)
        await engine.start()
        running = asyncio.create_task(engine.run())
        try:
            await engine.add(sequence_request(job, self._spec), (), embedding)
            is_last = False
            while not is_last:
                output = await _next_of(outputs.queue, running)
                is_last = output.is_last
                for entry in journal_entries(job, [output], now_ms()):
                    if entry is not None:
                        yield entry
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            engine.close()


class _Outputs:
    """A sink that keeps the output; bounded by the request's max_tokens."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[TokenOutput] = asyncio.Queue()

    async def publish(self, outputs: Sequence[TokenOutput]) -> set[int]:
        """Keep them for the reader; no request ends early."""
        for output in outputs:
            self.queue.put_nowait(output)
        return set()


async def _next_of(
    outputs: "asyncio.Queue[TokenOutput]", running: "asyncio.Task[None]"
) -> TokenOutput:
    """The next output; raises the error that ended the engine."""
    getting = asyncio.ensure_future(outputs.get())
    await asyncio.wait({getting, running}, return_when=asyncio.FIRST_COMPLETED)
    if not getting.done():
        getting.cancel()
        await running
        raise AssertionError("the engine returned without being stopped")
    return getting.result()


def _stage(stage: "api.Stage.ValueType") -> pb.JournalStage:
    return pb.JournalStage(stage=stage, at_ms=now_ms())
