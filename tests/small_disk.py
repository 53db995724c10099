"""A file system of its own that can really be filled: a tmpfs, mounted without being root."""

import shutil
import subprocess
from pathlib import Path

_BYTES = 2**30  # it takes no memory before something lies in it
_PAGE_BYTES = 4096
_TRIES = 100
# A mount namespace of this process; others find its tmpfs by way of /proc.
_HOLD = """
mount -t tmpfs -o size="$1" none /mnt && echo ready
while read -r size; do mount -o remount,size="$size" none /mnt && echo ready || echo failed; done
"""
# The second is for root where user namespaces are forbidden, the third for root in a chroot, where
# there is no mount of / whose propagation could be changed.
_NAMESPACES = (
    ("unshare", "--user", "--map-root-user", "--mount"),
    ("unshare", "--mount"),
    ("unshare", "--mount", "--propagation", "unchanged"),
)


class SmallDisk:
    """`with SmallDisk() as disk:`; everything in `disk.folder` is gone afterwards."""

    def __enter__(self) -> "SmallDisk":
        for namespace in _NAMESPACES:
            self._holder = subprocess.Popen(
                [*namespace, "sh", "-c", _HOLD, "sh", str(_BYTES)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            if self._is_done():
                self.folder = Path(f"/proc/{self._holder.pid}/root/mnt")
                return self
            self._holder.communicate()
        raise OSError("no file system could be mounted")

    def __exit__(self, *_: object) -> None:
        self._holder.communicate()  # it ends with its input

    def fill(self, room_bytes: int) -> None:
        """Leave so much room, rounded up to pages."""
        for _ in range(_TRIES):  # refused when more was written since its use was read
            pages = -(-(shutil.disk_usage(self.folder).used + room_bytes) // _PAGE_BYTES)
            if self._resize(pages * _PAGE_BYTES):
                return
        raise OSError("the size of the file system could not be changed")

    def empty(self) -> None:
        """Make room again."""
        assert self._resize(_BYTES)

    def _resize(self, size: int) -> bool:
        assert self._holder.stdin is not None  # it was opened as a pipe
        self._holder.stdin.write(f"{size}\n")
        self._holder.stdin.flush()
        return self._is_done()

    def _is_done(self) -> bool:
        assert self._holder.stdout is not None  # it was opened as a pipe
        return self._holder.stdout.readline() == "ready\n"


def can_mount() -> bool:
    """Whether this machine allows it."""
    try:
        with SmallDisk():
            return True
    except OSError:
        return False
