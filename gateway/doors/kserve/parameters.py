"""Parameters by name, as clients of KServe and Triton send them, into a request."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

Value = Any  # bool, int, float or str; a list where the format has lists

_SAMPLING_NUMBERS = (
    "temperature",
    "top_p",
    "repetition_penalty",
    "min_p",
    "typical_p",
    "frequency_penalty",
    "presence_penalty",
)
_INTEGERS = ("max_tokens", "min_tokens", "n", "best_of", "priority")
_STRINGS = ("request_id", "cache_salt")
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_ALL_TOKENS = -1  # of `top_k`, for clients of vLLM
# Names that the protocol keeps for itself: they say nothing about the answer.
_RESERVED = ("sequence_id", "sequence_start", "sequence_end", "headers", "binary_data_output")
_RESERVED_PREFIX = "triton_"

_Setter = Callable[[api.GenerateRequest, str, Value], None]


def apply(parameters: Mapping[str, Value], request: api.GenerateRequest) -> None:
    """Set the fields of a request. Raises InvalidRequest for an unknown name or a wrong value.

    Names that the protocol reserves are skipped.
    """
    for name, value in parameters.items():
        if name in _RESERVED or name.startswith(_RESERVED_PREFIX):
            continue
        setter = _SETTERS.get(name)
        if setter is None:
            close = get_close_matches(name, _SETTERS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(_SETTERS)}"
            raise InvalidRequest(f"the parameter {name!r} is unknown; {hint}")
        try:
            setter(request, name, value)
        except (ValueError, OverflowError):  # of protobuf: the field has fewer bits
            raise InvalidRequest(f"{name} is {value}, out of range") from None


def number(name: str, value: Value) -> float:
    """A number in any form. Raises InvalidRequest."""
    try:
        return float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{name} is {value!r}; send a number") from None


def integer(name: str, value: Value) -> int:
    """An integer in any form: 5, 5.0 or "5". Raises InvalidRequest."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)  # a float has not all integers
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise InvalidRequest(f"{name} is {value!r}; send an integer")


def boolean(name: str, value: Value) -> bool:
    """True or false, in any form. Raises InvalidRequest."""
    if isinstance(value, bool):
        return value
    known = {"true": True, "1": True, "false": False, "0": False}
    found = known.get(str(value).lower())
    if found is None:
        raise InvalidRequest(f"{name} is {value!r}; send true or false")
    return found


def strings(name: str, value: Value) -> Sequence[str]:
    """One string, or a list of them, also as a JSON list in a string. Raises InvalidRequest."""
    if isinstance(value, str) and value.startswith("["):
        value = _json_list(name, value)
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise InvalidRequest(f"{name} is {value!r}; send a string, or a JSON list like '[\"a\"]'")
    return found


def _json_list(name: str, value: str) -> list[Any]:
    try:
        found = json.loads(value)
    except ValueError:
        raise InvalidRequest(
            f"{name} begins with '[' and is no JSON list; send a string that is one as '[\"…\"]'"
        ) from None
    if not isinstance(found, list):
        raise InvalidRequest(f"{name} is no JSON list")
    return found


def _set_sampling_number(request: api.GenerateRequest, name: str, value: Value) -> None:
    setattr(request.sampling, name, number(name, value))


def _set_number(request: api.GenerateRequest, name: str, value: Value) -> None:
    setattr(request, name, number(name, value))


def _set_integer(request: api.GenerateRequest, name: str, value: Value) -> None:
    setattr(request, name, integer(name, value))


def _set_priority(request: api.GenerateRequest, name: str, value: Value) -> None:
    if priority := integer(name, value):  # 0 is the protocol's default
        request.priority = priority


def _set_top_k(request: api.GenerateRequest, name: str, value: Value) -> None:
    top_k = integer(name, value)
    request.sampling.top_k = 0 if top_k == _ALL_TOKENS else top_k


def _set_seed(request: api.GenerateRequest, name: str, value: Value) -> None:
    request.sampling.seed = integer(name, value)


def _set_max_tokens(request: api.GenerateRequest, name: str, value: Value) -> None:
    request.max_tokens = integer(name, value)


def _set_ignore_eos(request: api.GenerateRequest, name: str, value: Value) -> None:
    request.ignore_eos = boolean(name, value)


def _set_string(request: api.GenerateRequest, name: str, value: Value) -> None:
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} is {value!r}; send a string")
    setattr(request, name, value)


def _set_stop(request: api.GenerateRequest, name: str, value: Value) -> None:
    request.stop[:] = strings(name, value)


def _set_stop_token_ids(request: api.GenerateRequest, name: str, value: Value) -> None:
    if isinstance(value, str) and value.startswith("["):
        value = _json_list(name, value)
    found = value if isinstance(value, list) else [value]
    request.stop_token_ids[:] = [integer(name, each) for each in found]


def _set_json_schema(request: api.GenerateRequest, name: str, value: Value) -> None:
    schema = value if isinstance(value, str) else json.dumps(value)
    request.response_format.json_schema = schema


def _set_regex(request: api.GenerateRequest, name: str, value: Value) -> None:
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} is {value!r}; send a string")
    request.response_format.regex = value


def _set_choice(request: api.GenerateRequest, name: str, value: Value) -> None:
    request.response_format.choice.options[:] = strings(name, value)


_SETTERS: dict[str, _Setter] = {
    **dict.fromkeys(_SAMPLING_NUMBERS, _set_sampling_number),
    "top_k": _set_top_k,
    "seed": _set_seed,
    **dict.fromkeys(_INTEGERS, _set_integer),
    "priority": _set_priority,
    "max_new_tokens": _set_max_tokens,  # by MindIE's name
    "stop": _set_stop,
    "stop_token_ids": _set_stop_token_ids,
    "ignore_eos": _set_ignore_eos,
    "json_schema": _set_json_schema,
    "regex": _set_regex,
    "choice": _set_choice,
    **dict.fromkeys(_STRINGS, _set_string),
    "orphan_timeout_s": _set_number,
}
NAMES = tuple(_SETTERS)
