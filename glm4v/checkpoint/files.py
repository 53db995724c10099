"""Small files of a checkpoint, read whole, and files that say only where their content lies."""

import json
from pathlib import Path
from typing import Any

from glm4v.errors import CheckpointError

# How every pointer file of Git LFS begins. Source: docs/spec.md of git-lfs.
_LFS_START = b"version https://git-lfs"


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises FileNotFoundError, and CheckpointError for anything else that keeps it from being read.
    """
    try:
        content = path.read_bytes()
        refuse_lfs_pointer(path, content)
        value = json.loads(content)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a JSON object is needed")
    return value


def refuse_lfs_pointer(path: Path, start: bytes) -> None:
    """Raise CheckpointError when a file that begins with `start` is a Git LFS pointer."""
    if start.startswith(_LFS_START):
        raise CheckpointError(
            f"{path}: a Git LFS pointer, not the file itself; run 'git lfs install' and "
            "'git lfs pull' in the repository it was cloned from, or download the file"
        )
