"""A listener for orchestrators: health, apart from all other calls."""

from grpc import aio

from glm4v.process.call_limits import CallLimits
from glm4v.process.environment import variable_of
from glm4v.process.error_interceptor import ErrorInterceptor
from glm4v.process.health import Health
from glm4v.process.listen_address import bind
from glm4v.process.server_options import server_options

# A health check has no more.
_LIMITS = CallLimits(max_calls=64, max_calls_per_connection=16, max_message_bytes=64 * 2**10)


class HealthListener:
    """Serves on the address of the setting `health_listen`, without TLS: Kubernetes has no gRPC
    probe with it. No client of another listener is in its way.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    async def start(self, health: Health) -> None:
        """See Listener."""
        self._server = aio.server(
            interceptors=[ErrorInterceptor()], options=server_options(_LIMITS)
        )
        health.register(self._server, [])
        bind(self._server, self._address, variable_of("health_listen"))
        await self._server.start()

    async def refuse(self) -> None:
        """Health checks are answered until the process ends: they say NOT_SERVING."""

    async def stop(self, grace_s: float) -> None:
        """See Listener."""
        await self._server.stop(grace_s)
