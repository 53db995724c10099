"""The temporary folders of one `glm4v up`: its files, and the sockets of its processes."""

from pathlib import Path

from glm4v.errors import Unavailable
from glm4v.host.temporary_folder import TemporaryFolder
from glm4v.local.redis_server import check_socket_path

_SHORT = Path("/tmp")
_LONGEST_NAME = "vision_worker-9999.health"


class RuntimeFolder:
    """Exists until `close`. Raises Unavailable if no socket can be created.

    Attributes:
        path: For files, in TMPDIR.
    """

    def __init__(self) -> None:
        files = TemporaryFolder("up")
        self.path = files.path
        self._folders = [files]
        self._sockets = files.path
        try:
            check_socket_path(self.socket(_LONGEST_NAME))
        except Unavailable:  # TMPDIR is too long for the path of a socket
            sockets = TemporaryFolder("up", _SHORT)
            self._folders.append(sockets)
            self._sockets = sockets.path

    def socket(self, name: str) -> Path:
        """The socket of the process of that name."""
        return self._sockets / f"{name}.sock"

    def close(self) -> None:
        """Remove the folders."""
        for folder in self._folders:
            folder.close()
