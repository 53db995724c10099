"""The listener for Prometheus, asked over a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from glm4v.errors import ConfigurationError, Unavailable
from glm4v.process.health import Health
from glm4v.process.metrics_listener import MetricsListener
from glm4v.telemetry.metrics import CONTENT_TYPE, Registry


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    registry = Registry()
    registry.gauge("glm4v_requests", "Requests.", lambda: 7)
    registry.gauge("glm4v_broken", "Raises.", lambda: 1 / 0)
    path = tmp_path / "m"
    listener = MetricsListener(f"unix:{path}", registry)
    await listener.start(Health())
    await listener.refuse()  # a process that drains is watched to its end
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        yield client
    await listener.stop(0)


async def test_metrics_are_at_one_path(client: httpx.AsyncClient) -> None:
    found = await client.get("/metrics")
    assert (found.status_code, found.headers["content-type"]) == (200, CONTENT_TYPE)
    assert "glm4v_requests 7.0\n" in found.text
    assert "glm4v_broken" not in found.text  # one that fails hides no other
    assert (await client.head("/metrics")).status_code == 200
    missing = await client.get("/")
    assert (missing.status_code, missing.text) == (404, "metrics are at /metrics\n")


async def test_metrics_are_only_read(client: httpx.AsyncClient) -> None:
    found = await client.post("/metrics", content=b"x")
    assert (found.status_code, found.headers["allow"]) == (405, "GET, HEAD")


async def test_many_may_read_at_once(client: httpx.AsyncClient) -> None:
    found = await asyncio.gather(*(client.get("/metrics") for _ in range(50)))
    assert {each.status_code for each in found} == {200}


async def test_an_address_that_cannot_be_had_names_its_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(Unavailable, match="GLM4V_METRICS_LISTEN"):
            await MetricsListener(address, Registry()).start(Health())
    with pytest.raises(ConfigurationError, match="GLM4V_METRICS_LISTEN"):
        await MetricsListener("nowhere", Registry()).start(Health())
