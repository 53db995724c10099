"""Key files for tests."""

from pathlib import Path

from glm4v.api_keys.key import KeyEntry, digest_of, new_key
from glm4v.api_keys.key_file import changed_key_file


def add_key(path: Path, name: str) -> str:
    """Add a key to a file; returns it."""
    key = new_key()
    with changed_key_file(path) as entries:
        entries.append(KeyEntry(name, digest_of(key) or ""))
    return key


def revoke_keys(path: Path, name: str) -> None:
    """Remove all keys of a name from a file."""
    with changed_key_file(path) as entries:
        entries[:] = [each for each in entries if each.name != name]
