"""The options of a request, as keywords of `Client.generate`."""

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict, TypeVar

from google.protobuf.message import Message

from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as pb

_Kind = TypeVar("_Kind", bound=Message)


class GenerateOptions(TypedDict, total=False):
    """Fields of `GenerateRequest` and of its `SamplingParams`; inference.proto documents them.

    A missing option, or None, is the server's default.
    """

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    max_tokens: int | None
    min_tokens: int | None
    stop: Iterable[str] | None
    stop_token_ids: Iterable[int] | None
    ignore_eos: bool
    response_format: pb.ResponseFormat | None
    top_logprobs: int | None
    prompt_logprobs: int | None
    n: int | None
    best_of: int | None
    return_prompt_ids: bool
    request_id: str | None
    orphan_timeout_s: float | None
    priority: int | None
    cache_salt: str | None
    prompt_ids: Iterable[int] | None
    truncate_prompt_tokens: int | None


def build_request(messages: Iterable[pb.Message], options: Mapping[str, Any]) -> pb.GenerateRequest:
    """The request. Raises InvalidRequest that names an option with an impossible value."""
    request = pb.GenerateRequest(messages=messages)
    for name, value in options.items():
        if value is None:
            continue
        if name in pb.SamplingParams.DESCRIPTOR.fields_by_name:
            request.sampling.MergeFrom(_with_field(pb.SamplingParams, name, value))
        else:
            request.MergeFrom(_with_field(pb.GenerateRequest, name, value))
    return request


def _with_field(kind: type[_Kind], name: str, value: object) -> _Kind:
    try:
        return kind(**{name: value})
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{name} is {value!r}: {error}") from None
