"""Messages of the Open Inference Protocol over gRPC, to and from what the door works with."""

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.doors.kserve import grpc_service_pb2 as pb
from gateway.doors.kserve.answer import Output
from gateway.doors.kserve.inference import Inference, read_inference
from gateway.doors.kserve.model import VERSION
from gateway.doors.kserve.tensors import Element, Tensor, check_datatype, unpack
from glm4v.errors import InvalidRequest

_CONTENTS = {
    "BYTES": "bytes_contents",
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
_SHARED_MEMORY = "shared_memory_region"


def read_request(message: pb.ModelInferRequest) -> Inference:
    """The request in a message. Raises InvalidRequest."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequest(
            f"raw_input_contents has {len(raw)} tensors, inputs has {len(message.inputs)}; send "
            "the elements of all tensors there, or of none"
        )
    in_memory = [each.name for each in message.inputs if _SHARED_MEMORY in each.parameters]
    in_memory += [each.name for each in message.outputs if _SHARED_MEMORY in each.parameters]
    if in_memory:
        raise InvalidRequest(
            f"tensor {in_memory[0]!r} is in shared memory, which is not supported; send its bytes"
        )
    tensors = {}
    for number, each in enumerate(message.inputs):
        elements = unpack(each.name, each.datatype, raw[number]) if raw else _contents(each)
        tensors[each.name] = Tensor(each.name, each.datatype, tuple(each.shape), elements)
    parameters = {name: value_of(each) for name, each in message.parameters.items()}
    outputs = [each.name for each in message.outputs]
    return read_inference(message.id, tensors, parameters, outputs)


def value_of(parameter: pb.InferParameter) -> bool | int | float | str:
    """The value of a parameter. Raises InvalidRequest where it has none."""
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None:
        raise InvalidRequest("a parameter has no value; set one, or leave the parameter out")
    value: bool | int | float | str = getattr(parameter, choice)
    return value


def response(
    inference: Inference,
    model_name: str,
    outputs: Iterable[Output],
    parameters: Mapping[str, Any] | None = None,
) -> pb.ModelInferResponse:
    """An answer, or a piece of one, as a message. The elements are in `raw_output_contents`."""
    message = pb.ModelInferResponse(
        model_name=model_name, model_version=VERSION, id=inference.id, parameters=parameters
    )
    for each in outputs:
        message.outputs.add(name=each.name, datatype=each.datatype, shape=each.shape)
        message.raw_output_contents.append(each.data)
    return message


def _contents(tensor: pb.ModelInferRequest.InferInputTensor) -> list[Element]:
    """The elements in the typed fields of a tensor."""
    check_datatype(tensor.name, tensor.datatype)
    return list(getattr(tensor.contents, _CONTENTS[tensor.datatype]))
