"""Health of a process, as gRPC's health checking protocol has it (grpc.health.v1).

The servicer of grpcio-health-checking cannot end the streams that watch it, and a server that stops
would wait for them. Its asyncio version also tells no watcher of a change once one of them has left
(1.75.1 to 1.81.1; 1.82.3 does).
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from glm4v.errors import Unavailable, UnknownReference

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_Reply = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # it has no types
    """One status for the process and each of its services: NOT_SERVING at first."""

    def __init__(self) -> None:
        self._is_serving = False
        self._services = {"", SERVICE}
        self._changed = asyncio.Event()  # replaced at each change
        self._ended = 0  # how often all watches were ended

    @property
    def is_serving(self) -> bool:
        """Whether the process is ready, and not shutting down."""
        return self._is_serving

    def register(self, server: aio.Server, services: Iterable[str]) -> None:
        """Answer health checks on a server, for these services too."""
        self._services.update(services)
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    def set_serving(self, is_serving: bool) -> None:
        """Set the status, and send it to all that watch it."""
        self._is_serving = is_serving
        self._wake()

    def end_watches(self) -> None:
        """End all streams that watch the status: they would hold up a server that stops."""
        self._ended += 1
        self._wake()

    async def Check(self, request: Any, context: Any) -> Any:
        """The status of a service; raises UnknownReference for a service that is not here."""
        if request.service not in self._services:
            raise UnknownReference(f"no service {request.service!r} in this process")
        return _Reply(status=self._status(request.service))

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The status of a service now and after each change; raises Unavailable at the end."""
        sent, ended = None, self._ended
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != sent:
                yield _Reply(status=status)
                sent = status
            if self._ended != ended:
                raise Unavailable("server is shutting down; watch another replica")
            await changed.wait()

    def _status(self, service: str) -> int:
        if service not in self._services:
            return int(_Reply.SERVICE_UNKNOWN)
        return int(_Reply.SERVING if self._is_serving else _Reply.NOT_SERVING)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
