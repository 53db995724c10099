"""Tells the clients of a server apart: by the name that they have proven, otherwise by host.

A host is an IPv4 address or, in IPv6, a network of 64 bits, the smallest that a client is given.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any
from urllib.parse import quote, unquote

from grpc import aio

# Of the call that the current task handles; its listener sets it.
OWNER: ContextVar[str] = ContextVar("owner", default="")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who makes a call.

    Attributes:
        connection: In gRPC's notation, `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000`.
        owner: The name that it has proven; empty for an anonymous caller.
    """

    connection: str
    owner: str = ""

    @property
    def host(self) -> str:
        """The host; empty without one, as for a Unix socket."""
        kind, _, address = self.connection.partition(":")
        host = unquote(address).rpartition(":")[0].strip("[]")
        if kind == "ipv4":
            return host
        if kind != "ipv6":
            return ""
        network = IPv6Network((IPv6Address(host.partition("%")[0]).packed, 64), strict=False)
        return str(network)

    @property
    def client(self) -> str:
        """Whom its calls are charged to; empty if that is unknown."""
        return f"owner {self.owner}" if self.owner else self.host


def peer_of(context: "aio.ServicerContext[Any, Any]") -> Peer:
    """Who makes the call of a gRPC context; for the task that handles it."""
    return Peer(context.peer(), OWNER.get())


def connection_of(address: str, port: int) -> str:
    """A connection in gRPC's notation, from the address and port of its socket."""
    return f"ipv6:{quote(f'[{address}]')}:{port}" if ":" in address else f"ipv4:{address}:{port}"
