"""Who calls: the one place where an HTTP request gets its `Caller`."""

from starlette.requests import HTTPConnection, Request
from starlette.types import Scope

from gateway.access.caller import Caller
from glm4v.process.peer import host_of, peer_of


def caller(request: Request) -> Caller:
    """The caller of a request: anonymous, and one client for each host. A dependency."""
    return Caller(client=host_of(peer(request.scope)))


def peer(scope: Scope) -> str:
    """The peer of a request in gRPC's notation; "unix:" for a Unix socket."""
    client = HTTPConnection(scope).client
    return "unix:" if client is None else peer_of(client.host, client.port)
