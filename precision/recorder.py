"""Records the answers of one backend, in this process."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.spec import ModelSpec
from glm4v.errors import Glm4vError
from glm4v.tensor_bytes import TensorBytes
from lm_worker.engine.sequence import SequenceRequest, TokenOutput
from lm_worker.translate import sequence_request
from offline.batch import BatchRunner, BatchSize, Question
from offline.rank_group import RankGroup
from precision.backend import Backend
from precision.recording import LISTED, Recorded, Recording, Step, tokens

_TEMPLATE_TOKENS = 16  # at most, of a prompt beside its question and image


async def record(
    checkpoint: Checkpoint,
    backend: Backend,
    questions: Mapping[str, Question],
    *,
    max_tokens: int,
    batch: int,
    along: Recording | None = None,
    on_images: Callable[[int], None] = lambda count: None,
) -> Recording:
    """The answers of `backend` to `questions`, `batch` at once, each by the name of its image.

    With `along` also the log-probabilities that it gives the tokens of that recording. The backend
    encodes the images itself. `on_images` is told how many more are done.

    Raises the errors of checkpoint, device and images.
    """
    group = RankGroup(checkpoint, backend.hardware)
    longest = max(len(each.text.encode()) for each in questions.values())  # no fewer than tokens
    prompt_tokens = checkpoint.spec.vision.num_image_tokens + longest + _TEMPLATE_TOKENS
    size = BatchSize(min(batch, len(questions)), prompt_tokens, max_tokens)
    recording = Recording(
        backend.text, group.device.description, _roundings(checkpoint, group, backend)
    )
    names = list(questions)
    async with BatchRunner(checkpoint, group, size).running() as runner:
        for start in range(0, len(names), size.questions):
            some = {name: questions[name] for name in names[start : start + size.questions]}
            recording.answers.update(
                await _record(runner, checkpoint.spec, some, max_tokens, along)
            )
            on_images(len(some))
    return recording


async def _record(
    runner: BatchRunner,
    spec: ModelSpec,
    questions: Mapping[str, Question],
    max_tokens: int,
    along: Recording | None,
) -> dict[str, Recorded]:
    """The answers of one batch."""
    jobs = [await runner.job(each, max_tokens) for each in questions.values()]
    embeddings = [await _encode(runner, name, each) for name, each in questions.items()]
    requests = [_with_logprobs(sequence_request(job, spec), spec) for job in jobs]
    outputs = await runner.generate(requests, embeddings)
    recorded = {
        name: Recorded(runner.text(job, each), tuple(_step(one) for one in each))
        for name, job, each in zip(questions, jobs, outputs, strict=True)
    }
    if along is None:
        return recorded
    wanted = [tokens(along.answers[name].decoded) for name in questions]
    forced = [_forced(each, ids) for each, ids in zip(requests, wanted, strict=True)]
    outputs = await runner.generate(forced, embeddings)
    return {
        name: replace(recorded[name], forced=_forced_steps(request, ids, each[0]))
        for name, request, ids, each in zip(questions, requests, wanted, outputs, strict=True)
    }


async def _encode(runner: BatchRunner, name: str, question: Question) -> TensorBytes:
    try:
        return await runner.encode(question.image)
    except Glm4vError as error:
        raise type(error)(f"{name}: {error}") from None


def _with_logprobs(request: SequenceRequest, spec: ModelSpec) -> SequenceRequest:
    listed = min(LISTED, spec.vocab_size)
    sampling = replace(request.sampling, want_logprobs=True, top_logprobs=listed)
    return replace(request, sampling=sampling)


def _forced(request: SequenceRequest, token_ids: list[int]) -> SequenceRequest:
    """A prompt that ends in the answer's last token but one; what follows it is sampled."""
    return replace(
        request,
        prompt_ids=(*request.prompt_ids, *token_ids[:-1]),
        max_tokens=1,
        prompt_logprobs=request.sampling.top_logprobs,
    )


def _forced_steps(
    request: SequenceRequest, token_ids: list[int], output: TokenOutput
) -> tuple[Step, ...]:
    first = len(request.prompt_ids)
    steps = [
        Step(score.token_id, score.top)
        for score in output.prompt_logprobs
        if score.prompt_index >= first
    ]
    return (*steps, replace(_step(output), token_id=token_ids[-1]))


def _step(output: TokenOutput) -> Step:
    if output.error is not None:
        raise output.error
    return Step(output.sampled.token_id, output.sampled.top)


def _roundings(checkpoint: Checkpoint, group: RankGroup, backend: Backend) -> frozenset[str]:
    devices = (group.device, group.vision_device)
    found = {str(device.dtype).removeprefix("torch.") for device in devices}
    stored = backend.hardware.weight_dtype
    is_exact = stored == "bfloat16" and checkpoint.is_bfloat16(vision=False)
    return frozenset(found if stored == "auto" or is_exact else found | {stored})
