"""Between the protocol's messages and the engine's values."""

import json
import time
from dataclasses import dataclass

from glm4v.broker.choices import is_ranked
from glm4v.broker.lm_queue import Append, RequestLease
from glm4v.checkpoint.spec import ModelSpec
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2
from lm_worker.engine.engine import TokenOutput
from lm_worker.engine.sequence import SequenceRequest
from lm_worker.plan import NO_TOKEN, OutputFormat, SampledToken, SamplingParams

_DEFAULT_PRIORITY = 3  # of a job that an older gateway wrote


@dataclass(eq=False, slots=True)
class LeasedRequest:
    """A request this worker answers under one lease."""

    lease: RequestLease
    job: pb.Job
    sequence_id: int | None = None  # once the engine has it


def step_append(held: LeasedRequest, token: TokenOutput, at_ms: int) -> Append:
    """What a token adds to its request's journal."""
    end = _end(held, token, at_ms) if token.is_last else None
    tokens = _tokens(token.sampled, at_ms)
    if tokens is not None and token.prompt_scores:
        scores = {score.prompt_index: score for score in token.prompt_scores}
        for index in range(len(held.job.prompt_ids)):
            logprobs = tokens.prompt_logprobs.add()
            if (score := scores.get(index)) is not None:
                _fill(logprobs, score.token_id, score.logprob, score.top)
    return Append(held.lease, token.index, tokens, end)


def _tokens(sampled: SampledToken, at_ms: int) -> pb.JournalTokens | None:
    if sampled.token_id == NO_TOKEN:
        return None
    tokens = pb.JournalTokens(ids=[sampled.token_id], at_ms=at_ms)
    if sampled.logprob is not None:
        _fill(tokens.logprobs.add(), sampled.token_id, sampled.logprob, sampled.top)
    return tokens


def _fill(
    logprobs: inference_pb2.TokenLogprobs,
    token_id: int,
    logprob: float,
    top: tuple[tuple[int, float], ...],
) -> None:
    logprobs.chosen.token_id = token_id
    logprobs.chosen.logprob = logprob
    for rival, its_logprob in top:
        logprobs.top.add(token_id=rival, logprob=its_logprob)


def _end(held: LeasedRequest, token: TokenOutput, at_ms: int) -> pb.JournalEnd:
    token_id = token.sampled.token_id
    end = pb.JournalEnd(token_count=token.index + (token_id != NO_TOKEN), at_ms=at_ms)
    if token.error is not None:
        end.kind, end.code, end.message = pb.END_KIND_FAILED, token.error.code, str(token.error)
    elif token_id in held.job.stop_token_ids and not _is_header(held.job, token):
        end.kind, end.stop_token_id = pb.END_KIND_STOP_TOKEN, token_id
    elif token.sampled.is_complete:
        end.kind = pb.END_KIND_COMPLETE
    else:
        end.kind = pb.END_KIND_LENGTH
    return end


def _is_header(job: pb.Job, token: TokenOutput) -> bool:
    return (
        token.index == 0 and job.HasField("header_id") and token.sampled.token_id == job.header_id
    )


def sequence_request(job: pb.Job, spec: ModelSpec) -> SequenceRequest:
    """What a job asks of the engine."""
    prompt = tuple(job.prompt_ids)
    return SequenceRequest(
        request_id=job.request_id,
        prompt_ids=prompt,
        image=job.image_digest,
        image_offset=prompt.index(spec.boi_id) if job.image_digest else -1,
        max_tokens=job.max_tokens,
        stop_ids=frozenset(job.stop_token_ids),
        sampling=_sampling(job),
        priority=job.priority or _DEFAULT_PRIORITY,
        client=job.client,
        cache_salt=job.cache_salt,
        min_tokens=job.min_tokens,
        output_format=_output_format(job),
        prompt_logprobs=job.prompt_logprobs
        if job.want_prompt_logprobs and job.choice == 0
        else None,
        header_id=job.header_id if job.HasField("header_id") else NO_TOKEN,
    )


def _sampling(job: pb.Job) -> SamplingParams:
    """The job's parameters; those that an older gateway left out are off."""
    values = {field.name: value for field, value in job.sampling.ListFields()}
    values["logit_bias"] = tuple(sorted(job.sampling.logit_bias.items()))
    return SamplingParams(
        **values,
        want_logprobs=job.want_logprobs or is_ranked(job),
        top_logprobs=job.top_logprobs,
    )


def _output_format(job: pb.Job) -> OutputFormat | None:
    response_format = job.response_format
    match response_format.WhichOneof("format"):
        case "json_schema":
            return OutputFormat("json_schema", response_format.json_schema)
        case "regex":
            return OutputFormat("regex", response_format.regex)
        case "choice":
            return OutputFormat("choice", json.dumps(list(response_format.choice.options)))
    return None


def now_ms() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)
