"""The gateway as its doors see it, on a real Redis: owners, and what a stream holds."""

import asyncio
import io
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest
from PIL import Image

from gateway.access.caller import Caller
from gateway.facade import Gateway
from gateway.streaming.follow import EventStream
from glm4v.broker import Broker, Connection, Keys
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.tiny import write_tiny
from glm4v.errors import Cancelled, Glm4vError, IdTaken, UnknownReference
from glm4v.v1 import inference_pb2 as api
from tests.integration.gateway_bench import (
    ScriptedWorker,
    ask,
    gateway_of,
    length_end,
    running_broker,
    text_of,
)

ANN, BOB, ANYONE = Caller("ann"), Caller("bob"), Caller()
STRANGERS = [(ANN, BOB), (ANN, ANYONE), (ANYONE, ANN)]


@pytest.fixture
async def broker(connection: Connection, keys: Keys, fingerprint: str) -> AsyncIterator[Broker]:
    async with running_broker(connection, keys, fingerprint) as broker:
        yield broker


@pytest.fixture
def gateway(broker: Broker, checkpoint_dir: Callable[[str], Path]) -> Gateway:
    return gateway_of(broker, Checkpoint.open(checkpoint_dir("micro-glm4v")))


@pytest.fixture
def worker(connection: Connection, keys: Keys, fingerprint: str) -> ScriptedWorker:
    return ScriptedWorker(connection, keys, fingerprint)


async def start(gateway: Gateway, caller: Caller, request: api.GenerateRequest) -> EventStream:
    return await gateway.generate(caller, request, time_limit_s=30)


async def rest(stream: EventStream) -> list[api.GenerationEvent]:
    with anyio.fail_after(10):
        async with aclosing(stream):
            return [event async for event in stream]


def attach(request_id: str) -> api.AttachRequest:
    return api.AttachRequest(request_id=request_id)


def cancel(request_id: str) -> api.CancelRequest:
    return api.CancelRequest(request_id=request_id)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


async def error_of(call: Awaitable[object]) -> Glm4vError:
    with pytest.raises(Glm4vError) as raised:
        await call
    return raised.value


@pytest.mark.parametrize(("owner", "stranger"), STRANGERS)
async def test_the_request_of_another_owner_is_as_unknown_as_one_that_never_was(
    gateway: Gateway, worker: ScriptedWorker, owner: Caller, stranger: Caller
) -> None:
    stream = await start(gateway, owner, ask("mine", n=2))
    errors = [
        await error_of(call)
        for name in ("mine", "none")
        for call in (
            gateway.attach(stranger, attach(name)),
            gateway.cancel(stranger, cancel(name)),
        )
    ]
    assert [type(error) for error in errors] == [UnknownReference] * 4
    assert {str(error).replace("'mine'", "'none'") for error in errors} == {str(errors[-1])}
    assert (await gateway.cancel(owner, cancel("mine"))).cancelled
    with pytest.raises(Cancelled):
        await rest(stream)


async def test_an_owner_attaches_through_any_call_and_reads_the_answer(
    gateway: Gateway, worker: ScriptedWorker
) -> None:
    stream = await start(gateway, ANN, ask("mine"))
    again = await start(gateway, Caller("ann", client="another host"), ask("mine"))
    attached = await gateway.attach(ANN, attach("mine"))
    lease = await worker.claim()
    assert (await worker.job(lease)).owner == "ann"
    await worker.say(lease, "answer", length_end())
    first, *others = [await rest(each) for each in (stream, again, attached)]
    assert text_of(first) == "answer"
    assert all(events == first for events in others)


@pytest.mark.parametrize(("owner", "stranger"), STRANGERS)
async def test_the_id_of_another_owners_request_is_taken_even_for_the_same_content(
    gateway: Gateway, owner: Caller, stranger: Caller
) -> None:
    await (await start(gateway, owner, ask("mine"))).aclose()
    same = await error_of(start(gateway, stranger, ask("mine")))
    other = await error_of(start(gateway, stranger, ask("mine", text="something else")))
    assert type(same) is type(other) is IdTaken
    assert str(same) == str(other)


async def test_a_stranger_does_not_keep_a_request_alive(
    gateway: Gateway, connection: Connection, keys: Keys
) -> None:
    await (await start(gateway, ANN, ask("mine", orphan_timeout_s=60))).aclose()
    deadline = await connection.commands.zscore(keys.reader_deadlines, "mine")
    await asyncio.sleep(0.05)
    await error_of(gateway.attach(BOB, attach("mine")))
    assert await connection.commands.zscore(keys.reader_deadlines, "mine") == deadline
    await (await gateway.attach(ANN, attach("mine"))).aclose()
    assert await connection.commands.zscore(keys.reader_deadlines, "mine") > deadline


async def test_a_closed_stream_is_no_reader_whether_it_was_read_or_not(
    gateway: Gateway, broker: Broker
) -> None:
    unread, read = [await start(gateway, ANN, ask(f"r{number}")) for number in range(2)]
    await anext(read)
    await anext(read)
    assert len(broker._hub.readers) == 2
    await unread.aclose()
    await read.aclose()
    assert len(broker._hub.readers) == 0


async def test_a_stream_holds_neither_the_request_nor_its_image(gateway: Gateway) -> None:
    request = ask()
    request.messages[0].parts.add().image.data = png() + bytes(3 * 2**20)
    references = sys.getrefcount(request)
    tracemalloc.start()
    stream = await start(gateway, ANYONE, request)
    held_bytes, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sys.getrefcount(request) == references
    assert most_bytes > 3 * 2**20 > 3 * held_bytes
    await stream.aclose()


@pytest.fixture
def updated(broker: Broker, tmp_path: Path) -> Gateway:
    """A gateway of other weights with the same tokenizer, as after a rolling update."""
    write_tiny(tmp_path / "updated", seed=7)
    return gateway_of(broker, Checkpoint.open(tmp_path / "updated"))


async def test_a_gateway_of_other_weights_goes_on_with_a_request_of_the_former(
    gateway: Gateway, updated: Gateway, worker: ScriptedWorker
) -> None:
    stream = await start(gateway, ANN, ask("r", stop=["wer"]))
    attached = await updated.attach(ANN, attach("r"))
    lease = await worker.claim()
    assert await worker.say(lease, "answer") == "ok"
    assert await rest(attached) == await rest(stream)


async def test_a_gateway_with_another_tokenizer_does_not_follow(
    gateway: Gateway, updated: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updated._follower._tokenizer, "digest", b"another")
    await start(gateway, ANN, ask("r"))
    error = await error_of(updated.attach(ANN, attach("r")))
    assert isinstance(error, UnknownReference)
    assert "another tokenizer" in str(error)
