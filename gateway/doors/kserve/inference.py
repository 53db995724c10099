"""A request of the Open Inference Protocol, whatever it travelled in, as one of the gateway."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.doors.kserve import parameters as named
from gateway.doors.kserve.model import (
    FLAGS,
    IMAGE,
    OUTPUTS,
    SAMPLING_PARAMETERS,
    STOP,
    TEXT_INPUT,
    TEXT_OUTPUT,
)
from gateway.doors.kserve.parameters import Value
from gateway.doors.kserve.tensors import Element, Tensor
from glm4v.data_url import read_data_url
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

_EMPTY_FINAL = "triton_enable_empty_final_response"
_TIMEOUT = "timeout"  # of the protocol, in microseconds
_MICRO = 1_000_000
_MAX_TIMEOUT_US = 2**63 - 1
_BASE64 = re.compile(rb"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_RIFF, _RIFF_HEADER_BYTES = b"RIFF", 8  # of WebP: the size in it counts what follows


@dataclass(slots=True)
class Inference:
    """A request, and how its answer is wanted.

    Attributes:
        id: That of the client; it need not be unique.
        request: For the gateway, with the bytes of its image.
        outputs: The tensors that the answer shall have.
        rank: Dimensions of its tensors.
        time_limit_s: The longest it may take; None for the default.
        in_pieces: False for one answer where a stream has pieces otherwise.
        empty_final: Whether an empty response marks the end in a stream.
        is_stop: It ends the running request with the same id, and asks nothing.
        prefix: What precedes the answer's text.
    """

    id: str
    request: api.GenerateRequest
    outputs: Sequence[str] = (TEXT_OUTPUT,)
    rank: int = 1
    time_limit_s: float | None = None
    in_pieces: bool = True
    empty_final: bool = False
    is_stop: bool = False
    prefix: str = ""


def read_inference(
    request_id: str,
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, Value],
    outputs: Sequence[str] = (),
) -> Inference:
    """Check a request and translate it. Raises InvalidRequest.

    A tensor that has the name of a parameter is that parameter. The image may be its file, a data:
    URL or base64.
    """
    stop = tensors.get(STOP)
    if stop is not None and isinstance(stop.only, bool):
        return Inference(request_id, api.GenerateRequest(), is_stop=stop.only)
    values = _values(tensors, parameters)
    flags = {name: named.boolean(name, values.pop(name)) for name in FLAGS if name in values}
    empty_final = named.boolean(_EMPTY_FINAL, values.pop(_EMPTY_FINAL, False))
    time_limit_s = _time_limit(values.pop(_TIMEOUT, 0))
    request = api.GenerateRequest()
    named.apply(values, request)
    text = _add_message(request, tensors)
    return Inference(
        request_id,
        request,
        outputs=_wanted(outputs, flags),
        rank=max(1, len(tensors[TEXT_INPUT].shape)) if TEXT_INPUT in tensors else 1,
        time_limit_s=time_limit_s,
        in_pieces=flags.get("stream", True),
        empty_final=empty_final,
        prefix="" if flags.get("exclude_input_in_output", True) else text,
    )


def _time_limit(timeout: Value) -> float | None:
    """Seconds of the protocol's timeout; 0 is its default, which limits nothing."""
    timeout_us = named.integer(_TIMEOUT, timeout)
    if not 0 <= timeout_us <= _MAX_TIMEOUT_US:
        raise InvalidRequest(f"{_TIMEOUT} is {timeout_us}; send microseconds, from 0 to 2^63 - 1")
    return timeout_us / _MICRO or None


def _values(tensors: Mapping[str, Tensor], parameters: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters: those in `sampling_parameters`, then those of the request, then tensors."""
    values: dict[str, Value] = {}
    if (sampling := tensors.get(SAMPLING_PARAMETERS)) is not None:
        try:
            found = json.loads(_text(SAMPLING_PARAMETERS, sampling.only) or "{}")
        except ValueError as error:
            raise InvalidRequest(f"input {SAMPLING_PARAMETERS!r} is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise InvalidRequest(f"input {SAMPLING_PARAMETERS!r} is no JSON object")
        values.update(found)
    values.update(parameters)
    for name, tensor in tensors.items():
        if name not in (TEXT_INPUT, IMAGE, SAMPLING_PARAMETERS):
            only = tensor.only
            values[name] = _text(name, only) if isinstance(only, bytes) else only
    return values


def _wanted(outputs: Sequence[str], flags: Mapping[str, bool]) -> list[str]:
    """The names of the answer's tensors, each once."""
    known = [each.name for each in OUTPUTS]
    for name in outputs:
        if name not in known:
            raise InvalidRequest(f"output {name!r} is unknown; known are {', '.join(known)}")
    asked = [FLAGS[flag] for flag, is_on in flags.items() if is_on and FLAGS[flag]]
    return list(dict.fromkeys([*(outputs or (TEXT_OUTPUT,)), *asked]))


def _add_message(request: api.GenerateRequest, tensors: Mapping[str, Tensor]) -> str:
    """Add the user's message; its text."""
    image = tensors.get(IMAGE)
    has_image = image is not None and len(image.elements) > 0
    if TEXT_INPUT not in tensors and not has_image:
        raise InvalidRequest(f"the request has no input {TEXT_INPUT!r}; send one of type BYTES")
    text = _text(TEXT_INPUT, tensors[TEXT_INPUT].only) if TEXT_INPUT in tensors else ""
    message = request.messages.add(role=api.ROLE_USER)
    if image is not None and has_image:
        message.parts.add().image.data = _image_file(image.only)
    if text:
        message.parts.add(text=text)
    return text


def _image_file(content: Element) -> bytes:
    """The file in an element: as it is, or encoded as text."""
    if not isinstance(content, bytes):
        raise InvalidRequest(f"input {IMAGE!r} has no bytes; send the file in the datatype BYTES")
    if content[:5].lower() == b"data:":
        return read_data_url(content.decode("ascii", "replace"), f"input {IMAGE!r}")
    if content and _BASE64.fullmatch(content):  # no file of an image has these bytes alone
        return read_data_url(f"data:;base64,{content.decode()}", f"input {IMAGE!r}")
    if content.startswith(_RIFF) and len(content) >= _RIFF_HEADER_BYTES:
        size = int.from_bytes(content[4:8], "little") + _RIFF_HEADER_BYTES
        if len(content) < size:  # numpy takes zero bytes off the end of an element of dtype S
            raise InvalidRequest(
                f"input {IMAGE!r}: the file is cut: {len(content)} of {size} bytes; pack images "
                "with dtype=object"
            )
    return content


def _text(name: str, content: Element) -> str:
    """The text of an element."""
    if not isinstance(content, bytes):
        raise InvalidRequest(f"input {name!r} has no text; send UTF-8 in the datatype BYTES")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"input {name!r} is no UTF-8 at byte {error.start}") from None
