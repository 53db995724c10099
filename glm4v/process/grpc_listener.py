"""A gRPC server as a listener: services of the process, health and reflection."""

from collections.abc import Callable, Sequence

from grpc import aio
from grpc_reflection.v1alpha import reflection

from glm4v.process import health as process_health
from glm4v.process.authentication_interceptor import (
    Authenticate,
    AuthenticationInterceptor,
    anonymous,
)
from glm4v.process.call_limits import CallLimits
from glm4v.process.drain_interceptor import DrainInterceptor
from glm4v.process.environment import variable_of
from glm4v.process.error_interceptor import ErrorInterceptor
from glm4v.process.health import Health
from glm4v.process.listen_address import bind
from glm4v.process.receive_interceptor import CallReceiver, ReceiveInterceptor
from glm4v.process.server_options import raise_file_limit, server_options
from glm4v.process.tls import TlsFiles, server_credentials

Register = Callable[[aio.Server, Health], Sequence[str]]  # adds services to a server; their names


class GrpcListener:
    """Serves calls on the address of the setting `listen`.

    Args:
        address: HOST:PORT or unix:/PATH.
        register: Adds services to the server and returns their names; they may ask for the health
            of the process. None adds none.
        limits: Of all calls but health checks.
        tls: Files of the server's certificate; None serves without TLS.
        authenticate: Names the callers of all calls but health checks.
    """

    def __init__(
        self,
        address: str,
        *,
        register: Register | None = None,
        limits: CallLimits | None = None,
        tls: TlsFiles | None = None,
        authenticate: Authenticate = anonymous,
    ) -> None:
        self._address = address
        self._register = register
        self._limits = limits or CallLimits()
        self._tls = tls
        self._authentication = AuthenticationInterceptor(authenticate)
        self._errors = ErrorInterceptor()
        self._receiver = CallReceiver(self._limits)

    @property
    def ended_calls(self) -> dict[tuple[str, str], int]:
        """Calls that have ended, by method and status name."""
        return dict(self._errors.calls)

    @property
    def calls(self) -> int:
        """Calls in progress, health checks left out."""
        return self._receiver.calls

    async def start(self, health: Health) -> None:
        """See Listener."""
        raise_file_limit()
        self._drain = DrainInterceptor()
        self._server = aio.server(
            interceptors=[
                self._errors,
                self._authentication,
                self._drain,
                ReceiveInterceptor(self._receiver),
            ],
            options=server_options(self._limits),
        )
        services = [*self._register(self._server, health)] if self._register else []
        health.register(self._server, services)
        reflection.enable_server_reflection(
            [process_health.SERVICE, *services, reflection.SERVICE_NAME], self._server
        )
        credentials = server_credentials(self._tls) if self._tls else None
        bind(self._server, self._address, variable_of("listen"), credentials)
        await self._server.start()

    async def refuse(self) -> None:
        """See Listener: calls get UNAVAILABLE."""
        self._drain.refuse()

    async def stop(self, grace_s: float) -> None:
        """See Listener."""
        await self._server.stop(grace_s)
