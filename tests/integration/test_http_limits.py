"""What a listener takes from its clients, and what becomes of requests whose client has left."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import anyio
import httpx
import pytest

from glm4v.broker import Connection, Keys
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.process.http_protocol import MAX_HEAD_BYTES, ConnectionLimits
from glm4v.process.listen_address import listening_sockets
from tests.integration.gateway_bench import ScriptedWorker, length_end
from tests.integration.http_bench import CHAT, LIMITS, RunningHttp, chat_body, running_http

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
QUICK = ConnectionLimits(
    max_connections=3, head_timeout_s=0.3, write_timeout_s=0.3, late_body_s=0.3
)


@pytest.fixture
def checkpoint(checkpoint_dir: Callable[[str], Path]) -> Checkpoint:
    return Checkpoint.open(checkpoint_dir("micro-glm4v"))


@pytest.fixture
async def http(
    request: pytest.FixtureRequest,
    connection: Connection,
    keys: Keys,
    checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[RunningHttp]:
    """Small limits of everything; a parameter is the time in which a head has to come."""
    quick = replace(QUICK, head_timeout_s=getattr(request, "param", QUICK.head_timeout_s))
    monkeypatch.setattr("glm4v.process.http_server.connection_limits", lambda: quick)
    monkeypatch.setattr("glm4v.process.http_server.listening_sockets", small_sockets)
    limits = replace(LIMITS, max_calls=4, receive_timeout_s=0.3, max_message_bytes=100_000)
    async with running_http(connection, keys, checkpoint, limits=limits) as running:
        yield running


def small_sockets(address: str, variable: str) -> list[socket.socket]:
    """Sockets whose connections hold little for clients that do not read."""
    opened = listening_sockets(address, variable)
    for one in opened:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return opened


@pytest.fixture
def worker(
    connection: Connection, keys: Keys, http: RunningHttp, checkpoint: Checkpoint
) -> ScriptedWorker:
    return ScriptedWorker(connection, keys, checkpoint.fingerprint)


# What is closed was not waited for: a head may come for longer than `rest` reads.
patient = pytest.mark.parametrize("http", [1000.0], indirect=True)


async def connect(http: RunningHttp) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that speaks bytes."""
    return await asyncio.open_connection(http.client.base_url.host, http.client.base_url.port)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection is closed, which must happen soon."""
    with anyio.fail_after(20), suppress(ConnectionError):
        return await reader.read()
    return b""


async def test_a_connection_without_a_request_is_closed(http: RunningHttp) -> None:
    for sent in (b"", b"GET / HTTP/1.1\r\nx: "):
        reader, writer = await connect(http)
        writer.write(sent)
        assert await rest(reader) == b""
        writer.close()


@patient
async def test_a_head_without_end_is_closed(http: RunningHttp) -> None:
    reader, writer = await connect(http)
    writer.write(HEAD + b"x: " + b"a" * MAX_HEAD_BYTES)
    assert await rest(reader) == b""
    writer.close()


@patient
async def test_connections_above_the_limit_are_closed(http: RunningHttp) -> None:
    opened = [await connect(http) for _ in range(QUICK.max_connections)]
    reader, writer = await connect(http)
    assert await rest(reader) == b""
    for _, each in [*opened, (reader, writer)]:
        each.close()


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (b"content-length: 100001\r\n", b"", b"413"),
        (b"transfer-encoding: chunked\r\n", b"186a1\r\n" + b" " * 100_001, b"413"),
        (b"content-length: 10\r\n", b"{", b"504"),  # it does not go on
        (b"content-length: 1\r\n", b"{", b"400"),
    ],
)
async def test_a_body_that_is_refused(
    http: RunningHttp, head: bytes, body: bytes, status: bytes
) -> None:
    reader, writer = await connect(http)
    writer.write(HEAD + head + b"\r\n" + body)
    with anyio.fail_after(20):
        assert (await reader.readline()).split()[1] == status
    writer.close()


@pytest.mark.parametrize("head", [HEAD, b"GET /live HTTP/1.1\r\nhost: x\r\n"])
async def test_a_body_that_goes_on_after_its_answer_is_cut_off(
    http: RunningHttp, head: bytes
) -> None:
    reader, writer = await connect(http)
    writer.write(head + b"content-length: 1000000\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 ")
    closed = asyncio.create_task(rest(reader))
    while not closed.done():
        writer.write(b" ")
        await asyncio.sleep(0.05)
    await closed
    writer.close()


@pytest.mark.parametrize("sign", ["origin", "sec-fetch-site"])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_what_any_web_page_may_send_is_refused(
    http: RunningHttp, kind: str, sign: str
) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = await http.client.post(CHAT, content=b"{}", headers={**headers, sign: "null"})
    assert answer.status_code == 400
    assert "send Content-Type: application/json" in answer.text


@pytest.mark.parametrize("path", [CHAT, "/generate", "/infer"])
async def test_curl_need_not_say_json(http: RunningHttp, path: str) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}  # that of its -d
    answer = await http.client.post(path, content=b"[]", headers=form)
    assert 400 <= answer.status_code < 500
    assert "Content-Type" not in answer.text


async def test_health_is_outside_of_the_limits(http: RunningHttp, worker: ScriptedWorker) -> None:
    """Two of four requests are one host's."""
    waiting = [asyncio.create_task(http.chat()) for _ in range(2)]
    leases = [await worker.claim() for _ in waiting]
    assert http.listener.calls == 2
    assert (await http.chat()).status_code == 429
    assert (await http.client.get("/health")).status_code == 200
    for lease in leases:
        await worker.say(lease, "a", length_end())
    assert [(await one).status_code for one in waiting] == [200, 200]
    assert http.listener.calls == 0
    assert http.listener.ended_calls == {(CHAT, "200"): 2, (CHAT, "429"): 1, ("/health", "200"): 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_its_request(
    http: RunningHttp, worker: ScriptedWorker, stream: bool
) -> None:
    asking = asyncio.create_task(http.chat(stream=stream))
    lease = await worker.claim()
    await worker.say(lease, "a")
    await asyncio.sleep(0.1)
    asking.cancel()
    with anyio.fail_after(20):
        while await worker.say(lease, "a") == "ok":
            pass


async def test_a_client_that_can_come_back_does_not(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    named = {"headers": {"idempotency-key": '"a key"'}}
    asking = asyncio.create_task(http.chat(**named))
    lease = await worker.claim()
    asking.cancel()
    await asyncio.sleep(0.3)
    assert await worker.say(lease, "ab", length_end()) == "ok"
    assert (await http.chat(**named)).json()["choices"][0]["message"]["content"] == "ab"


async def test_a_client_that_does_not_read_is_disconnected(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    body = httpx.Request("POST", "http://x", json=chat_body(stream=True)).content
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    url = http.client.base_url
    small.connect((url.host, url.port))
    _, writer = await asyncio.open_connection(sock=small)
    writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
    lease = await worker.claim()
    with anyio.fail_after(20):
        while await worker.say(lease, "a" * 20_000) == "ok":  # it is cancelled in the end
            pass
    writer.close()
    assert http.listener.calls == 0


async def test_a_listener_that_drains_sends_its_clients_elsewhere(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    running = asyncio.create_task(http.chat())
    lease = await worker.claim()
    await http.listener.refuse()
    answer = await http.chat()
    assert answer.status_code == 503
    assert answer.headers["connection"] == "close"
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["type"] == "overloaded_error"
    stopping = asyncio.create_task(http.listener.stop(5))
    await worker.say(lease, "a", length_end())
    assert (await running).status_code == 200  # what had begun goes on
    await stopping


async def test_what_does_not_end_in_time_is_broken_off(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    running = asyncio.create_task(http.stream())
    await worker.say(await worker.claim(), "a")
    await asyncio.sleep(0.2)
    await http.listener.stop(0.1)
    with pytest.raises(httpx.RemoteProtocolError):  # never a clean end without a reason
        await running
