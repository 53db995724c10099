"""Becomes a Redis server, at each of its starts: `redis_launch.py FOLDER OPTIONS PROGRAM …`.

Removes what rewrites that were killed have left in its folder. Where the disk is nearly full, the
server also gets OPTIONS, one word, with which it refuses writes; `disk_guard` takes them back.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

_LEFT_OVER = ("temp-*.aof", "temp-*.rdb", "appendonlydir/temp-*")
_RESERVE_BYTES = 64 * 2**20
_RESERVE_SHARE = 10  # of small disks: a tenth


def missing_bytes(folder: Path) -> int:
    """How much more room the disk of a folder should have; above 0 it is nearly full.

    What it should have is more than is written between two looks at it.
    """
    usage = shutil.disk_usage(folder)
    return max(0, min(_RESERVE_BYTES, usage.total // _RESERVE_SHARE) - usage.free)


def remove_left_over(folder: Path) -> None:
    """Remove temporary files of rewrites: no server runs here now."""
    for pattern in _LEFT_OVER:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def launched(folder: Path, command: list[str], when_nearly_full: Mapping[str, str]) -> list[str]:
    """The command that runs `command` (an absolute path first) this way."""
    options = " ".join(f"--{name} {value}" for name, value in when_nearly_full.items())
    return [sys.executable, "-I", "-S", __file__, str(folder), options, *command]


def main(folder: Path, options: str, command: list[str]) -> None:
    """Does not return."""
    remove_left_over(folder)
    if missing_bytes(folder):
        command = [*command, *options.split()]  # the last ones count
    os.execv(command[0], command)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
