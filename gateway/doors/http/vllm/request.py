"""Requests of vLLM's format, as vLLM and as MindIE take them."""

from dataclasses import dataclass
from typing import Any

from gateway.doors.http.dialect import Dialect
from gateway.doors.http.fields import (
    MAX_INT32,
    MAX_INT64,
    POSITIVE,
    Fields,
    Interval,
    as_json,
    wrong_type,
)
from gateway.doors.http.prompt import first_text, read_prompt, user_message
from gateway.doors.http.sampling import fill_neutral, read_sampling, refuse, wants_sampling
from gateway.doors.http.stops import read_stops
from glm4v.client.options import GenerateOptions, build_request
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

DEFAULT_MAX_TOKENS = 16  # of vLLM; in MindIE the server decides

_LONGEST_STOP = 32768
_NUMBERS = {
    "temperature": Interval(0.0, 10.0),
    "top_p": Interval(0.0, 1.0, above=True),
    "repetition_penalty": Interval(0.0, 2.0, above=True),
    "frequency_penalty": Interval(-2.0, 2.0),
    "presence_penalty": Interval(-2.0, 2.0),
}
_INTEGERS = {
    "seed": Interval(0, MAX_INT64),
    "n": Interval(1, 8192),
    "best_of": Interval(1, 128),
}
_ORIGINAL_NUMBERS = _NUMBERS | {"min_p": Interval(0.0, 1.0)}
_ORIGINAL_INTEGERS = _INTEGERS | {"min_tokens": Interval(0, MAX_INT32)}
_UNSUPPORTED = {
    "use_beam_search": "answers are sampled; n and best_of make several",
    "bad_words": "use logit_bias",
    "allowed_token_ids": "use logit_bias",
}


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How a body wants its answer.

    Attributes:
        echo: What each whole answer begins with.
        with_stop: Whether an answer ends with the stop string that it reached.
    """

    dialect: Dialect
    is_stream: bool
    echo: str
    with_stop: bool


def read_vllm(body: Fields, dialect: Dialect) -> tuple[api.GenerateRequest, AnswerOptions]:
    """The request in a body, and the form of its answer. Raises InvalidRequest."""
    is_original = dialect is Dialect.ORIGINAL
    refuse(body, _UNSUPPORTED)
    if body.boolean("skip_special_tokens") is False:
        raise InvalidRequest("skip_special_tokens is false; special tokens have no text; set true")
    options = _options(body, dialect)
    request = build_request([], options)
    parts = read_prompt(body.value("prompt"), "prompt")
    request.messages.append(user_message(parts))
    request.stop_token_ids.extend(_stop_token_ids(body))
    if is_original and (most := body.integer("truncate_prompt_tokens", POSITIVE)) is not None:
        request.truncate_prompt_tokens = most
    text = first_text(parts)
    with_stop = bool(request.stop) and bool(body.boolean("include_stop_str_in_output"))
    return request, AnswerOptions(
        dialect,
        is_stream=bool(body.boolean("stream")),
        echo=text if is_original else f"{text} ",
        with_stop=with_stop,
    )


def _options(body: Fields, dialect: Dialect) -> GenerateOptions:
    is_original = dialect is Dialect.ORIGINAL
    options = read_sampling(
        body,
        _ORIGINAL_NUMBERS if is_original else _NUMBERS,
        _ORIGINAL_INTEGERS if is_original else _INTEGERS,
    )
    if (top_k := _top_k(body, with_zero=is_original)) is not None:
        options["top_k"] = top_k
    temperature = options.get("temperature")
    do_sample = is_original or wants_sampling(options) if temperature is None else temperature > 0
    _check_choices(options, do_sample=do_sample and (is_original or temperature is not None))
    fill_neutral(options, do_sample=do_sample)
    options["max_tokens"] = _max_tokens(body)
    if is_original and options["max_tokens"] is None:
        options["max_tokens"] = DEFAULT_MAX_TOKENS
    options["ignore_eos"] = bool(body.boolean("ignore_eos"))
    options["stop"] = read_stops(body, longest=_LONGEST_STOP)
    if is_original and "logit_bias" in body:
        options["logit_bias"] = _logit_bias(body)
    return options


def _check_choices(options: GenerateOptions, *, do_sample: bool) -> None:
    if do_sample or max(options.get("n") or 1, options.get("best_of") or 1) == 1:
        return
    raise InvalidRequest(
        "Best_of/N can not greater than 1 when temperature is 0 or not set; set a temperature."
    )


def _top_k(body: Fields, *, with_zero: bool) -> int | None:
    """As the gateway takes it: 0 for all tokens, which are -1 here, and in newer vLLM also 0."""
    value = body.integer("top_k", Interval(-MAX_INT64, MAX_INT64))
    if value is None:
        return None
    if value == -1 or (value == 0 and with_zero):
        return 0
    if value not in POSITIVE:
        raise InvalidRequest(f"Parameter top_k must be in -1 || {POSITIVE}, got {value}")
    return value


def _max_tokens(body: Fields) -> int | None:
    value = body.value("max_tokens")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise wrong_type("max_tokens", "integer")
    if value is not None and value not in POSITIVE:
        raise InvalidRequest(f"Parameter max_tokens must be {POSITIVE}, got {value}")
    return value


def _stop_token_ids(body: Fields) -> list[int]:
    ids = body.array("stop_token_ids") or []
    for each in ids:
        if isinstance(each, bool) or not isinstance(each, int) or not 0 <= each <= MAX_INT32:
            raise InvalidRequest(
                f"Parameter stop_token_ids must have integers in [0,{MAX_INT32}], "
                f"got {as_json(each)}."
            )
    return ids


def _logit_bias(body: Fields) -> dict[int, float]:
    biases: dict[int, float] = {}
    for key, bias in _items(body.value("logit_bias")):
        if not key.isdecimal() or isinstance(bias, bool) or not isinstance(bias, int | float):
            raise InvalidRequest("logit_bias must be an object of token ids and numbers.")
        biases[int(key)] = float(bias)
    return biases


def _items(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise wrong_type("logit_bias", "object")
    return list(value.items())
