"""Which tensors of a checkpoint hold what its configuration asks for, and which hold nothing."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from glm4v.checkpoint.formats import Format, Layout, StoredMatrix
from glm4v.checkpoint.spec import ModelSpec
from glm4v.checkpoint.tensor_place import FLOAT_BYTES, TensorPlace
from glm4v.checkpoint.tensor_shapes import OPTIONAL_TENSOR, expected_tensors
from glm4v.errors import CheckpointError

_FLOATS = ", ".join(FLOAT_BYTES)
_PROBE_BYTES = 4096  # of offsets
_LEAST_GROUP = 16  # columns: what the CPU's kernels compute with


def match_tensors(
    directory: Path, tensors: Mapping[str, TensorPlace], spec: ModelSpec, form: Format | None
) -> dict[str, StoredMatrix]:
    """How the quantized matrices of a checkpoint are stored, by the names of their weights.

    Raises CheckpointError for a tensor that is missing, surplus or of another shape or dtype.
    """
    quantized: dict[str, StoredMatrix] = {}
    surplus = set(tensors)
    for name, shape in expected_tensors(spec):
        stored = _stored(directory, tensors, name, shape, form)
        if stored is not None:
            assert form is not None
            quantized[name] = stored
            surplus -= {*_parts(stored), *form.extras(stored)}
        elif name in tensors:
            _check(name, tensors[name], shape)
            surplus.discard(name)
        elif name != OPTIONAL_TENSOR:
            raise CheckpointError(
                f"{directory}: tensor {name} {list(shape)} is missing from every weight file"
            )
    for name in sorted(surplus):
        if not _is_empty_bias(name, tensors[name], quantized):
            raise CheckpointError(
                f"{tensors[name].file}: tensor {name} is surplus: config.json has no place for it"
            )
    return quantized


def _stored(
    directory: Path,
    tensors: Mapping[str, TensorPlace],
    name: str,
    shape: tuple[int, ...],
    form: Format | None,
) -> StoredMatrix | None:
    if form is None or len(shape) != 2 or not name.endswith(".weight"):
        return None

    def look_up(tensor: str) -> tuple[str, tuple[int, ...]] | None:
        place = tensors.get(tensor)
        return None if place is None else (place.dtype, place.shape)

    try:
        stored = form.matrix(name, (shape[0], shape[1]), look_up)
        if stored is None:
            return None
        _check_parts(stored, tensors)
    except ValueError as error:
        raise CheckpointError(f"{directory}: quantized by {form.name}: {error}") from None
    return replace(stored, is_wide=_is_wide(stored, tensors))


def _is_wide(stored: StoredMatrix, tensors: Mapping[str, TensorPlace]) -> bool:
    """By the first of its offsets: symmetric files of some tools have offsets of 0."""
    if stored.offsets is None or stored.bits < 8:
        return False
    zero = 0 if stored.layout is Layout.PLAIN else 0x80 - stored.offset_added
    place = tensors[stored.offsets]
    with place.file.open("rb") as file:
        file.seek(place.start)
        return any(byte != zero for byte in file.read(min(_PROBE_BYTES, place.end - place.start)))


def _parts(stored: StoredMatrix) -> list[str]:
    parts = (stored.values, stored.scales, stored.offsets, stored.column_groups)
    return [part for part in parts if part is not None]


def _check_parts(stored: StoredMatrix, tensors: Mapping[str, TensorPlace]) -> None:
    """Raise ValueError unless all parts have dtypes that can be what they are named."""
    values, scales = tensors[stored.values], tensors[stored.scales]
    if values.dtype not in ("I8", "I32"):
        raise ValueError(f"{stored.values} has dtype {values.dtype}; integers are needed")
    if scales.dtype not in FLOAT_BYTES:
        raise ValueError(f"{stored.scales} has dtype {scales.dtype}; {_FLOATS} are needed")
    _check_offsets(stored, tensors)
    if stored.group < stored.columns and stored.group % _LEAST_GROUP:
        raise ValueError(
            f"groups of {stored.group} columns are not read; multiples of {_LEAST_GROUP} are"
        )
    if values.dtype == "I8" and values.shape != stored.shape:
        raise ValueError(f"{stored.values} has shape {list(values.shape)}, not {stored.shape}")


def _check_offsets(stored: StoredMatrix, tensors: Mapping[str, TensorPlace]) -> None:
    if stored.offsets is None:
        return
    offsets, scales = tensors[stored.offsets], tensors[stored.scales]
    dtypes, shape = (*FLOAT_BYTES, "I8"), scales.shape
    if stored.layout is not Layout.PLAIN:
        dtypes, words = ("I32",), 32 // stored.bits
        packed = -(-stored.rows // words)
        groups = -(-stored.columns // stored.group)
        shape = (packed, groups) if stored.layout is Layout.PACKED else (groups, packed)
    if offsets.dtype not in dtypes or offsets.shape != shape:
        raise ValueError(
            f"{stored.offsets} is {offsets.dtype} {list(offsets.shape)}, not one of "
            f"{', '.join(dtypes)} {list(shape)}"
        )


def _check(name: str, place: TensorPlace, shape: tuple[int, ...]) -> None:
    if place.dtype not in FLOAT_BYTES:
        raise CheckpointError(
            f"{place.file}: {name} has dtype {place.dtype}; {_FLOATS} can be read"
        )
    if place.shape != shape:
        raise CheckpointError(
            f"{place.file}: tensor {name} has shape {list(place.shape)}; "
            f"config.json asks for {list(shape)}"
        )


def _is_empty_bias(name: str, place: TensorPlace, quantized: Mapping[str, StoredMatrix]) -> bool:
    """Whether this is a bias of zeros, which packers of GPTQ give to layers that have none."""
    if not name.endswith(".bias") or name.removesuffix("bias") + "weight" not in quantized:
        return False
    with place.file.open("rb") as file:
        file.seek(place.start)
        return not any(file.read(place.end - place.start))
