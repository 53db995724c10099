"""Errors, drain and limits of calls that stream their messages, and TLS, on a real server."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from glm4v.errors import ConfigurationError, InvalidRequest
from glm4v.process.call_limits import CallLimits
from glm4v.process.grpc_listener import GrpcListener
from glm4v.process.health import Health
from glm4v.process.tls import TlsFiles, tls_files
from glm4v.status import is_marked
from tests.authority import Authority, trust
from tests.processes import until

MB = 2**20
NAME = "post.Office"


class Office:
    """Echoes messages; some words make it fail."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.received = 0

    async def talk(self, letters: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for letter in letters:
            yield await self._answer(letter)

    async def collect(self, letters: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([await self._answer(letter) async for letter in letters])

    async def send(self, letter: bytes, context: Any) -> bytes:
        return await self._answer(letter)

    async def _answer(self, letter: bytes) -> bytes:
        self.received += 1
        await self.may_answer.wait()
        if letter == b"wrong":
            raise InvalidRequest("no; send a letter")
        if letter == b"bug":
            raise RuntimeError("the secret is 42")
        return letter

    def register(self, server: aio.Server, _: Health) -> Sequence[str]:
        handlers: dict[str, Any] = {
            "Talk": grpc.stream_stream_rpc_method_handler(self.talk),
            "Collect": grpc.stream_unary_rpc_method_handler(self.collect),
            "Send": grpc.unary_unary_rpc_method_handler(self.send),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(NAME, handlers)])
        return [NAME]


class Served:
    """A listener on a unix socket or port, and calls to it."""

    def __init__(self, listener: GrpcListener, office: Office, channel: aio.Channel) -> None:
        self.listener, self.office, self.channel = listener, office, channel

    def talk(self) -> "aio.StreamStreamCall[Any, Any]":
        return self.channel.stream_stream(f"/{NAME}/Talk")(timeout=20)

    async def collect(self, *letters: bytes) -> bytes:
        call: Any = self.channel.stream_unary(f"/{NAME}/Collect")
        return bytes(await call(iter(letters), timeout=20))


@asynccontextmanager
async def serving(folder: Path, limits: CallLimits | None = None) -> AsyncIterator[Served]:
    office, address = Office(), f"unix:{folder / 'socket'}"
    listener = GrpcListener(address, register=office.register, limits=limits)
    await listener.start(Health())
    try:
        async with aio.insecure_channel(address) as channel:
            yield Served(listener, office, channel)
    finally:
        await listener.stop(0)


async def failure(call: Any) -> aio.AioRpcError:
    """How a call ends, which the server must have decided."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    assert is_marked(caught.value.trailing_metadata()), caught.value
    return caught.value


async def test_an_error_in_a_bidirectional_call_becomes_its_status(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for word, code in ((b"wrong", "INVALID_ARGUMENT"), (b"bug", "INTERNAL")):
            call = served.talk()
            await call.write(b"hello")
            assert await call.read() == b"hello"
            await call.write(word)
            error = await failure(call.read())
            assert error.code().name == code
            assert "secret" not in str(error.details())
            assert served.listener.ended_calls[f"{NAME}/Talk", code] == 1


async def test_an_error_in_a_call_that_streams_messages_becomes_its_status(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        assert await served.collect(b"a", b"b") == b"ab"
        error = await failure(served.collect(b"a", b"wrong"))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        error = await failure(served.collect(b"a", b"bug"))
        assert error.code() == grpc.StatusCode.INTERNAL
        ended = served.listener.ended_calls
    codes = {"OK": 1, "INVALID_ARGUMENT": 1, "INTERNAL": 1}
    assert ended == {(f"{NAME}/Collect", code): count for code, count in codes.items()}


async def test_a_drain_refuses_new_calls_and_ends_those_that_wait_for_a_message(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as served:
        idle, busy = served.talk(), served.talk()
        await idle.write(b"hello")
        assert await idle.read() == b"hello"
        served.office.may_answer.clear()
        await busy.write(b"in progress")
        await until(lambda: served.office.received == 2)
        await served.listener.refuse()
        for call in (idle.read(), served.talk().read(), served.collect(b"a")):
            error = await failure(call)
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert error.details() == "server is shutting down; retry on another replica"
        stopping = asyncio.create_task(served.listener.stop(20))
        served.office.may_answer.set()
        assert await busy.read() == b"in progress"  # a handler that has its message goes on
        assert (await failure(busy.read())).code() == grpc.StatusCode.UNAVAILABLE
        await asyncio.wait_for(stopping, 10)  # nothing is left that it would wait for


async def test_calls_that_stream_messages_are_counted_with_their_memory(tmp_path: Path) -> None:
    """Two silent ones, two that may send; what these hold, other calls do not need."""
    limits = CallLimits(max_message_bytes=4 * MB, max_receiving_bytes=8 * MB)
    async with serving(tmp_path, limits) as served:
        calls = [served.talk() for _ in range(5)]
        for call in calls:
            await call.write(b"hello")
        assert [await call.read() for call in calls] == [b"hello"] * 5
        await until(lambda: served.listener.calls == 4)
        refused = [await call.code() for call in calls if call.done()]
        assert [code.name for code in refused] == ["RESOURCE_EXHAUSTED"]
        send: Any = served.channel.unary_unary(f"/{NAME}/Send")
        assert await send(bytes(3 * MB), timeout=20) == bytes(3 * MB)
        for call in calls:
            call.cancel()
        await until(lambda: served.listener.calls == 0)


@asynccontextmanager
async def tls_server(files: TlsFiles) -> AsyncIterator[str]:
    office = Office()
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    listener = GrpcListener(address, register=office.register, tls=files)
    await listener.start(Health())
    try:
        yield address
    finally:
        await listener.stop(0)


async def answer(address: str, credentials: grpc.ChannelCredentials | None) -> bool:
    """Whether a new connection gets an answer; UNAVAILABLE otherwise."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    channel = (
        aio.secure_channel(address, credentials, options)
        if credentials
        else aio.insecure_channel(address, options)
    )
    async with channel:
        send: Any = channel.unary_unary(f"/{NAME}/Send")
        try:
            return bool(await send(b"hello", timeout=10) == b"hello")
        except aio.AioRpcError as error:
            return error.code() != grpc.StatusCode.UNAVAILABLE


