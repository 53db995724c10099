"""Finds out by which tool a checkpoint was quantized; refuses what is not read by its name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from glm4v.checkpoint.files import read_json_object
from glm4v.checkpoint.formats.compressed_tensors import CompressedTensors
from glm4v.checkpoint.formats.gptq import Gptq
from glm4v.checkpoint.formats.methods import INSTEAD, refusal
from glm4v.checkpoint.formats.msmodelslim import MsModelSlim
from glm4v.checkpoint.formats.stored_matrix import Lookup, StoredMatrix
from glm4v.errors import CheckpointError


class Format(Protocol):
    """How one tool stores quantized matrices."""

    @property
    def name(self) -> str:
        """For people: the tool, bits and groups."""

    @property
    def stems(self) -> tuple[str, ...]:
        """How the names of weight files begin; the first that exists counts."""

    def matrix(self, name: str, shape: tuple[int, int], lookup: Lookup) -> StoredMatrix | None:
        """How the weight `name` is stored; None where it is not quantized.

        Raises ValueError for tensors that do not fit each other.
        """

    def extras(self, matrix: StoredMatrix) -> tuple[str, ...]:
        """Names of tensors that the tool may leave beside those of a matrix: none is read."""


def find_format(directory: Path) -> Format | None:
    """The format of the checkpoint; None for one that is not quantized.

    Raises CheckpointError for one that is quantized in a way that is not read, by its name.
    """
    slim = MsModelSlim.find(directory)
    if slim is not None:
        return slim
    path, found = _configuration(directory)
    if found is None:
        return None
    method = str(found.get("quant_method") or _method_without_a_name(found)).lower()
    try:
        if method == "compressed-tensors":
            return CompressedTensors.of(found)
        if method == "gptq" or _is_packed_as_gptq(method, found):
            return Gptq.of(found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: quantized by {method}: {_text(error)}") from None
    raise CheckpointError(f"{path}: {refusal(method)}")


def _configuration(directory: Path) -> tuple[Path, Mapping[str, Any] | None]:
    """What describes the quantization, and its file: AutoGPTQ used to write one of its own."""
    path = directory / "config.json"
    config = read_json_object(path)
    for name in ("quantization_config", "compression_config"):
        if config.get(name) is not None:
            if not isinstance(config[name], dict):
                raise CheckpointError(f"{path}: {name} is not an object")
            return path, config[name]
    if config.get("quantize") not in (None, "float"):
        raise CheckpointError(
            f"{path}: quantize is {config['quantize']!r}, but there is no "
            f"quant_model_description.json: copy all that msmodelslim wrote, or {INSTEAD}"
        )
    own = directory / "quantize_config.json"
    return (own, read_json_object(own)) if own.exists() else (path, None)


def _method_without_a_name(found: Mapping[str, Any]) -> str:
    if "load_in_4bit" in found or "load_in_8bit" in found:
        return "bitsandbytes"
    if "config_groups" in found:
        return "compressed-tensors"
    return "gptq" if "bits" in found and "desc_act" in found else "an unnamed method"


def _is_packed_as_gptq(method: str, found: Mapping[str, Any]) -> bool:
    """auto-round says in which of several packings it wrote."""
    packing = str(found.get("packing_format") or found.get("backend") or "")
    return method.endswith("auto-round") and "gptq" in packing


def _text(error: Exception) -> str:
    if isinstance(error, ValueError):
        return str(error)
    return f"its description is not understood ({error!r}); {INSTEAD}"
