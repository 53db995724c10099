"""The folders of one run of the system: what it keeps, and the sockets of its processes."""

from pathlib import Path

from glm4v.errors import Unavailable
from glm4v.host.temporary_folder import TemporaryFolder
from glm4v.local.redis_server import check_socket_path

_SHORT = Path("/tmp")
_LONGEST_NAME = "vision_worker-9999.health"


class RuntimeFolder:
    """Exists until `close`. Raises Unavailable where no socket can be made.

    Attributes:
        path: For files; TMPDIR decides where.
    """

    def __init__(self) -> None:
        files = TemporaryFolder("up")
        self.path = files.path
        self._folders = [files]
        self._sockets = files.path
        try:
            check_socket_path(self.socket(_LONGEST_NAME))
        except Unavailable:  # TMPDIR may be as long as it likes, a socket's path may not
            sockets = TemporaryFolder("up", _SHORT)
            self._folders.append(sockets)
            self._sockets = sockets.path

    def socket(self, name: str) -> Path:
        """Where the process of that name listens."""
        return self._sockets / f"{name}.sock"

    def close(self) -> None:
        """Remove all."""
        for folder in self._folders:
            folder.close()
