"""Becomes a Redis server: `redis_launch.py FOLDER PROGRAM ARGUMENT…`, at each of its starts.

Removes what rewrites that were killed have left in its folder, and takes another way to the disk
where that is nearly full: with `appendfsync always` a server that cannot write ends, and would end
again after every start. With `no` it refuses writes until there is room, and goes on by itself.
`disk_guard` changes that back.
"""

import os
import shutil
import sys
from pathlib import Path

_LEFT_OVER = ("temp-*.aof", "temp-*.rdb", "appendonlydir/temp-*")
_RESERVE_BYTES = 256 * 2**20
_RESERVE_SHARE = 10  # of small disks: a tenth


def is_nearly_full(folder: Path) -> bool:
    """Whether the disk of a folder has less room than a second of writing may take."""
    usage = shutil.disk_usage(folder)
    return usage.free < min(_RESERVE_BYTES, usage.total // _RESERVE_SHARE)


def remove_left_over(folder: Path) -> None:
    """Remove temporary files of rewrites: no server runs here now."""
    for pattern in _LEFT_OVER:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def launched(folder: Path, command: list[str]) -> list[str]:
    """The command that runs `command` (an absolute path first) this way."""
    return [sys.executable, "-I", "-S", __file__, str(folder), *command]


def main(folder: Path, command: list[str]) -> None:
    """Does not return."""
    remove_left_over(folder)
    if is_nearly_full(folder):
        command = [*command, "--appendfsync", "no"]  # the last one counts
    os.execv(command[0], command)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
