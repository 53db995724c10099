"""Requests of /infer and /infer_token. Source: MindIE-LLM, src/server/endpoint."""

from dataclasses import dataclass

from gateway.doors.http.fields import POSITIVE, Fields, Interval
from gateway.doors.http.prompt import read_prompt, user_message
from gateway.doors.http.sampling import (
    MINDIE_INTEGERS,
    MINDIE_NUMBERS,
    fill_neutral,
    read_sampling,
    refuse,
    wants_sampling,
)
from glm4v.client.options import build_request
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

DEFAULT_MAX_NEW_TOKENS = 20
UNSUPPORTED = {"watermark": "answers are not marked"}
_MAX_TOKEN_ID = 1048576
_MAX_TOKEN_IDS = 1048576
_SECONDS = Interval(1, 65535)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a body asks for.

    Attributes:
        time_limit_s: Its `timeout`; None for the default.
    """

    request: api.GenerateRequest
    is_stream: bool
    with_details: bool
    time_limit_s: float | None


def read_infer(body: Fields) -> InferRequest:
    """A body. Raises InvalidRequest, in MindIE's words as far as it has some."""
    parameters = body.object("parameters")
    refuse(parameters, UNSUPPORTED)
    options = read_sampling(parameters, MINDIE_NUMBERS, MINDIE_INTEGERS)
    do_sample = parameters.boolean("do_sample")
    fill_neutral(options, do_sample=wants_sampling(options) if do_sample is None else do_sample)
    max_tokens = parameters.integer("max_new_tokens", POSITIVE)
    options["max_tokens"] = DEFAULT_MAX_NEW_TOKENS if max_tokens is None else max_tokens
    request = build_request([], options)
    _read_prompt(body, request)
    seconds = parameters.integer("timeout", _SECONDS)
    return InferRequest(
        request,
        is_stream=bool(body.boolean("stream")),
        with_details=bool(parameters.boolean("details")),
        time_limit_s=None if seconds is None else float(seconds),
    )


def _read_prompt(body: Fields, request: api.GenerateRequest) -> None:
    if "inputs" in body and "input_id" in body:
        raise InvalidRequest("Input conflict.")
    if "input_id" in body:
        request.prompt_ids.extend(_token_ids(body))
    elif "inputs" in body:
        request.messages.append(user_message(read_prompt(body.value("inputs"), "inputs")))
    else:
        raise InvalidRequest("Not found inputs.")


def _token_ids(body: Fields) -> list[int]:
    ids = body.value("input_id")
    if not isinstance(ids, list):
        raise InvalidRequest("Parameter input_id must be an array")
    if not ids:
        raise InvalidRequest("Input_id should not be empty")
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in ids):
        raise InvalidRequest("Parameter input_id must be integer")
    if len(ids) > _MAX_TOKEN_IDS or not all(0 <= each <= _MAX_TOKEN_ID for each in ids):
        raise InvalidRequest("Data element in param input_id is invalid")
    return ids
