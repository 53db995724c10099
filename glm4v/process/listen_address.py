"""The addresses that a process listens on."""

import os
import socket

import grpc
from grpc import aio

from glm4v.errors import ConfigurationError, Unavailable


def bind(
    server: aio.Server,
    address: str,
    variable: str,
    credentials: grpc.ServerCredentials | None = None,
) -> None:
    """Let a server listen on HOST:PORT or unix:/PATH, the value of an environment variable.

    Raises ConfigurationError for another form, and Unavailable, with the reason, where it cannot.
    """
    is_path = address.startswith("unix:")
    # gRPC gives no reason, but prints lines of its own.
    reason = None if is_path else bind_error(*_host_and_port(address, variable))
    if reason is None:
        try:
            if credentials is None:
                bound = server.add_insecure_port(address)
            else:
                bound = server.add_secure_port(address, credentials)
        except RuntimeError:
            bound = 0
        if bound:
            return
        reason = "is the path too long, or in use?" if is_path else "gRPC gives no reason"
    raise Unavailable(f"cannot listen on {address} ({reason}); set {variable} to another address")


def bind_error(host: str, port: int) -> str | None:
    """Why a port cannot be bound now; None when it can, on one of the host's addresses."""
    reason = "no address"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return str(error.strerror)
    for family, _, _, _, address in found:
        try:
            socket.create_server(address[:2], family=family).close()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
        else:
            return None
    return reason


def _host_and_port(address: str, variable: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise ConfigurationError(f"{variable} is {address!r}; HOST:PORT or unix:/PATH is allowed")
    return host.removeprefix("[").removesuffix("]"), int(port)
