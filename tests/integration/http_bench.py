"""A gateway's HTTP listener in this process, and a client that reads server-sent events."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx

from gateway.access.caller import Caller
from gateway.doors.http.app import make_app
from gateway.doors.http.listener import HttpListener
from gateway.facade import Gateway
from glm4v.broker import Connection, Keys
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.local.preflight import free_port
from glm4v.process.call_limits import CallLimits
from glm4v.process.health import Health
from glm4v.telemetry.metrics import Registry
from tests.integration.gateway_bench import MAX_IMAGE_BYTES, gateway_of, running_broker

LIMITS = CallLimits(max_message_bytes=2 * MAX_IMAGE_BYTES, receive_timeout_s=2)


CHAT = "/v1/chat/completions"


class RunningHttp:
    """One listener, its health, and a client of it."""

    def __init__(
        self, listener: HttpListener, gateway: Gateway, health: Health, client: httpx.AsyncClient
    ) -> None:
        self.listener = listener
        self.gateway = gateway
        self.caller = Caller()
        self.health = health
        self.client = client

    async def chat(
        self, content: Any = "hello", headers: dict[str, str] | None = None, **body: Any
    ) -> httpx.Response:
        """A chat completion, as a whole; one message unless told otherwise."""
        return await self.client.post(CHAT, json=chat_body(content, **body), headers=headers)

    async def stream(self, headers: dict[str, str] | None = None, **body: Any) -> bytes:
        """All bytes of a streamed chat completion."""
        return (await self.chat(headers=headers, stream=True, **body)).content


@asynccontextmanager
async def running_http(
    connection: Connection,
    keys: Keys,
    checkpoint: Checkpoint,
    *,
    keepalive_s: float = 10.0,
    limits: CallLimits = LIMITS,
) -> AsyncIterator[RunningHttp]:
    """A gateway with small limits that serves HTTP alone, on a port of its own."""
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    health = Health()
    async with running_broker(connection, keys, checkpoint.fingerprint) as broker:
        gateway = gateway_of(broker, checkpoint, keepalive_s=keepalive_s)
        listener = HttpListener(
            address, partial(make_app, gateway=gateway, metrics=Registry()), limits
        )
        await listener.start(health)
        health.set_serving(True)
        try:
            async with httpx.AsyncClient(base_url=f"http://{address}", timeout=20) as client:
                yield RunningHttp(listener, gateway, health, client)
        finally:
            await listener.stop(0)


def chat_body(content: Any = "hello", **fields: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    return {"messages": [{"role": "user", "content": content}], **fields}


def payloads(stream: bytes) -> list[Any]:
    """The JSON of the data of each frame, and the sentinel as it is."""
    found = []
    for line in stream.decode().split("\n"):
        if line.startswith("data:"):
            data = line.removeprefix("data:").strip()
            found.append(data if data == "[DONE]" else json.loads(data))
    return found
