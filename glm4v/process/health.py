"""Health of a process, as gRPC's health checking protocol has it (grpc.health.v1)."""

from collections.abc import Iterable

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_Status = health_pb2.HealthCheckResponse


class Health:
    """One status for the process and for each of its services: at first NOT_SERVING."""

    def __init__(self) -> None:
        self._servicer = health.aio.HealthServicer()
        self._status = _Status.NOT_SERVING
        self._services = {"", SERVICE}

    async def register(self, server: aio.Server, services: Iterable[str]) -> None:
        """Answer health checks on a server, for these services too."""
        self._services.update(services)
        await self._publish()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set_serving(self, is_serving: bool) -> None:
        """Set the status, and tell all that watch it."""
        self._status = _Status.SERVING if is_serving else _Status.NOT_SERVING
        await self._publish()

    async def _publish(self) -> None:
        for service in self._services:
            await self._servicer.set(service, self._status)
