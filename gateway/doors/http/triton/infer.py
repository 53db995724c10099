"""Tensors in JSON or in the binary form: the requests and answers of `/infer`."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.doors.http.answer import Answer
from gateway.doors.http.json_text import json_bytes
from gateway.doors.http.triton.body import HEADER_LENGTH
from gateway.doors.http.triton.generate import tensors_of
from gateway.doors.kserve.answer import Output
from gateway.doors.kserve.inference import Inference, read_inference
from gateway.doors.kserve.model import VERSION
from gateway.doors.kserve.tensors import BYTES, Element, Tensor, check_datatype, unpack
from glm4v.errors import InvalidRequest

_SIZE = "binary_data_size"
_SHARED_MEMORY = "shared_memory_region"


class InferRequest:
    """A request, and which of its outputs are wanted in the binary form. Raises InvalidRequest."""

    def __init__(self, body: Mapping[str, Any], rest: bytes) -> None:
        parameters = _object(body, "parameters")
        outputs = _objects(body, "outputs")
        is_binary = parameters.get("binary_data_output", False)
        self._binary = {_name(each): _is_binary(each, is_binary) for each in outputs}
        self._is_binary = bool(is_binary)
        inputs = _objects(body, "inputs")
        tensors = {each.name: each for each in _read_tensors(inputs, rest)}
        request_id = body.get("id") or ""
        if not isinstance(request_id, str):
            raise InvalidRequest("id is no string")
        self.inference: Inference = read_inference(
            request_id, tensors, parameters, [_name(each) for each in outputs]
        )

    def body(self, model_name: str, answer: Answer) -> tuple[bytes, dict[str, str]]:
        """The body of a whole answer, and its headers."""
        outputs = tensors_of(self.inference, answer).outputs()
        given = {"id": self.inference.id} if self.inference.id else {}
        head = {"model_name": model_name, "model_version": VERSION, **given}
        body = json_bytes(head | {"outputs": [self._output(each) for each in outputs]})
        rest = [each.data for each in outputs if self._sends_binary(each.name)]
        if not rest:
            return body, {}
        headers = {HEADER_LENGTH: str(len(body)), "content-type": "application/octet-stream"}
        return b"".join([body, *rest]), headers

    def _output(self, output: Output) -> dict[str, Any]:
        described: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.shape),
        }
        if self._sends_binary(output.name):
            return described | {"parameters": {_SIZE: len(output.data)}}
        return described | {"data": list(output.elements)}

    def _sends_binary(self, name: str) -> bool:
        return self._binary.get(name, self._is_binary)


def _read_tensors(inputs: Sequence[dict[str, Any]], rest: bytes) -> list[Tensor]:
    tensors, at = [], 0
    for each in inputs:
        name, datatype = _name(each), each.get("datatype")
        shape = each.get("shape")
        if not isinstance(datatype, str) or not _is_shape(shape):
            raise InvalidRequest(f"input {name!r} needs a datatype and a shape of integers")
        check_datatype(name, datatype)
        parameters = _object(each, "parameters")
        if _SHARED_MEMORY in parameters:
            raise InvalidRequest(
                f"tensor {name!r} is in shared memory, which is not supported; send its bytes"
            )
        size = parameters.get(_SIZE)
        if size is None:
            elements = [_element(name, datatype, value) for value in _flat(each.get("data"))]
        else:
            if not isinstance(size, int) or not 0 <= size <= len(rest) - at:
                raise InvalidRequest(
                    f"input {name!r}: {_SIZE} is {size!r}; {len(rest) - at} bytes are left"
                )
            elements = unpack(name, datatype, rest[at : at + size])
            at += size
        tensors.append(Tensor(name, datatype, tuple(shape or ()), elements))
    return tensors


def _element(name: str, datatype: str, value: Any) -> Element:
    if datatype == BYTES:
        if not isinstance(value, str):
            raise InvalidRequest(f"input {name!r} has {str(value)[:40]}; send strings for BYTES")
        return value.encode("utf-8", "surrogatepass")
    if datatype == "BOOL" and isinstance(value, bool):
        return value
    if datatype != "BOOL" and isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise InvalidRequest(f"input {name!r} has {str(value)[:40]}, which is not {datatype}")


def _flat(data: Any) -> list[Any]:
    """The elements of nested lists, in order."""
    if not isinstance(data, list):
        return [] if data is None else [data]
    found, waiting = [], list(reversed(data))
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += reversed(value)
        else:
            found.append(value)
    return found


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(type(each) is int for each in shape)


def _is_binary(output: dict[str, Any], default: Any) -> bool:
    return bool(_object(output, "parameters").get("binary_data", default))


def _name(tensor: dict[str, Any]) -> str:
    name = tensor.get("name")
    if not isinstance(name, str):
        raise InvalidRequest("a tensor has no name; send a string")
    return name


def _object(holder: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = holder.get(key) or {}
    if not isinstance(found, dict):
        raise InvalidRequest(f"{key} is no object; send names and values")
    return found


def _objects(holder: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = holder.get(key) or []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InvalidRequest(f"{key} is no list of objects; send one object for each tensor")
    return found
