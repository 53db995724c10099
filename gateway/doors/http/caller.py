"""Who calls: the one place where an HTTP request gets its `Caller`."""

from typing import Any

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.types import Scope

from gateway.access import trace_context
from gateway.access.caller import Caller
from glm4v.process.authentication_interceptor import Authenticate
from glm4v.process.http_protocol import CERTIFICATE
from glm4v.process.peer import Peer, connection_of


def caller(request: Request) -> Caller:
    """The caller of a request whose call has begun. A dependency."""
    peer: Peer = request.state.call.peer
    parent = trace_context.traceparent(request.headers.get(trace_context.HEADER))
    return Caller(peer.owner, client=peer.host, traceparent=parent)


def anonymous_peer(scope: Scope) -> Peer:
    """Who makes a request, before it has proven anything."""
    client = HTTPConnection(scope).client
    return Peer("unix:" if client is None else connection_of(client.host, client.port))


def authenticated_peer(scope: Scope, authenticate: Authenticate) -> Peer:
    """Who makes a request. Raises Unauthenticated."""
    state: dict[str, Any] = scope.get("state", {})
    authorization = Headers(scope=scope).getlist("authorization")
    return Peer(
        anonymous_peer(scope).connection, authenticate(authorization, state.get(CERTIFICATE))
    )
