"""Checks before a cluster starts, with errors in terms of the command's options."""

import fcntl
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from glm4v.api_keys.key_file import read_key_files
from glm4v.broker import Connection
from glm4v.broker.redis_url import with_credentials
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.errors import ConfigurationError, Overloaded, Unavailable
from glm4v.local.redis_launch import missing_bytes
from glm4v.process.environment import PROCESSES, read_settings, variable_of
from glm4v.process.exposure import check_exposure
from glm4v.process.listen_address import bind_error
from glm4v.process.settings import GatewaySettings, LmSettings


def check_settings(environment: Mapping[str, str]) -> tuple[LmSettings, Checkpoint]:
    """Read the settings of every process, those of language workers for the caller too, and the
    checkpoint's headers.

    Raises ConfigurationError and CheckpointError.
    """
    for kind in PROCESSES.values():
        read_settings(kind, environment)
    settings = read_settings(LmSettings, environment)
    checkpoint = Checkpoint.open(settings.model)
    try:
        checkpoint.spec.check_ranks(settings.tensor_parallel)
    except ConfigurationError as error:
        raise ConfigurationError(f"--tensor-parallel: {error}") from None
    return settings, checkpoint


def check_callers(environment: Mapping[str, str], listen: str) -> None:
    """Check who may call a gateway that listens on an address. Raises ConfigurationError."""
    settings = read_settings(GatewaySettings, environment)
    check_exposure(settings, listen)
    if settings.api_keys is not None:
        read_key_files(settings.api_keys)


def free_port(host: str) -> int:
    """A port of a host that is free now."""
    with _listen(host, 0) as listening:
        return int(listening.getsockname()[1])


def check_port(host: str, port: int, option: str = "--port") -> None:
    """Raises Unavailable if a port is in use, or the host is not an address of this machine."""
    reason = bind_error(host, port)
    if reason is not None:
        raise Unavailable(
            f"port {port} of {host} cannot be used ({reason}); choose another with {option}, or "
            "another address of this machine with --host"
        )


def _listen(host: str, port: int) -> socket.socket:
    [family, _, _, _, address], *_ = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return socket.create_server(address[:2], family=family)


async def check_redis(url: str) -> None:
    """Raises Unavailable or ConfigurationError unless Redis answers at a URL, with the credentials
    of the environment."""
    account = (os.environ.get(variable_of(f"redis_{part}")) for part in ("username", "password"))
    connection = Connection(with_credentials(url, *account))
    try:
        await connection.check()
    finally:
        await connection.close()


def check_disk(folder: Path) -> None:
    """Raises Overloaded if Redis would refuse all writes for lack of disk space."""
    missing = missing_bytes(folder)
    if missing:
        raise Overloaded(
            f"the disk of {folder} is nearly full: free {missing / 2**20:.0f} MiB more there, or "
            "choose a folder on another disk with --data-dir"
        )


def lock_folder(data_dir: Path) -> IO[str]:
    """Lock a data folder: two servers would destroy its append-only file.

    Raises ConfigurationError if it is not writable, Unavailable if it is in use.
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
