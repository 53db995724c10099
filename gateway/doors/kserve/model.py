"""The model as the Open Inference Protocol describes one: versions and tensors."""

from dataclasses import dataclass

from gateway.doors.kserve.tensors import BYTES
from glm4v.errors import UnknownReference
from glm4v.v1 import inference_pb2 as api

SERVER = "glm4v-serve"
PLATFORM = "glm4v"
VERSION = "1"  # the only one; weights have a fingerprint

TEXT_INPUT, IMAGE = "text_input", "image"
SAMPLING_PARAMETERS, STOP = "sampling_parameters", "stop"
TEXT_OUTPUT, FINISH_REASON = "text_output", "finish_reason"
INPUT_TOKENS, OUTPUT_TOKENS = "num_input_tokens", "num_output_tokens"

# Inputs of type BOOL, by the names of Triton's vLLM backend, and the output that each asks for.
FLAGS = {
    "stream": "",
    "exclude_input_in_output": "",
    "return_finish_reason": FINISH_REASON,
    "return_num_input_tokens": INPUT_TOKENS,
    "return_num_output_tokens": OUTPUT_TOKENS,
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor that requests or answers may have; -1 in a shape is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...] = (1,)
    is_optional: bool = True


INPUTS = (
    TensorInfo(TEXT_INPUT, BYTES, is_optional=False),
    TensorInfo(IMAGE, BYTES),
    TensorInfo(SAMPLING_PARAMETERS, BYTES),
    TensorInfo(STOP, "BOOL"),
    *(TensorInfo(flag, "BOOL") for flag in FLAGS),
)
OUTPUTS = (
    TensorInfo(TEXT_OUTPUT, BYTES, (-1,)),
    TensorInfo(FINISH_REASON, BYTES, (-1,)),
    TensorInfo(INPUT_TOKENS, "UINT32"),
    TensorInfo(OUTPUT_TOKENS, "UINT32", (-1,)),
)


def check_model(model: api.GetModelResponse, name: str, version: str) -> None:
    """Refuse the name of another model and a version that does not exist: UnknownReference."""
    if name != model.name:
        raise UnknownReference(f"model {name!r} is not served here; ask for {model.name!r}")
    if version not in ("", VERSION):
        raise UnknownReference(
            f"model {name!r} has no version {version!r}; ask for {VERSION!r}, or leave it out"
        )


def properties(model: api.GetModelResponse) -> dict[str, str]:
    """Limits of the model, as text."""
    return {
        "context_tokens": str(model.context_tokens),
        "image_tokens": str(model.image_tokens),
        "max_image_bytes": str(model.max_image_bytes),
        "fingerprint": model.fingerprint,
    }
