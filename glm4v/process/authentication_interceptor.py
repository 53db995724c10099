"""Lets only callers in that an authentication accepts, before their messages are received."""

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from glm4v.process.handler_interceptor import (
    Context,
    Handler,
    HandlerInterceptor,
    behaviour,
    handler_like,
    is_health_check,
)
from glm4v.process.peer import OWNER

_HEADER = "authorization"
_CERTIFICATE = "x509_pem_cert"  # of gRPC's authentication context

# From all values of `authorization` and the client's certificate in DER, or None, to the caller's
# name, empty for an anonymous caller. Raises Unauthenticated.
Authenticate = Callable[[Sequence[str], bytes | None], str]


def anonymous(authorization: Sequence[str], certificate: bytes | None) -> str:
    """Lets everybody in, and nobody has a name."""
    return ""


class AuthenticationInterceptor(HandlerInterceptor):
    """Health checks need no authentication. An ErrorInterceptor has to stand before this one.

    Each message of a call is authenticated, so that a call which sends one request after another
    ends when its key is revoked. The answer to a message that was received goes on.
    """

    def __init__(self, authenticate: Authenticate) -> None:
        self._authenticate = authenticate

    def wrap(self, handler: Handler, method: str) -> Handler:
        """See HandlerInterceptor."""
        if is_health_check(method):
            return handler
        handle = behaviour(handler)

        def authenticated(request: Any, context: Context) -> Any:
            OWNER.set(self._owner(context))
            if handler.request_streaming:
                request = _Messages(request, lambda: self._owner(context))
            return handle(request, context)

        return handler_like(handler, authenticated)

    def _owner(self, context: Context) -> str:
        metadata = context.invocation_metadata() or ()
        values = [str(value) for key, value in metadata if key == _HEADER]
        return self._authenticate(values, _certificate(context))


class _Messages:
    """The messages of a call, each checked. Keeps none of them."""

    def __init__(self, requests: AsyncIterator[Any], check: Callable[[], object]) -> None:
        self._requests, self._check = requests, check

    def __aiter__(self) -> "_Messages":
        return self

    async def __anext__(self) -> Any:
        message = await anext(self._requests)
        self._check()
        return message


def _certificate(context: Context) -> bytes | None:
    for found in context.auth_context().get(_CERTIFICATE, ()):
        return ssl.PEM_cert_to_DER_cert(found.decode())
    return None
