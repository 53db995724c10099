"""Health on a real server: checks, and streams that watch it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from glm4v.process.grpc_listener import GrpcListener
from glm4v.process.health import SERVICE, Health
from tests.processes import until

Status = health_pb2.HealthCheckResponse


class Served:
    """A listener, the health it tells, and a stub to ask it."""

    def __init__(self, listener: GrpcListener, health: Health, stub: Any) -> None:
        self.listener, self.health, self._stub = listener, health, stub

    async def check(self, service: str) -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        return int((await self._stub.Check(request, timeout=10)).status)

    def watch(self, service: str) -> Any:
        return self._stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=10)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    health, address = Health(), f"unix:{tmp_path / 'socket'}"
    listener = GrpcListener(address, register=lambda server, health: ["post.Office"])
    await listener.start(health)
    async with aio.insecure_channel(address) as channel:
        yield Served(listener, health, health_pb2_grpc.HealthStub(channel))
    await listener.stop(0)


@pytest.mark.parametrize("service", ["", SERVICE, "post.Office"])
async def test_every_service_has_the_status_of_the_process(served: Served, service: str) -> None:
    assert await served.check(service) == Status.NOT_SERVING
    served.health.set_serving(True)
    assert await served.check(service) == Status.SERVING


async def test_a_service_that_is_not_here_is_not_found(served: Served) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await served.check("post.Man")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert (await served.watch("post.Man").read()).status == Status.SERVICE_UNKNOWN


async def test_a_watcher_that_leaves_takes_no_news_from_the_others(served: Served) -> None:
    leaving, staying = served.watch(""), served.watch("")
    for watch in (leaving, staying):
        assert (await watch.read()).status == Status.NOT_SERVING
    leaving.cancel()
    await until(lambda: (f"{SERVICE}/Watch", "CANCELLED") in served.listener.ended_calls)
    served.health.set_serving(True)
    assert (await staying.read()).status == Status.SERVING


async def test_a_watcher_does_not_hold_up_the_end(served: Served) -> None:
    watch = served.watch("")
    assert (await watch.read()).status == Status.NOT_SERVING
    served.health.end_watches()
    with pytest.raises(aio.AioRpcError) as caught:
        await watch.read()
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(served.listener.stop(100), 10)
