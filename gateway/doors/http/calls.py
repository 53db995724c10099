"""Limits of HTTP requests in progress: their number, their bodies and the time these take.

They are those of gRPC calls (`glm4v.process.call_limits`), counted apart.
"""

import asyncio
from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.doors.http.caller import anonymous_peer, authenticated_peer
from glm4v.errors import DeadlinePassed, InvalidRequest, TooLarge, Unavailable
from glm4v.process.authentication_interceptor import Authenticate, anonymous
from glm4v.process.call_limits import CallCount, CallLimits, MessageMemory
from glm4v.process.call_slot import CallSlot, HandlerSlots
from glm4v.process.peer import Peer


class Calls:
    """The requests in progress of one listener."""

    def __init__(self, limits: CallLimits, authenticate: Authenticate = anonymous) -> None:
        self.limits = limits
        self.authenticate = authenticate
        self.count = CallCount(limits)
        self.memory = MessageMemory(limits)
        self.handlers = HandlerSlots(limits)
        self.ended: Counter[tuple[str, str]] = Counter()  # by route and status
        self.refusing = False

    def refuse(self) -> None:
        """Refuse requests from now on, health checks excepted."""
        self.refusing = True


class Call:
    """One request, as long as it takes. Its route calls `begin`; health checks do not."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        self._calls = calls
        self._scope = scope
        self._slot = CallSlot(calls.memory, calls.handlers, anonymous_peer(scope))
        self._is_counted = False

    @property
    def peer(self) -> Peer:
        """Who makes the request; anonymous until it is authenticated."""
        return self._slot.peer

    def authenticate(self) -> None:
        """Find out who makes the request. Raises Unauthenticated."""
        self._slot.peer = authenticated_peer(self._scope, self._calls.authenticate)

    def begin(self) -> None:
        """Authenticate and count the request. Raises Unauthenticated, Unavailable, Overloaded."""
        self.authenticate()
        if self._calls.refusing:
            raise Unavailable("server is shutting down; retry on another replica")
        self._calls.count.enter(self._slot.peer)
        self._is_counted = True

    async def read(self, receive: Receive, content_length: int | None) -> bytes:
        """The body, then a handler slot. Memory for it is held until `handled`.

        Raises TooLarge, Overloaded, InvalidRequest for a body that breaks off, and DeadlinePassed
        for one that does not arrive in time.
        """
        limits = self._calls.limits
        if (content_length or 0) > limits.max_message_bytes:
            raise _too_large(f"{content_length}", limits)
        self._slot.reserve(content_length or 0)
        try:
            async with asyncio.timeout(limits.receive_timeout_s):
                body = await self._body(receive)
        except TimeoutError:
            raise DeadlinePassed(
                f"the body did not arrive within {limits.receive_timeout_s:g} s"
            ) from None
        await self._slot.acquire()
        return body

    def handled(self) -> None:
        """The body is not needed any more."""
        self._slot.release()

    def end(self) -> None:
        """The response is complete, or the client has left."""
        self._slot.release()
        if self._is_counted:
            self._is_counted = False
            self._calls.count.leave(self._slot.peer)

    async def _body(self, receive: Receive) -> bytes:
        limits, chunks, size = self._calls.limits, [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise InvalidRequest("the client left before its body was complete")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > limits.max_message_bytes:
                raise _too_large(f"more than {limits.max_message_bytes}", limits)
            self._slot.reserve_at_least(size)
            if not message.get("more_body", False):
                return b"".join(chunks)


class CallMiddleware:
    """Gives each request its `Call`, as `state.call`, and counts how it ended."""

    def __init__(self, app: ASGIApp, calls: Calls) -> None:
        self._app, self._calls = app, calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = scope.setdefault("state", {})["call"] = Call(self._calls, scope)
        status = "499"  # the client left before it had one

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            call.end()
            route = getattr(scope.get("route"), "path", "none")
            self._calls.ended[route, status] += 1


def _too_large(size: str, limits: CallLimits) -> TooLarge:
    return TooLarge(
        f"the body has {size} bytes, at most {limits.max_message_bytes} are taken; "
        "send a smaller image"
    )
