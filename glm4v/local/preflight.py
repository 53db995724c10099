"""What cannot work is found before anything is started, and said in the words of the options."""

import fcntl
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from glm4v.broker import Connection
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.errors import ConfigurationError, Overloaded, Unavailable
from glm4v.local.redis_launch import missing_bytes
from glm4v.process.listen_address import bind_error
from glm4v.process.settings import PROCESSES, LmSettings, read_settings


def check_settings(environment: Mapping[str, str]) -> None:
    """Read the settings of every process and the checkpoint's headers.

    Raises ConfigurationError and CheckpointError.
    """
    for kind in PROCESSES.values():
        read_settings(kind, environment)
    settings = read_settings(LmSettings, environment)
    spec = Checkpoint.open(settings.model).spec
    try:
        spec.check_ranks(settings.tensor_parallel)
    except ConfigurationError as error:
        raise ConfigurationError(f"--tensor-parallel: {error}") from None


def free_port(host: str) -> int:
    """One that nobody listens on now."""
    with _listen(host, 0) as listening:
        return int(listening.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Raises Unavailable when somebody listens there, or the host is none of this machine's."""
    reason = bind_error(host, port)
    if reason is not None:
        raise Unavailable(
            f"port {port} of {host} cannot be used ({reason}); choose another with --port, or "
            "another address of this machine with --host"
        )


def _listen(host: str, port: int) -> socket.socket:
    [family, _, _, _, address], *_ = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return socket.create_server(address[:2], family=family)


async def check_redis(url: str) -> None:
    """Raises Unavailable or ConfigurationError unless a Redis answers there."""
    connection = Connection(url)
    try:
        await connection.check()
    finally:
        await connection.close()


def check_disk(folder: Path) -> None:
    """Raises Overloaded where a server would refuse all writes."""
    missing = missing_bytes(folder)
    if missing:
        raise Overloaded(
            f"the disk of {folder} is nearly full: free {missing / 2**20:.0f} MiB more there, or "
            "choose a folder on another disk with --data-dir"
        )


def lock_folder(data_dir: Path) -> IO[str]:
    """Two servers on one append-only file would destroy it: who holds the lock may start one.

    Raises ConfigurationError for a folder that cannot be written, Unavailable for one in use.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (data_dir / "lock").open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--data-dir {data_dir}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise Unavailable(f"--data-dir {data_dir} is in use by another glm4v up") from None
    return lock
