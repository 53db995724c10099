"""What the paths under `/v2` say of server and model, in both dialects."""

from typing import Any

from gateway.doors.http.dialect import Dialect
from gateway.doors.kserve.model import (
    INPUTS,
    OUTPUTS,
    PLATFORM,
    SERVER,
    VERSION,
    TensorInfo,
    properties,
)
from glm4v.v1 import inference_pb2 as api

_EXTENSIONS = ["binary_tensor_data", "generate", "model_configuration", "parameters"]
_TYPES = {"BYTES": "TYPE_STRING", "BOOL": "TYPE_BOOL", "UINT32": "TYPE_UINT32"}
_MINDIE = "MindIE Server"  # its clients may look for this name


def server(model: api.GetModelResponse, dialect: Dialect) -> dict[str, Any]:
    """The server."""
    if dialect is Dialect.MINDIE:
        unknown = ("prefill_policy_type", "decode_policy_type", "max_prefill_batch_size")
        extensions = {
            "max_iter_times": model.context_tokens,
            **dict.fromkeys(unknown),
            "max_prefill_tokens": None,
        }
        return {"name": _MINDIE, "version": model.server_version, "extensions": extensions}
    return {"name": SERVER, "version": model.server_version, "extensions": _EXTENSIONS}


def metadata(model: api.GetModelResponse, dialect: Dialect) -> dict[str, Any]:
    """The tensors of a model."""
    if dialect is Dialect.MINDIE:
        return {
            "name": model.name,
            "versions": None,
            "platform": _MINDIE,
            "inputs": [{"name": "input0", "datatype": "UINT32", "shape": [-1]}],
            "outputs": [{"name": "output0", "datatype": "UINT32", "shape": [-1]}],
        }
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [_tensor(each) for each in INPUTS],
        "outputs": [_tensor(each) for each in OUTPUTS],
        "properties": properties(model),
    }


def config(model: api.GetModelResponse, dialect: Dialect) -> dict[str, Any]:
    """The configuration of a model."""
    if dialect is Dialect.MINDIE:
        unknown = ("npu_mem_size", "cpu_mem_size", "world_size", "model_weight_path")
        return {
            "model_name": model.name,
            "input_datatype": "UINT32",
            "output_datatype": "UINT32",
            "max_seq_len": model.context_tokens,
            **dict.fromkeys(unknown),
            "model_instance_type": None,
        }
    inputs = [_config(each) | {"optional": each.is_optional} for each in INPUTS]
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": 0,
        "input": inputs,
        "output": [_config(each) for each in OUTPUTS],
        "model_transaction_policy": {"decoupled": True},
    }


def _tensor(tensor: TensorInfo) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _config(tensor: TensorInfo) -> dict[str, Any]:
    datatype = _TYPES[tensor.datatype]
    return {"name": tensor.name, "data_type": datatype, "dims": list(tensor.shape)}
