"""Starts a Redis server: `redis_launch.py FOLDER OPTIONS PROGRAM …`, run at each start.

Removes temporary files that killed rewrites left in its folder. If the disk is nearly full, the
server also gets OPTIONS, one word, with which it refuses writes; `disk_guard` reverts them.
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
    """Bytes that the disk of a folder lacks to its reserve; above 0 it is nearly full.

    The reserve is more than is written between two checks.
    """
    usage = shutil.disk_usage(folder)
    return max(0, min(_RESERVE_BYTES, usage.total // _RESERVE_SHARE) - usage.free)


def remove_left_over(folder: Path) -> None:
    """Remove temporary files of rewrites; no server may be running on the folder."""
    for pattern in _LEFT_OVER:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def launch_command(
    folder: Path, command: list[str], when_nearly_full: Mapping[str, str]
) -> list[str]:
    """The command that runs `command` (an absolute path first) through this program."""
    options = " ".join(f"--{name} {value}" for name, value in when_nearly_full.items())
    return [sys.executable, "-I", "-S", __file__, str(folder), options, *command]


def main(folder: Path, options: str, command: list[str]) -> None:
    """Become the server; does not return."""
    remove_left_over(folder)
    if missing_bytes(folder):
        command = [*command, *options.split()]  # the last ones take precedence
    os.execv(command[0], command)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
