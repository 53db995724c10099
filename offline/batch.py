"""Answers batches of questions about images in this process, and times each step."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.access.caller import Caller
from gateway.streaming.events import EventBuilder
from gateway.text.tokenizer import Tokenizer
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.client.messages import user_message
from glm4v.errors import InvalidRequest
from glm4v.images import ImageLimits
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.tensor_bytes import TensorBytes
from glm4v.v1 import inference_pb2 as api
from lm_worker.assembly import EngineConfig, build_engine
from lm_worker.engine.sequence import SequenceRequest, TokenOutput
from lm_worker.translate import journal_entries, now_ms, sequence_request
from offline.admission import open_admission
from offline.rank_group import RankGroup
from vision_worker.decoders import Decoders
from vision_worker.encoder import Encoder


@dataclass(frozen=True, slots=True)
class Question:
    """A question about an image file."""

    text: str
    image: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model generated; a stop token counts among the tokens and has no text."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class BatchSize:
    """The most that a batch may need; memory for the KV cache is taken accordingly."""

    questions: int
    prompt_tokens: int  # of each prompt, those of the image included
    max_tokens: int  # of each answer


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that a batch took. The steps are the engine's, with all questions in each.

    Attributes:
        encode: Of all images, one after the other.
        prefill: Each step until the last question has its first token.
        decode: Each step after that.
        total: From the first image file to the last token.
    """

    encode: float
    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    total: float


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The answers to a batch, in the order of its questions."""

    answers: tuple[Answer, ...]
    text_tokens: int  # of the first question alone
    prompt_tokens: int  # of its prompt, the template and the image included
    timings: Timings


class BatchRunner:
    """Both models in this process, without Redis; one batch at a time.

    Every image is encoded anew, and no batch takes anything from the prefix cache, so that a batch
    costs what one with other images would cost. Answers are greedy.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        group: RankGroup,
        size: BatchSize,
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> None:
        """`on_tokens` is told how many tokens each step has generated."""
        self.device = group.device
        self._spec = checkpoint.spec
        self._size = size
        self._on_tokens = on_tokens
        self._group = group
        limits = ImageLimits()
        self._tokenizer = Tokenizer.read(checkpoint.directory, self._spec)
        self._admission = open_admission(checkpoint, self._tokenizer, limits)
        decoders = Decoders(limits, self._spec.vision.image_size, quick=1)
        self._encoder = Encoder(checkpoint, group.vision_device, decoders)
        per_question = -(-(size.prompt_tokens + size.max_tokens) // group.device.block_size)
        config = EngineConfig(
            blocks=size.questions * per_question,
            max_num_seqs=size.questions,
            max_batched_tokens=size.questions * size.prompt_tokens,  # prefilled in one step
            prefix_cache=False,
            rank=group.config,
        )
        self._engine = build_engine(checkpoint, group.device, config, self)
        self._outputs: dict[str, list[TokenOutput]] = {}
        self._steps: list[tuple[float, int]] = []  # when it ended; questions that got first tokens
        self._left = 0
        self._done = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["BatchRunner"]:
        """Both models are loaded inside. Raises CheckpointError, Overloaded, Unavailable."""
        try:
            await self._encoder.start()
            async with self._group.running(self._engine) as self._unless_failed:
                yield self
        finally:
            self._encoder.close()

    async def answer(
        self, questions: Sequence[Question], *, max_tokens: int, ignore_eos: bool = False
    ) -> BatchResult:
        """Answer them together. Raises InvalidRequest for an image or a prompt that is too much."""
        start = time.perf_counter()
        jobs = [await self.job(each, max_tokens, ignore_eos=ignore_eos) for each in questions]
        began = time.perf_counter()
        embeddings = [await self.encode(each.image) for each in questions]
        encoded = time.perf_counter()
        requests = [sequence_request(job, self._spec) for job in jobs]
        outputs = await self.generate(requests, embeddings)
        ends = [encoded, *(at for at, _ in self._steps)]
        seconds = [after - before for before, after in itertools.pairwise(ends)]
        prefills = 1 + max(number for number, (_, first) in enumerate(self._steps) if first)
        return BatchResult(
            answers=tuple(
                Answer(self.text(job, each), len(each))
                for job, each in zip(jobs, outputs, strict=True)
            ),
            text_tokens=len(self._tokenizer.encode(questions[0].text)),
            prompt_tokens=self._prompt_tokens(jobs[0]),
            timings=Timings(
                encode=encoded - began,
                prefill=tuple(seconds[:prefills]),
                decode=tuple(seconds[prefills:]),
                total=ends[-1] - start,
            ),
        )

    async def encode(self, image: bytes) -> TensorBytes:
        """The embedding [image tokens, hidden] of an image file. Raises InvalidRequest."""
        return await self._encoder.encode(image)

    async def generate(
        self, requests: Sequence[SequenceRequest], embeddings: Sequence[TensorBytes]
    ) -> list[list[TokenOutput]]:
        """The engine's output for each request, computed together."""
        self._outputs = {request.request_id: [] for request in requests}
        self._steps.clear()
        self._left = len(requests)
        self._done.clear()
        await self._unless_failed(self._wait_for(requests, embeddings))
        return [self._outputs[request.request_id] for request in requests]

    async def _wait_for(
        self, requests: Sequence[SequenceRequest], embeddings: Sequence[TensorBytes]
    ) -> None:
        for request, embedding in zip(requests, embeddings, strict=True):
            await self._engine.add(request, (), embedding)
        await self._done.wait()

    async def publish(self, outputs: Sequence[TokenOutput]) -> set[int]:
        """The engine's sink: keeps the tokens and notes the step."""
        first = sum(output.index == 0 for output in outputs)
        self._steps.append((time.perf_counter(), first))
        for output in outputs:
            self._outputs[output.request_id].append(output)
        self._on_tokens(len(outputs))
        self._left -= sum(output.is_last for output in outputs)
        if self._left == 0:
            self._done.set()
        return set()

    async def job(self, question: Question, max_tokens: int, *, ignore_eos: bool = False) -> pb.Job:
        """The greedy request that a question is. Raises InvalidRequest for one that is too long."""
        request = api.GenerateRequest(
            messages=[user_message(question.text, question.image)],
            sampling=api.SamplingParams(temperature=0),
            max_tokens=max_tokens,
            ignore_eos=ignore_eos,
        )
        job = (await self._admission.admit(request, Caller(), None)).job
        if self._prompt_tokens(job) > self._size.prompt_tokens:
            raise InvalidRequest(
                f"the prompt has {self._prompt_tokens(job)} tokens with its image, "
                f"{self._size.prompt_tokens} are allowed; ask a shorter question or allow more"
            )
        return job

    def _prompt_tokens(self, job: pb.Job) -> int:
        """Tokens of a prompt once the image has replaced its 3 placeholders."""
        return len(job.prompt_ids) - 3 + self._spec.vision.num_image_tokens

    def text(self, job: pb.Job, outputs: Sequence[TokenOutput]) -> str:
        """What a client would read of these tokens. Raises the error that ended the request."""
        builder = EventBuilder(
            job, self._tokenizer, image_tokens=self._spec.vision.num_image_tokens
        )
        text = ""
        for output in outputs:
            for entry in journal_entries(job, [output], now_ms()):
                if entry is not None:
                    for event in builder.to_events(entry):
                        text += event.delta.text or event.finished.text
        return text
