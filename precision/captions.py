"""Caption files, `{"<file name>": "<caption>"}`: what MindIE's guide calls `predict_result.json`.

JSON in UTF-8 with the names in order. Every write replaces the whole file at once and is on the
disk when it returns, so that a process killed at any moment leaves the captions before or after it.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glm4v.client.conversation_file import read_file
from glm4v.errors import ConfigurationError, InvalidRequest

_MODE = 0o644  # of a new file, less the umask


def read_captions(path: Path) -> dict[str, str]:
    """The captions of a file, by image name.

    Raises InvalidRequest, with the file and the name in it, for anything that is not a caption.
    """
    data = read_file(path, "captions")
    try:
        document = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_without_repetition)
    except _Repeated as error:
        raise InvalidRequest(f"{path} has two captions of {error}; keep one") from None
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is not a JSON file: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest(
            f'{path} holds no captions; they are written {{"image.jpg": "a caption", …}}'
        )
    for name, caption in document.items():
        _check(path, name, caption)
    return document


def merge_captions(path: Path, captions: Mapping[str, str]) -> dict[str, str]:
    """Write captions into a file, in place of those it has of the same images; return all of it.

    The file need not exist. Raises InvalidRequest if what is there is no caption file, and
    ConfigurationError if it cannot be written; the file is then as it was.
    """
    for name, caption in captions.items():
        _check(path, name, caption)
    former = read_captions(path) if path.exists() else {}
    merged = dict(sorted({**former, **captions}.items()))
    text = json.dumps(merged, ensure_ascii=False, indent=4)
    replace_file(path, f"{text}\n".encode())
    return merged


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` in a file's place, at once and on the disk. A link keeps leading to its file.

    Raises ConfigurationError if that cannot be done.
    """
    target = Path(os.path.realpath(path))
    try:
        _replace(target, data)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}); choose another place"
        ) from None


class _Repeated(Exception):
    """A name that stands twice in one object."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Repeated(repr(name))
        found[name] = value
    return found


def _check(path: Path, name: str, caption: object) -> None:
    if not name:
        raise InvalidRequest(f"{path}: a caption has no image name")
    if not isinstance(caption, str):
        kind = type(caption).__name__
        raise InvalidRequest(f"{path}: the caption of {name!r} is no text ({kind})")
    try:
        f"{name}{caption}".encode()
    except UnicodeEncodeError:  # a half of a surrogate pair, which JSON can spell
        raise InvalidRequest(f"{path}: {name!r} or its caption is no valid Unicode") from None


def _replace(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), _mode(path))
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, is on the disk
    finally:
        os.close(folder)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o7777
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return _MODE & ~umask
