"""A checkpoint on disk: its files and its tensors, all checked before any weight is read.

Works without torch, so that the gateway can check too; `weights` reads the tensors.
Layout of the published THUDM/glm-4v-9b: config.json, model.safetensors.index.json, 15 shards.
"""

import hashlib
import json
import logging
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glm4v.checkpoint.files import read_json_object, refuse_lfs_pointer
from glm4v.checkpoint.generation_config import token_ids
from glm4v.checkpoint.spec import ModelSpec, read_spec
from glm4v.checkpoint.tensor_shapes import OPTIONAL_TENSOR, WORD_EMBEDDINGS, expected_tensors
from glm4v.errors import CheckpointError

log = logging.getLogger(__name__)

DTYPE_BYTES = {"BF16": 2, "F16": 2, "F32": 4}
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
_POINTER_BYTES = 64  # enough to know a Git LFS pointer
_PROBE_BYTES = 4096  # of each tensor that go into the fingerprint


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where one tensor lies."""

    file: Path
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]
    start: int  # byte offset in the file
    end: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checked checkpoint."""

    directory: Path
    spec: ModelSpec
    tensors: dict[str, TensorPlace]
    fingerprint: str  # hex digest of the model's numbers and of both ends of every tensor

    @classmethod
    def open(cls, directory: Path) -> "Checkpoint":
        """Check everything that can be checked without reading weights.

        Raises CheckpointError, one line naming the file and the tensor.
        """
        if not directory.is_dir():
            raise CheckpointError(f"{directory}: no such directory")
        _refuse_lone_adapter(directory)
        spec = read_spec(directory)
        tensors: dict[str, TensorPlace] = {}
        for file, listed in _shards(directory).items():
            found = _read_header(file)
            if listed is not None:
                _compare_listing(file, listed, set(found))
            tensors |= found
        _compare_shapes(directory, tensors, spec)
        return cls(directory, spec, tensors, _fingerprint(_numbers(directory, spec), tensors))

    @property
    def name(self) -> str:
        """What the checkpoint is called: its folder's name."""
        return os.fsencode(self.directory.resolve().name).decode(errors="replace")

    def is_bfloat16(self, *, vision: bool) -> bool:
        """Whether bfloat16 holds the matrices of the vision tower, or of the language model, as
        they are. Norms and biases are kept in the dtype of the arithmetic and do not count.
        """
        return all(
            place.dtype == "BF16"
            for name, place in self.tensors.items()
            if len(place.shape) > 1 and _is_vision(name) == vision
        )

    def values(self, *, vision: bool) -> int:
        """Number of values in the tensors of the vision tower, or of the language model."""
        return sum(
            math.prod(place.shape)
            for name, place in self.tensors.items()
            if _is_vision(name) == vision
        )

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Shapes [rows, columns] of the matrices that the language model multiplies with."""
        return {
            name: (place.shape[0], place.shape[1])
            for name, place in self.tensors.items()
            if len(place.shape) == 2 and name != WORD_EMBEDDINGS and not _is_vision(name)
        }

    def stored_bytes(self, *, vision: bool) -> int:
        """Size of those tensors in the files."""
        return sum(
            place.end - place.start
            for name, place in self.tensors.items()
            if _is_vision(name) == vision
        )


def _is_vision(tensor: str) -> bool:
    return tensor.startswith("transformer.vision.")


def _refuse_lone_adapter(directory: Path) -> None:
    """Refuse what PEFT leaves when it saves an adapter without its model."""
    if (directory / "adapter_config.json").exists() and not any(
        (directory / name).exists() for name in (_SINGLE, _INDEX)
    ):
        raise CheckpointError(
            f"{directory}: an adapter without its model; merge it into the model it was trained "
            "on (merge_and_unload() of peft), and save that"
        )


def _shards(directory: Path) -> dict[Path, set[str] | None]:
    """The weight files, each with the tensors its index lists (None where there is no index).

    A single file comes before an index, as in `from_pretrained` of transformers 4.48.3, whose
    `save_pretrained` leaves the index of earlier shards in the folder.
    """
    index, single = directory / _INDEX, directory / _SINGLE
    if single.exists():
        if index.exists():
            log.warning("%s is read; %s beside it is not", single, index.name)
        return {single: None}
    try:
        weight_map = read_json_object(index)["weight_map"]
        entries = [(str(tensor), str(file)) for tensor, file in weight_map.items()]
    except FileNotFoundError:
        raise CheckpointError(f"{index}: no such file, and {_no_weights(directory)}") from None
    except (KeyError, AttributeError) as error:
        raise CheckpointError(f"{index}: not a safetensors index: {error!r}") from None
    shards: dict[Path, set[str] | None] = {}
    for tensor, file in entries:
        if Path(file).name != file:
            raise CheckpointError(f"{index}: {tensor} lies in {file!r}, which is not a plain name")
        listed = shards.setdefault(directory / file, set())
        assert listed is not None
        listed.add(tensor)
    return dict(sorted(shards.items()))


def _no_weights(directory: Path) -> str:
    """What is there in place of a single file and an index, and what to do about it."""
    if any(directory.glob("pytorch_model*.bin*")):
        return (
            f"no {_SINGLE} either; pickled weights (pytorch_model*.bin) are never read: load them "
            "with transformers and save them by save_pretrained(..., safe_serialization=True)"
        )
    if any(directory.glob("model-*-of-*.safetensors")):
        return f"the model-*-of-*.safetensors need it: copy the {_INDEX} that belongs to them"
    return f"no {_SINGLE} either"


def _read_header(file: Path) -> dict[str, TensorPlace]:
    """Parse a safetensors header: 8 bytes of length (little-endian), JSON, then the data.

    Source: the format description of the safetensors project.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(_POINTER_BYTES)
            refuse_lfs_pointer(file, start)
            length = int.from_bytes(start[:8], "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise CheckpointError(f"{file}: truncated: {size} bytes do not hold its header")
            stream.seek(8)
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        places = {name: _place(file, 8 + length, entry) for name, entry in header.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file, though the index lists it") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: not a safetensors file: {error!r}") from None
    for name, place in places.items():
        _check_place(name, place, size)
    return places


def _place(file: Path, data_start: int, entry: dict[str, Any]) -> TensorPlace:
    start, end = entry["data_offsets"]
    shape = tuple(int(n) for n in entry["shape"])
    return TensorPlace(
        file, str(entry["dtype"]), shape, data_start + int(start), data_start + int(end)
    )


def _check_place(name: str, place: TensorPlace, file_size: int) -> None:
    if place.dtype not in DTYPE_BYTES:
        raise CheckpointError(
            f"{place.file}: {name} has dtype {place.dtype}; {', '.join(DTYPE_BYTES)} can be read"
        )
    if place.end > file_size:
        raise CheckpointError(
            f"{place.file}: truncated: {name} ends at byte {place.end} of {file_size}"
        )
    if place.end - place.start != math.prod(place.shape) * DTYPE_BYTES[place.dtype]:
        raise CheckpointError(f"{place.file}: {name}: its shape does not fit its bytes")


def _compare_listing(file: Path, listed: set[str], found: set[str]) -> None:
    for name in sorted(listed - found):
        raise CheckpointError(f"{file}: tensor {name} is missing, though the index lists it here")
    for name in sorted(found - listed):
        raise CheckpointError(f"{file}: tensor {name} is not listed in the index")


def _compare_shapes(directory: Path, tensors: dict[str, TensorPlace], spec: ModelSpec) -> None:
    expected = dict(expected_tensors(spec))
    for name, shape in expected.items():
        place = tensors.get(name)
        if place is None:
            if name != OPTIONAL_TENSOR:
                raise CheckpointError(
                    f"{directory}: tensor {name} {list(shape)} is missing from every weight file"
                )
        elif place.shape != shape:
            raise CheckpointError(
                f"{place.file}: tensor {name} has shape {list(place.shape)}; "
                f"config.json asks for {list(shape)}"
            )
    for name in tensors.keys() - expected.keys():
        raise CheckpointError(
            f"{tensors[name].file}: tensor {name} is surplus: config.json has no place for it"
        )


def _numbers(directory: Path, spec: ModelSpec) -> str:
    """The model's numbers as every release writes them: those of two are in use during an update.

    End tokens and dtype are those of config.json, whatever generation_config.json corrects.
    """
    config = read_json_object(directory / "config.json")
    dtype = config.get("torch_dtype") or config.get("dtype") or "bfloat16"
    numbers = repr(replace(spec, eos_ids=token_ids(config.get("eos_token_id"))))
    return numbers.replace(", vision=", f", dtype={str(dtype)!r}, vision=")


def _fingerprint(numbers: str, tensors: dict[str, TensorPlace]) -> str:
    digest = hashlib.sha256(numbers.encode())
    for name in sorted(tensors):
        place = tensors[name]
        digest.update(f"{name} {place.dtype} {place.shape}".encode())
        with place.file.open("rb") as file:
            for at in (place.start, max(place.start, place.end - _PROBE_BYTES)):
                file.seek(at)
                digest.update(file.read(min(_PROBE_BYTES, place.end - at)))
    return digest.hexdigest()[:32]
