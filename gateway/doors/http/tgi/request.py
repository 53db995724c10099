"""Requests of TGI's format, as TGI and as MindIE take them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.doors.http.dialect import Dialect
from gateway.doors.http.fields import MAX_INT64, POSITIVE, Fields, Interval
from gateway.doors.http.prompt import first_text, read_prompt, user_message
from gateway.doors.http.sampling import (
    MINDIE_NUMBERS,
    fill_neutral,
    read_sampling,
    refuse,
    wants_sampling,
)
from gateway.doors.http.stops import read_stops
from glm4v.client.options import GenerateOptions, build_request
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

DEFAULT_MAX_NEW_TOKENS = 20  # of MindIE; in TGI the server decides

_UNSUPPORTED = {
    "watermark": "answers are not marked",
    "adapter_id": "this server has no adapters",
}
_ORIGINAL_NUMBERS = MINDIE_NUMBERS | {
    "typical_p": Interval(0.0, 1.0, above=True, below=True),
    "frequency_penalty": Interval(-2.0, 2.0, above=True),
}
_SEEDS = {Dialect.ORIGINAL: Interval(0, 2**64 - 1), Dialect.MINDIE: Interval(0, MAX_INT64)}
_MAX_CHOICES = 16
_MAX_ALTERNATIVES = 20
_IMAGE = re.compile(r"!\[[^\]\n]*\]\(\s*([^)\s]+)\s*\)")
_FORMATS = ("json", "json_schema", "regex")


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How a body wants its answer.

    Attributes:
        is_sampled: Whether the seed has an effect.
        alternatives: How many are reported for each token.
        prompt: The text that the answer begins with, if the whole text was asked for.
        characters: Of the prompt's text.
    """

    dialect: Dialect
    with_details: bool
    with_prefill: bool
    is_sampled: bool
    alternatives: int
    prompt: str
    characters: int


def read_tgi(
    body: Fields, dialect: Dialect, *, is_stream: bool
) -> tuple[api.GenerateRequest, AnswerOptions]:
    """The request in a body, and the form of its answer. Raises InvalidRequest."""
    is_original = dialect is Dialect.ORIGINAL
    parameters = body.object("parameters")
    refuse(parameters, _UNSUPPORTED)
    options = _sampling(parameters, dialect)
    # TGI samples for a body without parameters, and for one that sets what only sampling has.
    do_sample = parameters.boolean("do_sample")
    if is_original:
        is_sampled = do_sample or wants_sampling(options) or "parameters" not in body
    else:
        is_sampled = wants_sampling(options) if do_sample is None else do_sample
    fill_neutral(options, do_sample=is_sampled)
    options["stop"] = read_stops(parameters)
    options["max_tokens"] = parameters.integer("max_new_tokens", POSITIVE)
    if not is_original and options["max_tokens"] is None:
        options["max_tokens"] = DEFAULT_MAX_NEW_TOKENS
    request = build_request([], options)
    text = _read_inputs(body, request, with_images=is_original)
    if (most := parameters.integer("truncate", POSITIVE)) is not None:
        request.truncate_prompt_tokens = most
    with_details = bool(parameters.boolean("details"))
    with_prefill = _with_prefill(parameters, request, dialect, is_stream=is_stream)
    alternatives = 0
    if is_original:
        alternatives = _read_original(parameters, request, is_stream=is_stream)
        _check_best_of(request, is_stream=is_stream, is_sampled=is_sampled)
        if with_details or is_stream or request.n > 1:
            request.top_logprobs = alternatives
    return request, AnswerOptions(
        dialect,
        with_details=with_details,
        with_prefill=with_prefill,
        is_sampled=is_sampled,
        alternatives=alternatives,
        prompt=text if parameters.boolean("return_full_text") and is_original else "",
        characters=len(text),
    )


def _sampling(parameters: Fields, dialect: Dialect) -> GenerateOptions:
    numbers = _ORIGINAL_NUMBERS if dialect is Dialect.ORIGINAL else MINDIE_NUMBERS
    return read_sampling(parameters, numbers, {"top_k": POSITIVE, "seed": _SEEDS[dialect]})


def _read_inputs(body: Fields, request: api.GenerateRequest, *, with_images: bool) -> str:
    """Add the message; the text of the prompt. In TGI, Markdown in a text shows the image."""
    if "inputs" not in body:
        raise InvalidRequest("Request should contain 'inputs' and the type should be string.")
    inputs = body.value("inputs")
    if with_images and isinstance(inputs, str) and (urls := _IMAGE.findall(inputs)):
        text = _IMAGE.sub("", inputs)
        inputs = [{"type": "image_url", "image_url": url} for url in urls]
        inputs.append({"type": "text", "text": text})
    parts = read_prompt(inputs, "inputs")
    request.messages.append(user_message(parts))
    return first_text(parts)


def _with_prefill(
    parameters: Fields, request: api.GenerateRequest, dialect: Dialect, *, is_stream: bool
) -> bool:
    if not parameters.boolean("decoder_input_details"):
        return False
    if is_stream:
        raise InvalidRequest("The decoder_input_details must not be true when stream is true.")
    request.return_prompt_ids = True
    if dialect is Dialect.ORIGINAL:
        request.prompt_logprobs = 0
    return True


def _read_original(parameters: Fields, request: api.GenerateRequest, *, is_stream: bool) -> int:
    """What only TGI itself has; the number of alternatives to report for each token."""
    best_of = parameters.integer("best_of", Interval(1, _MAX_CHOICES))
    if best_of is not None:
        request.n = best_of
    if "grammar" in parameters:
        request.response_format.CopyFrom(_grammar(parameters.object("grammar")))
    alternatives = parameters.integer("top_n_tokens", Interval(0, _MAX_ALTERNATIVES))
    return alternatives or 0


def _check_best_of(request: api.GenerateRequest, *, is_stream: bool, is_sampled: bool) -> None:
    if request.n <= 1:
        return
    if is_stream:
        raise InvalidRequest(f"best_of is {request.n}; a stream has one answer: leave best_of out")
    if not is_sampled:
        raise InvalidRequest(
            f"best_of is {request.n}, of answers that are all the same; set do_sample to true"
        )


def _grammar(grammar: Fields) -> api.ResponseFormat:
    kind, value = grammar.string("type"), grammar.value("value")
    if kind not in _FORMATS:
        raise InvalidRequest(f"grammar.type is {kind!r}; one of {', '.join(_FORMATS)} is allowed")
    if kind == "regex":
        if not isinstance(value, str):
            raise InvalidRequest("grammar.value must be string type.")
        return api.ResponseFormat(regex=value)
    if isinstance(value, Mapping):
        value = json.dumps(_schema(value), ensure_ascii=False)
    if not isinstance(value, str):
        raise InvalidRequest("grammar.value must be object type.")
    return api.ResponseFormat(json_schema=value)


def _schema(value: Mapping[str, Any]) -> Any:
    """The schema, without the name that `json_schema` puts beside it."""
    return value["schema"] if isinstance(value.get("schema"), dict) else value
