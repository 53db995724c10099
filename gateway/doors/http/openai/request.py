"""A chat completion's body to the message of the facade."""

import json
import re
from typing import Any, cast

from gateway.doors.http.content import read_content
from gateway.doors.http.errors import InvalidField
from gateway.doors.http.openai.body import (
    ChatBody,
    ChatMessage,
    ResponseFormat,
    StructuredOutputs,
)
from gateway.doors.http.openai.unserved import REFUSED, refuse_unserved
from glm4v.client.options import GenerateOptions, build_request
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

_ROLES = {
    "system": api.ROLE_SYSTEM,
    "developer": api.ROLE_SYSTEM,
    "user": api.ROLE_USER,
    "assistant": api.ROLE_ASSISTANT,
}
_ANY_JSON = "{}"
_SEEDS = 2**64
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_MAX_HEADER = 1000
# Known fields that say nothing about the answer, or what is so anyway.
_HARMLESS = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
        *("parallel_tool_calls", "tool_choice", "modalities", "skip_special_tokens"),
        *("spaces_between_special_tokens", "add_generation_prompt", "add_special_tokens"),
    }
)
_SAME = (  # fields with the same name and meaning in the message
    *("temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "n", "best_of", "min_tokens", "stop_token_ids", "request_id"),
    *("cache_salt", "orphan_timeout_s"),
)


def to_request(body: ChatBody) -> api.GenerateRequest:
    """The message. Raises InvalidRequest that names the field."""
    refuse_unserved(body.model_extra or {})
    messages = [_message(each, f"messages[{i}]") for i, each in enumerate(body.messages)]
    options = cast(GenerateOptions, {name: getattr(body, name) for name in _SAME})
    if body.do_sample is False:
        options["temperature"] = 0.0
    options["top_k"] = 0 if body.top_k == -1 else body.top_k
    options["max_tokens"] = _first(body.max_completion_tokens, body.max_tokens)
    options["stop"] = [body.stop] if isinstance(body.stop, str) else body.stop
    options["seed"] = None if body.seed is None else body.seed % _SEEDS
    options["logit_bias"] = _logit_bias(body.logit_bias)
    options["top_logprobs"] = _top_logprobs(body)
    options["ignore_eos"] = bool(body.ignore_eos)
    options["priority"] = body.priority or None
    options["response_format"] = _response_format(body)
    return build_request(messages, options)


def ignored_fields(body: ChatBody) -> dict[str, str]:
    """A header that names the fields of a body that are not known here, as far as it can."""
    names = [name for name in body.model_extra or {} if name not in _HARMLESS | REFUSED.keys()]
    listed = ", ".join(name for name in names if _NAME.fullmatch(name))
    return {"x-ignored-parameters": listed[:_MAX_HEADER]} if listed else {}


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _message(message: ChatMessage, place: str) -> api.Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidField(
            f"{place}.role", f"{message.role[:40]!r} is not one of {', '.join(_ROLES)}"
        )
    if message.tool_calls:
        raise InvalidField(f"{place}.tool_calls", "tools are not served; leave it out")
    return api.Message(role=role, parts=read_content(message.content, f"{place}.content"))


def _logit_bias(biases: dict[str, float] | None) -> dict[int, float]:
    try:
        return {int(token_id): bias for token_id, bias in (biases or {}).items()}
    except ValueError:
        raise InvalidField("logit_bias", "its keys must be token ids") from None


def _top_logprobs(body: ChatBody) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidField("top_logprobs", "set logprobs to true to have them")
    return None


def _response_format(body: ChatBody) -> api.ResponseFormat | None:
    """The form of the answer, in whichever of its spellings; none for free text."""
    forms = [*_openai_form(body.response_format), *_vllm_forms(body)]
    if len(forms) > 1:
        raise InvalidRequest("more than one form of the answer is set; leave one")
    return forms[0] if forms else None


def _openai_form(form: ResponseFormat | None) -> list[api.ResponseFormat]:
    if form is None or form.type == "text":
        return []
    if form.type == "json_object":
        return [api.ResponseFormat(json_schema=_ANY_JSON)]
    if form.json_schema is None or form.json_schema.schema_ is None:
        raise InvalidField("response_format.json_schema.schema", "it is missing; send a schema")
    return [_json(form.json_schema.schema_)]


def _vllm_forms(body: ChatBody) -> list[api.ResponseFormat]:
    form = body.structured_outputs or StructuredOutputs()
    schemas = [body.guided_json, form.json_, _ANY_JSON if form.json_object else None]
    regexes = [body.guided_regex, form.regex]
    choices = [body.guided_choice, form.choice]
    return [
        *(_json(schema) for schema in schemas if schema is not None),
        *(api.ResponseFormat(regex=regex) for regex in regexes if regex is not None),
        *(_choice(options) for options in choices if options is not None),
    ]


def _choice(options: list[str]) -> api.ResponseFormat:
    return api.ResponseFormat(choice=api.ChoiceFormat(options=options))


def _json(schema: dict[str, Any] | str) -> api.ResponseFormat:
    return api.ResponseFormat(json_schema=schema if isinstance(schema, str) else json.dumps(schema))