async def test_a_client_has_to_trust_the_authority(tmp_path: Path) -> None:
    ours, other = Authority(), Authority()
    async with tls_server(ours.issue(tmp_path)) as address:
        assert await answer(address, trust(ours))
        assert not await answer(address, trust(other))
        assert not await answer(address, None)


async def test_a_client_presents_a_certificate_where_an_authority_is_named(tmp_path: Path) -> None:
    ours, clients, other = Authority(), Authority(), Authority()
    (tmp_path / "ca.crt").write_bytes(clients.pem)
    served = ours.issue(tmp_path / "server")
    files = tls_files(served.certificate, served.key, tmp_path / "ca.crt")
    assert files is not None
    async with tls_server(files) as address:
        assert await answer(address, trust(ours, clients.issue(tmp_path / "client")))
        assert not await answer(address, trust(ours, other.issue(tmp_path / "stranger")))
        assert not await answer(address, trust(ours))


async def test_certificates_are_replaced_while_the_server_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    former, new = Authority(), Authority()
    files = former.issue(tmp_path)
    async with tls_server(files) as address:
        assert await answer(address, trust(former))
        key = files.key.read_bytes()
        new.issue(tmp_path)
        assert await answer(address, trust(new))
        assert not await answer(address, trust(former))
        files.key.write_bytes(key)  # which does not fit: the certificate before it stays
        assert await answer(address, trust(new))
        assert await answer(address, trust(new))
    unusable = [each for each in caplog.records if "cannot be used" in each.message]
    assert len(unusable) == 1


def test_files_that_cannot_be_used_are_said_by_their_variable(tmp_path: Path) -> None:
    files, other = Authority().issue(tmp_path / "a"), Authority().issue(tmp_path / "b")
    absent = tmp_path / "absent"
    with pytest.raises(ConfigurationError, match="GLM4V_TLS_KEY is not set"):
        tls_files(files.certificate, None, None)
    with pytest.raises(ConfigurationError, match="GLM4V_TLS_CERT is not set"):
        tls_files(None, None, files.certificate)
    with pytest.raises(ConfigurationError, match=f"GLM4V_TLS_KEY {absent}: No such file"):
        tls_files(files.certificate, absent, None)
    with pytest.raises(ConfigurationError, match=r"not a certificate and its key.*MISMATCH"):
        tls_files(files.certificate, other.key, None)
    with pytest.raises(ConfigurationError, match=r"GLM4V_TLS_CLIENT_CA .*has no certificate"):
        tls_files(files.certificate, files.key, files.key)
    assert tls_files(None, None, None) is None
