"""The addresses that a process listens on."""

import os
import socket
from ipaddress import ip_address
from urllib.parse import unquote

import grpc
from grpc import aio

from glm4v.errors import ConfigurationError, Unavailable

_BACKLOG = 1024  # connections that wait to be accepted; Linux allows at most net.core.somaxconn


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


def listening_sockets(address: str, variable: str) -> list[socket.socket]:
    """Sockets that listen on HOST:PORT, one for each address of the host, or on unix:/PATH.

    Raises as `bind`.
    """
    try:
        if address.startswith("unix:"):
            return [_unix_socket(unquote(address.removeprefix("unix:")))]
        host, port = _host_and_port(address, variable)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        opened: list[socket.socket] = []
        for family, _, _, _, name in found:
            # Port 0 is any free port: the same one for all addresses.
            free = opened[0].getsockname()[1] if opened else name[1]
            opened.append(socket.create_server((name[0], free), family=family, backlog=_BACKLOG))
        return opened
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise Unavailable(
            f"cannot listen on {address} ({reason}); set {variable} to another address"
        ) from None


def _unix_socket(path: str) -> socket.socket:
    """A socket at a path; one that a process left there is replaced."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            listening.bind(path)
        except OSError:
            if _is_answered(path):
                raise
            os.unlink(path)
            listening.bind(path)
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _is_answered(path: str) -> bool:
    """Whether something listens at a path, or it is no socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trying:
        try:
            trying.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True


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


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT or unix:/PATH can be reached from this machine only.

    False for a host that has no address, and for what is no address at all.
    """
    if address.startswith("unix:"):
        return True
    host = (address.rpartition(":")[0] or address).removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    return all(ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in found)


def _host_and_port(address: str, variable: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise ConfigurationError(f"{variable} is {address!r}; HOST:PORT or unix:/PATH is allowed")
    return host.removeprefix("[").removesuffix("]"), int(port)
