"""The SHA-256 of a checkpoint, and notes of checks that passed, so that a node makes one only once.

It is the digest of what `sha256sum` prints for the files that are read, in the order of their
names: config.json, generation_config.json, tokenizer.model, the index and the weights.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.errors import CheckpointError, ConfigurationError

_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "quant_model_description.json",
    "quant_model_weights.safetensors.index.json",
    "quantize_config.json",
    "tokenizer.model",
)
_READERS = 4  # files read at once; SHA-256 takes a core each


def checked_files(checkpoint: Checkpoint) -> list[Path]:
    """The files that processes read, by name."""
    small = {checkpoint.directory / name for name in _SMALL_FILES}
    weights = {place.file for place in checkpoint.tensors.values()}
    return sorted((path for path in small | weights if path.is_file()), key=lambda path: path.name)


def checksum(files: list[Path]) -> str:
    """The hex digest of all files. Raises CheckpointError for one that cannot be read."""
    with ThreadPoolExecutor(_READERS) as pool:
        lines = pool.map(_line, files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_once(files: list[Path], expected: str, notes: Path) -> bool:
    """Whether the files were read; False where a note in the folder `notes` says that they match.

    Processes that check at the same time wait for the first of them. Raises CheckpointError unless
    the files have the digest `expected`, and ConfigurationError where no note can be written.
    """
    with _locked(notes):
        note = notes / f"{expected}.json"
        state = json.dumps([_state(path) for path in files])
        if note.is_file() and note.read_text(encoding="utf-8") == state:
            return False
        check(files, expected)
        unfinished = note.with_suffix(".new")
        unfinished.write_text(state, encoding="utf-8")
        unfinished.rename(note)
        return True


def check(files: list[Path], expected: str) -> None:
    """Raise CheckpointError unless the files have the digest `expected`."""
    found = checksum(files)
    if found != expected:
        raise CheckpointError(
            f"{files[0].parent}: the SHA-256 is {found}, not {expected}: copy the checkpoint again"
        )


def _line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    return f"{digest}  {path.name}\n"


def _state(path: Path) -> list[str | int]:
    """What changes when somebody writes to the file."""
    found = path.stat()
    return [str(path), found.st_size, found.st_mtime_ns, found.st_ino]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: {error.strerror}; it must be a folder that user {os.geteuid()} can write to"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
