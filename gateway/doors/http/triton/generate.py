"""Triton's generate extension: text and parameters in JSON."""

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.doors.http.answer import Answer
from gateway.doors.http.content import read_content
from gateway.doors.http.json_text import json_bytes, json_string
from gateway.doors.kserve.answer import Answer as Tensors
from gateway.doors.kserve.inference import Inference, read_inference
from gateway.doors.kserve.model import IMAGE, SAMPLING_PARAMETERS, TEXT_INPUT, VERSION
from gateway.doors.kserve.tensors import BYTES, Tensor
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

_OUTER = ("id", "parameters", TEXT_INPUT)


def read_generate(body: Mapping[str, Any]) -> Inference:
    """A request. What is beside `parameters` counts as one of them. Raises InvalidRequest.

    `text_input` may be a list of texts and one image, as in MindIE; `image` is base64 or a data:
    URL.
    """
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidRequest("parameters is no object; send names and values")
    values = {name: value for name, value in body.items() if name not in _OUTER} | parameters
    values = {name: value for name, value in values.items() if value is not None}
    tensors = {}
    parts: list[api.ContentPart] = []
    if isinstance(text := body.get(TEXT_INPUT), str):
        tensors[TEXT_INPUT] = _tensor(TEXT_INPUT, text)
    else:
        parts = read_content(text, TEXT_INPUT)
        tensors[TEXT_INPUT] = _tensor(TEXT_INPUT, "")
        if not parts:
            raise InvalidRequest("text_input is missing; send a text")
    if (image := values.pop(IMAGE, None)) is not None:
        tensors[IMAGE] = _tensor(IMAGE, image)
    sampling = values.pop(SAMPLING_PARAMETERS, None)
    if isinstance(sampling, dict):  # else JSON in a string, as for Triton's vLLM backend
        values = sampling | values
    elif sampling is not None:
        tensors[SAMPLING_PARAMETERS] = _tensor(SAMPLING_PARAMETERS, sampling)
    inference = read_inference(_id(body), tensors, values)
    inference.request.messages[0].parts.extend(parts)
    return inference


def answer_body(inference: Inference, model_name: str, answer: Answer) -> bytes:
    """The body of a whole answer: the tensors by name, one element as it is."""
    outputs = _outputs(tensors_of(inference, answer), None)
    return json_bytes(_head(inference, model_name) | outputs)


def tensors_of(inference: Inference, answer: Answer) -> Tensors:
    """A whole answer as tensors."""
    return Tensors(
        inference,
        texts=[inference.prefix + each.text for each in answer.choices],
        ends=[each.finished for each in answer.choices],
    )


class GenerateFrames:
    """The frames of a stream (see `stream.Encoder`), each with the text that is new."""

    def __init__(self, inference: Inference, model_name: str) -> None:
        self._inference = inference
        self._head = _head(inference, model_name)
        text = json_bytes(self._head)[:-1] + b',"text_output":'
        self._before = text
        self._unsent = inference.prefix
        self._tensors = Tensors(inference)

    def begin(self, accepted: api.Accepted) -> Iterable[bytes]:
        """Nothing."""
        return ()

    def delta(self, choice: int, delta: api.Delta) -> Iterable[bytes]:
        """Text, if there is any."""
        if not self._inference.in_pieces:
            self._unsent += delta.text
            return ()
        text, self._unsent = self._unsent + delta.text, ""
        return (self._before + json_string(text).encode() + b"}",) if text else ()

    def finished(self, choice: int, finished: api.Finished) -> Iterable[bytes]:
        """The rest of the text, and what else was asked for."""
        self._tensors.ends = [finished]
        outputs = _outputs(self._tensors, [self._unsent + finished.text])
        return (json_bytes(self._head | outputs),)

    def complete(self) -> Iterable[bytes]:
        """Nothing."""
        return ()

    def end(self) -> Iterable[bytes]:
        """Nothing: a stream ends with its last frame."""
        return ()


def _head(inference: Inference, model_name: str) -> dict[str, Any]:
    given = {"id": inference.id} if inference.id else {}
    return {**given, "model_name": model_name, "model_version": VERSION}


def _outputs(tensors: Tensors, texts: list[str] | None) -> dict[str, Any]:
    found = {each.name: list(each.elements) for each in tensors.outputs(texts)}
    return {name: each[0] if len(each) == 1 else each for name, each in found.items()}


def _tensor(name: str, value: Any) -> Tensor:
    """A string, or a list of one, as a tensor."""
    element = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(element, str):
        raise InvalidRequest(f"{name} is {str(value)[:60]}; send a string")
    return Tensor(name, BYTES, (1,), [element.encode("utf-8", "surrogatepass")])


def _id(body: Mapping[str, Any]) -> str:
    found = body.get("id") or ""
    if not isinstance(found, str):
        raise InvalidRequest("id is no string")
    return found
