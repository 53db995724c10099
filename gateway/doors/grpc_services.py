"""The gRPC services of a gateway."""

from collections.abc import Sequence

from grpc import aio

from gateway.doors import grpc_native
from gateway.doors.kserve import servicer as kserve
from gateway.facade import Gateway
from glm4v.process.health import Health


def register(server: aio.Server, health: Health, gateway: Gateway) -> Sequence[str]:
    """Add all services to a server; their names."""
    return [*grpc_native.register(server, gateway), *kserve.register(server, health, gateway)]
