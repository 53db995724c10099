"""Whole answers of TGI's format, in both dialects."""

from collections.abc import Sequence
from typing import Any

from gateway.doors.http.answer import Answer, ChoiceAnswer
from gateway.doors.http.dialect import Dialect
from gateway.doors.http.mindie.frames import finish_reason
from gateway.doors.http.tgi.request import AnswerOptions
from gateway.doors.http.tgi.tokens import TokenWriter, shortest
from gateway.doors.http.usage import prompt_tokens
from glm4v.v1 import inference_pb2 as api


def answer_body(answer: Answer, wanted: AnswerOptions, tokens: TokenWriter) -> dict[str, Any]:
    """The body for an answer."""
    if wanted.dialect is Dialect.MINDIE:
        return _mindie(answer, wanted)
    ranked = sorted(
        (_mean_logprob(choice), -number) for number, choice in enumerate(answer.choices)
    )
    best, *others = [-number for _, number in reversed(ranked)]
    body: dict[str, Any] = {"generated_text": wanted.prompt + answer.choices[best].text}
    if wanted.with_details:
        details = _details(answer, best, wanted, tokens)
        if others:
            details["best_of_sequences"] = [
                {"generated_text": wanted.prompt + answer.choices[number].text}
                | _details(answer, number, wanted, tokens)
                for number in others
            ]
        body["details"] = details
    return body


def answer_headers(answer: Answer, wanted: AnswerOptions) -> dict[str, str]:
    """The figures that TGI sends with an answer, as far as they are known; times in ms."""
    if wanted.dialect is Dialect.MINDIE:
        return {}
    finished = [choice.finished for choice in answer.choices]
    generated = sum(each.usage.completion_tokens for each in finished)
    timings = finished[0].timings
    steps = max(finished[0].usage.completion_tokens - 1, 1)
    return {
        "x-compute-characters": str(wanted.characters),
        "x-compute-time": f"{timings.total_s:.3f}",  # seconds
        "x-total-time": f"{1000 * timings.total_s:.0f}",
        "x-time-per-token": f"{1000 * timings.decode_s / steps:.3f}",
        "x-prompt-tokens": str(prompt_tokens(finished[0].usage)),
        "x-generated-tokens": str(generated),
    }


def _mindie(answer: Answer, wanted: AnswerOptions) -> dict[str, Any]:
    choice = answer.choices[0]
    body: dict[str, Any] = {}
    if wanted.with_details:
        prompt_ids = answer.accepted.prompt_ids if wanted.with_prefill else ()
        body["details"] = {
            "prompt_tokens": prompt_tokens(choice.finished.usage),
            "finish_reason": finish_reason(choice.finished),
            "generated_tokens": choice.finished.usage.completion_tokens,
            "prefill": [_bare(token_id) for token_id in prompt_ids],
            "seed": answer.accepted.seed,
            "tokens": [_bare(token_id) for token_id in choice.token_ids],
        }
    return body | {"generated_text": choice.text}


def _bare(token_id: int) -> dict[str, Any]:
    return {"id": token_id, "logprob": None, "special": None, "text": None}


def _details(
    answer: Answer, number: int, wanted: AnswerOptions, tokens: TokenWriter
) -> dict[str, Any]:
    choice = answer.choices[number]
    details: dict[str, Any] = {
        "finish_reason": finish_reason(choice.finished),
        "generated_tokens": choice.finished.usage.completion_tokens,
        "seed": (answer.accepted.seed + number) % 2**64 if wanted.is_sampled else None,
        "prefill": _prefill(answer, tokens) if wanted.with_prefill else [],
        "tokens": [
            tokens.token(token_id, _chosen(choice.logprobs, at))
            for at, token_id in enumerate(choice.token_ids)
        ],
    }
    if wanted.alternatives:
        details["top_tokens"] = [tokens.alternatives(each) for each in choice.logprobs]
    return details


def _prefill(answer: Answer, tokens: TokenWriter) -> list[dict[str, Any]]:
    """Tokens of the prompt. The first one and an image's placeholders have no probability."""
    found = answer.prompt_logprobs
    return [
        {
            "id": token_id,
            "text": tokens.text(token_id),
            "logprob": shortest(_chosen(found, at)),
        }
        for at, token_id in enumerate(answer.accepted.prompt_ids)
    ]


def _chosen(logprobs: Sequence[api.TokenLogprobs], at: int) -> float | None:
    known = at < len(logprobs) and logprobs[at].HasField("chosen")
    return logprobs[at].chosen.logprob if known else None


def _mean_logprob(choice: ChoiceAnswer) -> float:
    return sum(each.chosen.logprob for each in choice.logprobs) / max(len(choice.logprobs), 1)
