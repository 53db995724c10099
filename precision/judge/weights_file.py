"""What a file of weights is. open_clip goes by its name, and what torch says of others misleads."""

import pickle
import zipfile
from pathlib import Path

from glm4v.errors import CheckpointError

_ADVICE = "save the bare state dict, as model.state_dict() or in a .safetensors file"
_OTHERS = (  # first bytes
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, not the weights: fetch them (git lfs pull)",
    ),
    (b"GGUF", "a GGUF file, which open_clip does not read"),
    (b"\x1f\x8b", "compressed with gzip: unpack it"),
    (b"\x89HDF", "an HDF5 file, which open_clip does not read"),
    (b"<", "a web page or XML, not weights: download the file itself"),
)


def check_weights_file(path: Path) -> None:
    """Raise CheckpointError, with what the file is, unless open_clip reads it as what it is."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        hint = f"; a folder is given as local-dir:{path}" if path.is_dir() else ""
        raise CheckpointError(
            f"the judge's weights {path} cannot be read ({error.strerror}){hint}"
        ) from None
    is_named_safetensors = path.suffix == ".safetensors"
    kind = _kind(path, head)
    if kind == "safetensors":
        if not is_named_safetensors:
            raise CheckpointError(
                f"{path} is a safetensors file by its content: name it {path.stem}.safetensors"
            )
    elif kind != "torch":
        raise CheckpointError(f"the judge's weights {path} are {kind}")
    elif is_named_safetensors:
        raise CheckpointError(
            f"{path} is a file of torch.save by its content: name it {path.stem}.bin"
        )


def explained(path: Path, model: str, error: Exception) -> CheckpointError:
    """The error for weights that open_clip could not load into the architecture `model`."""
    if isinstance(error, pickle.UnpicklingError):
        return CheckpointError(
            f"{path} holds Python objects beside tensors, as checkpoints of training do, and these "
            f"are never loaded: {_ADVICE}"
        )
    first = f"{error}".strip().splitlines()
    reason = " ".join(line.strip() for line in first[:2])[:300]
    return CheckpointError(
        f"{path} does not hold the weights of {model} ({reason}): choose the architecture with "
        f"--model-name, or {_ADVICE}"
    )


def _kind(path: Path, head: bytes) -> str:
    """ "torch", "safetensors", or in words what the file is."""
    if not head:
        return "empty: download the file again"
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_archive(path)
    if head.startswith(b"\x80") and head[1:2] in b"\x02\x03\x04\x05":  # a pickle, of older torches
        return "torch"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    for start, kind in _OTHERS:
        if head.lstrip().startswith(start):
            return kind
    return f"of no format that is known here (the file begins with {head[:8].hex(' ')})"


def _kind_of_archive(path: Path) -> str:
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, OSError):
        return "cut off: download the file again"
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends:  # OpenAI's own files
        return f"a TorchScript archive, which is a program and is never run: {_ADVICE}"
    return "torch" if "data.pkl" in ends else "a ZIP archive, not weights: unpack it"
