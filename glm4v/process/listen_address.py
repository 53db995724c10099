"""The addresses that a process listens on."""

import os
import socket

from grpc import aio

from glm4v.errors import ConfigurationError, Unavailable


def bind(server: aio.Server, listen: str, variable: str) -> None:
    """Let a server listen on HOST:PORT or unix:/PATH, the value of a variable.

    Raises ConfigurationError for another form, and Unavailable, with the reason, where it cannot.
    """
    is_path = listen.startswith("unix:")
    # gRPC writes lines of its own about an address that it cannot have.
    reason = None if is_path else why_not(*_host_and_port(listen, variable))
    if reason is None:
        try:
            bound = server.add_insecure_port(listen)
        except RuntimeError:
            bound = 0
        if bound:
            return
        reason = "is the path too long, or in use?" if is_path else "gRPC does not say why"
    raise Unavailable(f"cannot listen on {listen} ({reason}); choose another with {variable}")


def why_not(host: str, port: int) -> str | None:
    """Why nobody can listen there now; None where one can, on one of the host's addresses."""
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


def _host_and_port(listen: str, variable: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise ConfigurationError(f"{variable} is {listen!r}; HOST:PORT or unix:/PATH is allowed")
    return host.removeprefix("[").removesuffix("]"), int(port)
