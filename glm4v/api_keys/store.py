"""The API keys that a gateway accepts, read again when their files change."""

import asyncio
import logging
from pathlib import Path

import anyio.to_thread

from glm4v.api_keys.key import KeyEntry, digest_of
from glm4v.api_keys.key_file import key_files, read_key_files
from glm4v.errors import ConfigurationError
from glm4v.host.file_version import file_version

log = logging.getLogger(__name__)

CHECK_S = 1.0  # between two looks at the files
_TRIES = 3  # to read files that are being replaced


class ApiKeys:
    """The keys of a file, or of the files of a folder, such as a mounted secret.

    Raises ConfigurationError for files that cannot be used at first. Later the former keys stay in
    use until they can.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[str, str] = {}  # of holders, by digest
        self._version: object = None
        self._use(*self._read())
        if not self._names:
            log.warning("%s has no key: all calls are refused", path)

    def name_of(self, key: str) -> str | None:
        """The holder of a key; None for what is no key of ours.

        How long it takes says nothing about any key: what is compared are digests, and who does not
        know a key cannot choose how its digest begins.
        """
        digest = digest_of(key)
        return None if digest is None else self._names.get(digest)

    async def watch(self) -> None:
        """Use changed files, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            # In a thread: the files may be on a network.
            await anyio.to_thread.run_sync(self.reload, abandon_on_cancel=True)

    def reload(self) -> None:
        """Use the files as they are now, if they have changed."""
        version = _version(self._path)
        if version == self._version:
            return
        try:
            entries, version = self._read()
        except ConfigurationError as error:
            self._version = version
            log.error("API keys changed but cannot be used; the former keys stay: %s", error)
            return
        self._use(entries, version)
        log.info("API keys reloaded from %s: %d", self._path, len(entries))

    def _read(self) -> tuple[list[KeyEntry], object]:
        """Keys and version, though somebody may be replacing the files one by one."""
        for _ in range(_TRIES):
            version = _version(self._path)
            entries = read_key_files(self._path)
            if _version(self._path) == version:
                break
        return entries, version

    def _use(self, entries: list[KeyEntry], version: object) -> None:
        self._names = {entry.digest: entry.name for entry in entries}
        self._version = version


def _version(path: Path) -> object:
    try:
        return [(file, file_version(file)) for file in key_files(path)]
    except OSError:
        return None
