"""MindIE's dialect of Triton's paths: bounds, details and prompts of token ids.

What MindIE says of its scheduler (batch sizes, waiting times) a gateway does not know: null.
"""

import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from gateway.doors.http.answer import Answer
from gateway.doors.http.fields import POSITIVE, Fields, Interval
from gateway.doors.http.json_text import json_bytes
from gateway.doors.http.mindie.frames import finish_reason
from gateway.doors.http.mindie.request import DEFAULT_MAX_NEW_TOKENS, UNSUPPORTED
from gateway.doors.http.prompt import read_prompt, user_message
from gateway.doors.http.sampling import (
    MINDIE_INTEGERS,
    MINDIE_NUMBERS,
    fill_neutral,
    read_sampling,
    refuse,
    wants_sampling,
)
from gateway.doors.http.steps import Step
from glm4v.client.options import build_request
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

_ID = re.compile(r"[a-zA-Z0-9_-]{1,256}")
_NUMBERS = MINDIE_NUMBERS | {"top_p": Interval(0.0, 1.0, above=True)}
_INTEGERS = MINDIE_INTEGERS | {"top_k": Interval(0, 2**31 - 1)}
_SECONDS = Interval(1, 65535)
_TOKENS = "UINT32"
_OUTPUT = "output0"


class MindieRequest:
    """A request, and how its answer is wanted. Raises InvalidRequest, in MindIE's words."""

    def __init__(self, body: Fields, parameters: Fields) -> None:
        self.id = body.string("id") or ""
        if "id" in body and not _ID.fullmatch(self.id):
            raise InvalidRequest(
                "The id can contain only digits, letters, underscores(_), hyphens(-) and no more "
                "than 256 words in length."
            )
        refuse(parameters, UNSUPPORTED)
        options = read_sampling(parameters, _NUMBERS, _INTEGERS)
        do_sample = parameters.boolean("do_sample")
        fill_neutral(options, do_sample=wants_sampling(options) if do_sample is None else do_sample)
        max_tokens = parameters.integer("max_new_tokens", POSITIVE)
        options["max_tokens"] = DEFAULT_MAX_NEW_TOKENS if max_tokens is None else max_tokens
        parameters.integer("batch_size", POSITIVE)  # says nothing here
        self.request = build_request([], options)
        self.with_details = bool(parameters.boolean("details"))
        self.time_limit_s: float | None = parameters.integer("timeout", _SECONDS)


def read_text(body: Fields) -> MindieRequest:
    """The request of `/generate`."""
    found = MindieRequest(body, body.object("parameters"))
    if "text_input" not in body:
        raise InvalidRequest("The text_input not found")
    parts = read_prompt(body.value("text_input"), "text_input")
    found.request.messages.append(user_message(parts))
    return found


def read_tokens(body: Fields) -> MindieRequest:
    """The request of `/infer`: one tensor of token ids."""
    inputs = body.array("inputs")
    if inputs is None or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise InvalidRequest("Inputs count must be 1.")
    if not isinstance(body.value("outputs"), list):
        raise InvalidRequest("Req should contain 'outputs' and the type should be array.")
    tensor = Fields(inputs[0])
    found = MindieRequest(body, tensor.object("parameters"))
    if tensor.string("datatype") != _TOKENS:
        raise InvalidRequest(f"Unsupported datatype, got {tensor.value('datatype')}.")
    ids, shape = tensor.array("data") or [], tensor.array("shape") or []
    size = shape[-1] if shape else 0
    if size != len(ids):
        raise InvalidRequest(f"Data size should be {size}, got {len(ids)}.")
    try:
        found.request.prompt_ids.extend(ids)
    except (TypeError, ValueError):
        raise InvalidRequest("data has something that is no token id; send integers") from None
    return found


def text_body(asked: MindieRequest, model_name: str, answer: Answer) -> bytes:
    """The body of a whole answer of `/generate`."""
    [choice] = answer.choices
    body = _head(asked, model_name) | {"text_output": choice.text}
    if asked.with_details:
        body["details"] = {
            "finish_reason": finish_reason(choice.finished),
            "generated_tokens": choice.finished.usage.completion_tokens,
            "first_token_cost": None,
            "decode_cost": None,
            "batch_size": None,
            "queue_wait_time": None,
        }
    return json_bytes(body)


def tokens_body(asked: MindieRequest, answer: Answer) -> bytes:
    """The body of a whole answer of `/infer`."""
    ids = answer.choices[0].token_ids
    output = {"name": _OUTPUT, "shape": [1, len(ids)], "datatype": _TOKENS, "data": ids}
    return json_bytes({"id": asked.id, "outputs": [output]})


class MindieFrames:
    """Writes the frames of one stream: the text that is new, and with details counts and times.

    Times are milliseconds on this gateway's clock, as in `gateway.doors.http.mindie.frames`.
    """

    def __init__(
        self, asked: MindieRequest, model_name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._head = _head(asked, model_name)
        self._with_details = asked.with_details
        self._clock, self._written_at = clock, clock()
        self._tokens = 0

    def write(self, step: Step) -> Iterable[bytes]:
        """The payload of a step."""
        is_first = self._tokens == 0
        self._tokens += len(step.token_ids)
        frame = self._head | {"text_output": step.text}
        if self._with_details:
            frame |= self._details(step.finished) | self._times(is_first=is_first)
        return [json_bytes(frame)]

    def _details(self, finished: api.Finished | None) -> dict[str, Any]:
        counts: dict[str, Any] = {
            "generated_tokens": self._tokens,
            "batch_size": None,
            "queue_wait_time": None,
        }
        end = {"finish_reason": finish_reason(finished)} if finished is not None else {}
        return {"details": end | counts}

    def _times(self, *, is_first: bool) -> dict[str, Any]:
        now = self._clock()
        passed_ms = round(1000 * (now - self._written_at), 3)
        self._written_at = now
        return {
            "prefill_time": passed_ms if is_first else None,
            "decode_time": None if is_first else passed_ms,
        }


def _head(asked: MindieRequest, model_name: str) -> dict[str, Any]:
    return {"id": asked.id, "model_name": model_name, "model_version": None}
