"""A checkpoint on disk: its files and its tensors, all checked before any weight is read.

Works without torch, so that the gateway can check too; `weights` reads the tensors.
Layout of the published THUDM/glm-4v-9b: config.json, model.safetensors.index.json, 15 shards.
"""

import hashlib
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from glm4v.checkpoint.files import read_json_object
from glm4v.checkpoint.formats import StoredMatrix, find_format
from glm4v.checkpoint.formats.methods import refusal
from glm4v.checkpoint.generation_config import token_ids
from glm4v.checkpoint.matching import match_tensors
from glm4v.checkpoint.spec import ModelSpec, read_spec
from glm4v.checkpoint.tensor_place import TensorPlace, read_header
from glm4v.checkpoint.tensor_shapes import WORD_EMBEDDINGS, expected_tensors
from glm4v.errors import CheckpointError

log = logging.getLogger(__name__)

_STEM = "model"  # of the names of weight files
_PROBE_BYTES = 4096  # of each tensor that go into the fingerprint


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checked checkpoint."""

    directory: Path
    spec: ModelSpec
    tensors: dict[str, TensorPlace]
    fingerprint: str  # hex digest of the model's numbers and of both ends of every tensor
    quantized: Mapping[str, StoredMatrix] = field(default_factory=dict)  # by name of the weight
    quantized_by: str = ""  # a tool, for people

    @classmethod
    def open(cls, directory: Path) -> "Checkpoint":
        """Check everything that can be checked without reading weights.

        Raises CheckpointError, one line naming the file and the tensor.
        """
        if not directory.is_dir():
            raise CheckpointError(f"{directory}: no such directory")
        _refuse_lone_adapter(directory)
        spec = read_spec(directory)
        form = find_format(directory)
        tensors: dict[str, TensorPlace] = {}
        for file, listed in _shards(directory, form.stems if form else (_STEM,)).items():
            found = read_header(file)
            if listed is not None:
                _compare_listing(file, listed, set(found))
            tensors |= found
        quantized = match_tensors(directory, tensors, spec, form)
        fingerprint = _fingerprint(_numbers(directory, spec), tensors)
        name = form.name if form and quantized else ""
        return cls(directory, spec, tensors, fingerprint, quantized, name)

    @property
    def name(self) -> str:
        """What the checkpoint is called: its folder's name."""
        return os.fsencode(self.directory.resolve().name).decode(errors="replace")

    def shape(self, name: str) -> tuple[int, ...]:
        """That of the weight or other tensor `name`, quantized or not."""
        stored = self.quantized.get(name)
        return self.tensors[name].shape if stored is None else stored.shape

    def is_bfloat16(self, *, vision: bool) -> bool:
        """Whether bfloat16 holds the matrices of the vision tower, or of the language model, as
        they are. Norms and biases are kept in the dtype of the arithmetic and do not count, and
        quantized matrices have a dtype of their own.
        """
        return all(
            self.tensors[name].dtype == "BF16"
            for name in self._names(vision=vision)
            if name not in self.quantized and len(self.shape(name)) > 1
        )

    def values(self, *, vision: bool) -> int:
        """Number of values in the tensors of the vision tower, or of the language model."""
        return sum(math.prod(self.shape(name)) for name in self._names(vision=vision))

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Shapes [rows, columns] of the matrices that the language model multiplies with."""
        shapes = {name: self.shape(name) for name in self._names(vision=False)}
        return {
            name: (shape[0], shape[1])
            for name, shape in shapes.items()
            if len(shape) == 2 and name != WORD_EMBEDDINGS
        }

    def _names(self, *, vision: bool) -> Iterator[str]:
        """The tensors that a checkpoint which is not quantized would have."""
        for name, _ in expected_tensors(self.spec):
            if _is_vision(name) == vision and (name in self.tensors or name in self.quantized):
                yield name

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
        (directory / name).exists() for name in _names(_STEM)
    ):
        raise CheckpointError(
            f"{directory}: an adapter without its model; merge it into the model it was trained "
            "on (merge_and_unload() of peft), and save that"
        )


def _names(stem: str) -> tuple[str, str]:
    """What weights are called that lie in one file, and the index of several."""
    return f"{stem}.safetensors", f"{stem}.safetensors.index.json"


def _shards(directory: Path, stems: Sequence[str]) -> dict[Path, set[str] | None]:
    """The weight files, each with the tensors its index lists (None where there is no index).

    Of `stems`, the first one with files counts. A single file comes before an index, as in
    `from_pretrained` of transformers 4.48.3, whose `save_pretrained` leaves the index of earlier
    shards in the folder.
    """
    pairs = [[directory / name for name in _names(stem)] for stem in stems]
    present = (pair for pair in pairs if any(path.exists() for path in pair))
    single, index = next(present, pairs[0])
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
    single, index = _names(_STEM)
    if any(directory.glob("*.gguf")):
        return f"no {single} either; {refusal('gguf')}"
    if any(directory.glob("pytorch_model*.bin*")):
        return (
            f"no {single} either; pickled weights (pytorch_model*.bin) are never read: load them "
            "with transformers and save them by save_pretrained(..., safe_serialization=True)"
        )
    if any(directory.glob("model-*-of-*.safetensors")):
        return f"the model-*-of-*.safetensors need it: copy the {index} that belongs to them"
    return f"no {single} either"


def _compare_listing(file: Path, listed: set[str], found: set[str]) -> None:
    for name in sorted(listed - found):
        raise CheckpointError(f"{file}: tensor {name} is missing, though the index lists it here")
    for name in sorted(found - listed):
        raise CheckpointError(f"{file}: tensor {name} is not listed in the index")


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
