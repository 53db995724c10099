"""Whether a file was replaced or written since it was read."""

from pathlib import Path


def file_version(path: Path) -> object:
    """What changes when a file does, also one behind links; None without a file.

    Kubernetes updates a mounted secret by a link to another folder.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
