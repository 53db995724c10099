"""A connection to Redis that stalls, silently, does not stall the others."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.lm_queue import Append, LmQueue
from glm4v.internal.v1 import journal_pb2 as pb
from tests.journal_events import events_of
from tests.processes import until


class Proxy:
    """Passes bytes on, until one connection sends `stall_on`: that one is stuck from then on."""

    def __init__(self, target: str, stall_on: bytes) -> None:
        self._target = target
        self._stall_on = stall_on
        self.is_stalling = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_upstream = await asyncio.open_unix_connection(self._target)
        stuck = asyncio.Event()
        replies = asyncio.create_task(self._pass_on(upstream, writer, stuck))
        try:
            while data := await reader.read(2**16):
                if self._stall_on in data and not self.is_stalling:
                    self.is_stalling = True
                    stuck.set()
                if not stuck.is_set():
                    to_upstream.write(data)
        finally:
            replies.cancel()
            for each in (writer, to_upstream):
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stuck: asyncio.Event
    ) -> None:
        while data := await reader.read(2**16):
            if not stuck.is_set():
                writer.write(data)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="glm4v-") as name:
        yield Path(name)


@asynccontextmanager
async def through(proxy: Proxy, folder: Path) -> AsyncIterator[Connection]:
    path = folder / "proxy.sock"
    server = await asyncio.start_unix_server(proxy.serve, path)
    connection = Connection(f"unix://{path}")
    try:
        yield connection
    finally:
        await connection.close()
        server.close()
        await server.wait_closed()


async def test_a_stalled_read_delays_no_command_and_is_made_again(
    redis_url: str, folder: Path, keys: Keys
) -> None:
    proxy = Proxy(urlsplit(redis_url).path, b"XREAD\r\n")
    async with through(proxy, folder) as connection:
        broker = Broker(connection, keys, max_open_requests=10, result_ttl_s=60)
        queue = LmQueue(connection, keys, "model", lease_s=60, result_ttl_s=60)
        await broker.ready("model")
        await broker.submit(
            pb.Job(
                request_id="r", fingerprint="model", timeout_ms=60_000, orphan_timeout_ms=60_000
            ),
            None,
        )
        [lease] = await queue.claim(1)
        seen: list[int] = []
        moments: dict[int, float] = {}

        async def read() -> None:
            async for event in events_of(broker.follow_journal, "r"):
                if isinstance(event, pb.JournalTokens):
                    seen.extend(event.ids)
                    moments[event.ids[0]] = time.monotonic()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(broker.run)
                async with anyio.create_task_group() as reading:
                    reading.start_soon(read)
                    await until(lambda: proxy.is_stalling)
                    for index in range(20):
                        append = Append(lease, index, pb.JournalTokens(ids=[index]))
                        assert await queue.append([append]) == ["ok"]
                    appended = time.monotonic()
                    end = pb.JournalEnd(kind=pb.END_KIND_LENGTH, token_count=20)
                    assert await queue.append([Append(lease, 20, None, end)]) == ["ok"]
                group.cancel_scope.cancel()
        assert seen == list(range(20))
        assert moments[0] > appended  # the commands did not wait for the read
