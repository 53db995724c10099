"""Translates between the protocol's messages and the engine's values."""

import json
import time
from collections.abc import Sequence

from glm4v.broker.choices import is_ranked
from glm4v.checkpoint.spec import ModelSpec
from glm4v.errors import Glm4vError
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api
from lm_worker.engine.sequence import SequenceRequest, TokenOutput
from lm_worker.plan import NO_TOKEN, OutputFormat, SampledToken, SamplingParams

_DEFAULT_PRIORITY = 3  # of jobs from older gateways


def journal_entries(
    job: pb.Job, outputs: Sequence[TokenOutput], at_ms: int
) -> tuple[pb.JournalTokens | None, pb.JournalEnd | None]:
    """What new tokens of one request add to its journal; `at_ms` is Unix time."""
    tokens = None
    sampled = [output.sampled for output in outputs if output.sampled.token_id != NO_TOKEN]
    if sampled:
        tokens = _tokens(sampled, at_ms)
        _add_prompt_logprobs(tokens, outputs[0], len(job.prompt_ids))
    return tokens, _end(job, outputs[-1], at_ms) if outputs[-1].is_last else None


def _tokens(sampled: Sequence[SampledToken], at_ms: int) -> pb.JournalTokens:
    tokens = pb.JournalTokens(ids=[token.token_id for token in sampled], at_ms=at_ms)
    for token in sampled:
        if token.logprob is not None:
            _fill(tokens.logprobs.add(), token.token_id, token.logprob, token.top)
    return tokens


def _add_prompt_logprobs(tokens: pb.JournalTokens, output: TokenOutput, num_prompt: int) -> None:
    """One message for each prompt token; those without a prediction stay empty."""
    if output.prompt_logprobs:
        scores = {score.prompt_index: score for score in output.prompt_logprobs}
        for index in range(num_prompt):
            logprobs = tokens.prompt_logprobs.add()
            if (score := scores.get(index)) is not None:
                _fill(logprobs, score.token_id, score.logprob, score.top)


def _fill(
    logprobs: api.TokenLogprobs,
    token_id: int,
    logprob: float,
    top: tuple[tuple[int, float], ...],
) -> None:
    logprobs.chosen.token_id = token_id
    logprobs.chosen.logprob = logprob
    for alternative, its_logprob in top:
        logprobs.top.add(token_id=alternative, logprob=its_logprob)


def _end(job: pb.Job, output: TokenOutput, at_ms: int) -> pb.JournalEnd:
    token_id, error = output.sampled.token_id, output.error
    num_tokens = output.index + (token_id != NO_TOKEN)
    if error is not None:
        return failed_end(error, num_tokens, at_ms)
    end = pb.JournalEnd(token_count=num_tokens, at_ms=at_ms)
    if token_id in job.stop_token_ids and not _is_header(job, output):
        end.kind, end.stop_token_id = pb.END_KIND_STOP_TOKEN, token_id
    elif output.sampled.is_complete:
        end.kind = pb.END_KIND_COMPLETE
    else:
        end.kind = pb.END_KIND_LENGTH
    return end


def failed_end(error: Glm4vError, num_tokens: int, at_ms: int) -> pb.JournalEnd:
    """The end of a request that failed after `num_tokens` tokens."""
    return pb.JournalEnd(
        kind=pb.END_KIND_FAILED,
        code=error.code,
        message=str(error),
        token_count=num_tokens,
        at_ms=at_ms,
    )


def _is_header(job: pb.Job, output: TokenOutput) -> bool:
    is_first = output.index == 0 and job.HasField("header_id")
    return is_first and output.sampled.token_id == job.header_id


def sequence_request(job: pb.Job, spec: ModelSpec) -> SequenceRequest:
    """The engine's request for a job."""
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
