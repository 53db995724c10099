"""Gateways on a real Redis, a scripted worker behind them, through gRPC."""

import asyncio
import io
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
from PIL import Image

from glm4v.broker import Broker, Connection, Keys
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api
from tests.integration.gateway_bench import (
    MAX_IMAGE_BYTES,
    MAX_OPEN,
    Call,
    RunningGateway,
    ScriptedWorker,
    ask,
    attach,
    collect,
    length_end,
    now_ms,
    read_until,
    refusal,
    running_gateway,
    text_of,
    tokens_of,
)

Code = grpc.StatusCode
AnyCall = Call | grpc.aio.UnaryUnaryCall[Any, Any]


@pytest.fixture
def checkpoint(checkpoint_dir: Callable[[str], Path]) -> Checkpoint:
    return Checkpoint.open(checkpoint_dir("micro-glm4v"))


@pytest.fixture
async def one(
    connection: Connection, keys: Keys, checkpoint: Checkpoint
) -> AsyncIterator[RunningGateway]:
    async with running_gateway(connection, keys, checkpoint) as running:
        yield running


@pytest.fixture
async def other(
    connection: Connection, keys: Keys, checkpoint: Checkpoint
) -> AsyncIterator[RunningGateway]:
    async with running_gateway(connection, keys, checkpoint) as running:
        yield running


@pytest.fixture
def worker(
    connection: Connection, keys: Keys, one: RunningGateway, checkpoint: Checkpoint
) -> ScriptedWorker:
    return ScriptedWorker(connection, keys, checkpoint.fingerprint)


def ask_about(image: api.Image, request_id: str = "r") -> api.GenerateRequest:
    request = ask(request_id)
    request.messages[0].parts.add(image=image)
    return request


async def test_events_come_in_the_order_of_the_contract(
    one: RunningGateway, worker: ScriptedWorker
) -> None:
    call = one.stub.Generate(ask(return_prompt_ids=True, sampling=api.SamplingParams(seed=9)))
    lease = await worker.claim()
    await worker.say(lease, "An ")
    await worker.say(lease, b"\xe7\x8c")
    await worker.say(lease, b"\xab!", length_end())
    events = await collect(call)
    assert [event.WhichOneof("event") for event in events] == [
        "accepted",
        "progress",
        "delta",
        "delta",
        "delta",
        "finished",
    ]
    accepted = events[0].accepted
    assert (accepted.request_id, accepted.prompt_tokens, accepted.seed) == ("r", 10, 9)
    assert list(accepted.prompt_ids) == [258, 260, 263, 10, *b"hello", 264]
    assert [event.delta.text for event in events[2:5]] == ["An ", "", "猫!"]
    assert tokens_of(events) == [*"An 猫!".encode()]
    assert events[-1].finished.reason == api.FINISH_REASON_LENGTH
    assert events[-1].finished.usage.completion_tokens == 7


async def test_a_quiet_stream_repeats_its_stage(
    connection: Connection, keys: Keys, checkpoint: Checkpoint, worker: ScriptedWorker
) -> None:
    async with running_gateway(connection, keys, checkpoint, keepalive_s=0.05) as quick:
        call = quick.stub.Generate(ask())
        queued = await read_reminders(call, 2)
        lease = await worker.claim()
        await worker.say(lease, "abc")
        answering = await read_reminders(call, 2)
        attached = quick.stub.Attach(attach(3))
        attached_to = await read_reminders(attached, 1)
        await worker.say(lease, "d", length_end())
        for reading in (call, attached):
            await read_until(reading, "d")
    assert queued == [api.STAGE_QUEUED] * 2
    assert answering == attached_to * 2 == [api.STAGE_RUNNING] * 2
    assert "unchanged" not in str(await journal_of(connection, keys))


async def test_candidates_at_work_are_no_silence(
    connection: Connection, keys: Keys, checkpoint: Checkpoint, worker: ScriptedWorker
) -> None:
    """Their tokens are not told, so the stream is quiet though its journals are not."""
    async with running_gateway(connection, keys, checkpoint, keepalive_s=0.2) as quick:
        call = quick.stub.Generate(ask(best_of=2))
        lease = await worker.claim()
        reading = asyncio.create_task(read_reminders(call, 2))
        while not reading.done():
            await worker.say(lease, "a")
            await asyncio.sleep(0.02)
        assert len(await reading) == 2
        call.cancel()


async def read_reminders(call: Call, count: int) -> list["api.Stage.ValueType"]:
    stages: list[api.Stage.ValueType] = []
    with anyio.fail_after(10):
        while len(stages) < count:
            reply = await call.read()
            assert isinstance(reply, api.GenerateResponse | api.AttachResponse)
            if reply.event.progress.unchanged:
                stages.append(reply.event.progress.stage)
    return stages


async def journal_of(connection: Connection, keys: Keys) -> list[Any]:
    return list(await connection.commands.xrange(keys.journal("r")))


async def test_the_workers_job_is_what_was_asked(
    one: RunningGateway, worker: ScriptedWorker
) -> None:
    before_ms = now_ms()
    call = one.stub.Generate(ask(max_tokens=5, stop=["x"]), timeout=20)
    job = await worker.job(await worker.claim())
    assert (job.max_tokens, list(job.stop)) == (5, ["x"])
    assert 15_000 < job.timeout_ms <= 20_500  # gRPC sends three digits or so, rounded up
    assert job.deadline_ms - job.accepted_ms == job.timeout_ms
    assert before_ms <= job.accepted_ms <= now_ms()  # here the clocks are one
    call.cancel()


async def test_a_stop_string_ends_the_request_for_the_worker_too(
    one: RunningGateway, worker: ScriptedWorker
) -> None:
    call = one.stub.Generate(ask(stop=["END"]))
    lease = await worker.claim()
    await worker.say(lease, "abcE")
    await worker.say(lease, "NDtail")
    events = await collect(call)
    assert text_of(events) == "abc"
    assert tokens_of(events) == [*b"abcEND"]
    assert events[-1].finished.stop_string == "END"
    assert await worker.say(lease, "more") == "closed"
    again = await collect(one.stub.Attach(attach(2)))
    assert (text_of(again), tokens_of(again)) == ("c", [*b"cEND"])
    assert again[-1] == events[-1]


async def test_a_stop_string_that_nobody_saw_is_found_by_who_attaches(
    one: RunningGateway, other: RunningGateway, worker: ScriptedWorker
) -> None:
    call = one.stub.Generate(ask(stop=["END"]))
    lease = await worker.claim()
    await one.die()
    await worker.say(lease, "abcEND")
    events = await collect(other.stub.Attach(attach(6)))
    assert events[-1].finished.stop_string == "END"
    assert await worker.say(lease, "more") == "closed"
    call.cancel()


async def test_a_client_whose_gateway_died_goes_on_at_another_one(
    one: RunningGateway, other: RunningGateway, worker: ScriptedWorker
) -> None:
    call = one.stub.Generate(ask())
    lease = await worker.claim()
    await worker.say(lease, "ab\xe9")
    before = await read_until(call, "abé")
    await one.die()
    await worker.say(lease, "cd")
    await worker.say(lease, "ef", length_end())
    after = await collect(other.stub.Attach(attach(len(tokens_of(before)))))
    assert text_of(before + after) == "abécdef"
    assert tokens_of(before + after) == [*"abécdef".encode()]


async def test_a_repeated_request_attaches_and_all_readers_agree(
    one: RunningGateway, other: RunningGateway, worker: ScriptedWorker
) -> None:
    calls = [gateway.stub.Generate(ask()) for gateway in (one, other, one)]
    lease = await worker.claim()
    await worker.say(lease, "abc")
    await worker.say(lease, "def", length_end())
    first, *others = [await collect(call) for call in calls]
    assert text_of(first) == "abcdef"
    assert all(events == first for events in others)


async def test_cancel_ends_a_request_once(one: RunningGateway, worker: ScriptedWorker) -> None:
    call = one.stub.Generate(ask())
    lease = await worker.claim()
    cancelled = await one.stub.Cancel(api.CancelRequest(request_id="r"))
    assert cancelled.cancelled
    assert await refusal(call) == (Code.CANCELLED, "request 'r' was cancelled by its caller")
    assert await worker.say(lease, "a") == "closed"
    assert not (await one.stub.Cancel(api.CancelRequest(request_id="r"))).cancelled


async def test_a_client_that_goes_away_leaves_the_request_running_for_its_linger_time(
    one: RunningGateway, worker: ScriptedWorker
) -> None:
    call = one.stub.Generate(ask(orphan_timeout_s=30))
    lease = await worker.claim()
    await worker.say(lease, "ab")
    await read_until(call, "ab")
    call.cancel()
    assert await worker.say(lease, "cd", length_end()) == "ok"
    assert text_of(await collect(one.stub.Attach(attach()))) == "abcd"


async def test_a_request_that_nobody_reads_is_ended(
    one: RunningGateway, worker: ScriptedWorker, connection: Connection, keys: Keys
) -> None:
    call = one.stub.Generate(ask(orphan_timeout_s=0.1))
    await call.read()
    lease = await worker.claim()
    call.cancel()
    for _ in range(100):  # asking the gateway would be reading
        if await connection.commands.zscore(keys.open_requests, "r") is None:
            break
        await asyncio.sleep(0.2)
    assert await worker.say(lease, "a") == "closed"
    code, message = await refusal(one.stub.Attach(attach()))
    assert code == Code.CANCELLED
    assert "no client was attached for 0.1 s" in message


async def test_a_deadline_that_passes_is_told_to_every_reader(
    one: RunningGateway, worker: ScriptedWorker
) -> None:
    sent = time.monotonic()
    call = one.stub.Generate(ask(), timeout=2)
    lease = await worker.claim()
    left_s = 2 - (time.monotonic() - sent)  # or more when the gateway admitted it
    reader = one.stub.Attach(attach())
    assert (await refusal(call))[0] == Code.DEADLINE_EXCEEDED
    code, message = await refusal(reader)
    assert code == Code.DEADLINE_EXCEEDED
    told = re.search(r"'r' did not finish within ([\d.]+) s", message)
    assert told is not None
    assert left_s - 0.1 < float(told[1]) < 2.1  # gRPC sends what is left, rounded up
    assert await worker.say(lease, "a") == "closed"


async def test_a_failed_request_has_the_status_its_worker_gave(
    one: RunningGateway, worker: ScriptedWorker
) -> None:
    call = one.stub.Generate(ask())
    end = pb.JournalEnd(kind=pb.END_KIND_FAILED, code="ABORTED", message="3 workers died")
    await worker.say(await worker.claim(), "", end)
    assert await refusal(call) == (Code.ABORTED, "3 workers died")


def image(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


REFUSED = {
    "messages is empty": api.GenerateRequest(),
    "role is 0": api.GenerateRequest(messages=[api.Message()]),
    "temperature is 11; 0 to 10": ask(sampling=api.SamplingParams(temperature=11)),
    "top_p is nan": ask(sampling=api.SamplingParams(top_p=float("nan"))),
    "max_tokens is 503; 1 to 502": ask(max_tokens=503),
    "512 tokens; this model's maximum context length is 512": ask(text="a" * 507),
    "17 strings; at most 16": ask(stop=["x"] * 17),
    "stop_token_ids[0] is 320; 0 to 319": ask(stop_token_ids=[320]),
    "top_logprobs is 21; 0 to 20": ask(top_logprobs=21),
    "orphan_timeout_s is 3601; 0 to 3600": ask(orphan_timeout_s=3601),
    "(129 characters); 1 to 128": ask("a" * 129),
    "513 bytes of text": ask(text="a" * 513),
    "1 messages and 513 parts; this model's maximum context length": api.GenerateRequest(
        messages=[api.Message(role=api.ROLE_USER, parts=[api.ContentPart()] * 513)]
    ),
    "more than 10000 pixels in all": ask_about(api.Image(data=image(101, 100))),
    "4 bytes are no image": ask_about(api.Image(data=b"none")),
    "(2 characters); send the 64 lower-case": ask_about(api.Image(digest="ab")),
}


@pytest.mark.parametrize("said", REFUSED)
async def test_a_request_that_can_never_work_is_refused_with_the_numbers(
    one: RunningGateway, said: str
) -> None:
    code, message = await refusal(one.stub.Generate(REFUSED[said]))
    assert code == Code.INVALID_ARGUMENT
    assert said in message
    assert "\n" not in message


async def test_offsets_of_more_choices_than_there_can_be_are_refused(one: RunningGateway) -> None:
    many = api.AttachRequest(request_id="r", token_offsets=[0] * 17)
    code, message = await refusal(one.stub.Attach(many))
    assert code == Code.INVALID_ARGUMENT
    assert "the number of token_offsets is 17; 0 to 16" in message


async def test_fields_this_release_does_not_know_are_refused_in_every_call(
    one: RunningGateway,
) -> None:
    unknown = b"\xf8\x06\x01"  # field 111
    calls: list[AnyCall] = [
        one.stub.Generate(api.GenerateRequest.FromString(unknown)),
        one.stub.Attach(api.AttachRequest.FromString(unknown)),
        one.stub.Cancel(api.CancelRequest.FromString(unknown)),
        one.stub.CountTokens(api.CountTokensRequest.FromString(unknown)),
        one.stub.GetModel(api.GetModelRequest.FromString(unknown)),
    ]
    for call in calls:
        code, message = await refusal(call)
        assert code == Code.INVALID_ARGUMENT
        assert "no field with number 111" in message


async def test_an_image_of_too_many_bytes_is_refused_by_us_not_by_the_transport(
    one: RunningGateway,
) -> None:
    image = api.Image(data=bytes(2 * MAX_IMAGE_BYTES))
    code, message = await refusal(one.stub.Generate(ask_about(image)))
    assert code == Code.RESOURCE_EXHAUSTED
    assert f"{2 * MAX_IMAGE_BYTES} bytes, at most {MAX_IMAGE_BYTES}" in message


async def test_what_is_not_known_is_not_found(one: RunningGateway) -> None:
    digest = "ab" * 32
    calls: dict[str, AnyCall] = {
        f"digest {digest}": one.stub.Generate(ask_about(api.Image(digest=digest))),
        "'r' is unknown": one.stub.Attach(attach()),
        "request 'r' is unknown": one.stub.Cancel(api.CancelRequest(request_id="r")),
    }
    for said, call in calls.items():
        code, message = await refusal(call)
        assert code == Code.NOT_FOUND
        assert said in message


async def test_a_request_id_is_needed_where_a_request_is_named(one: RunningGateway) -> None:
    for call in (one.stub.Attach(attach(0, "")), one.stub.Cancel(api.CancelRequest())):
        code, message = await refusal(call)
        assert code == Code.INVALID_ARGUMENT
        assert "request_id is '' (0 characters)" in message


async def test_an_id_of_another_request_is_taken(
    one: RunningGateway, worker: ScriptedWorker
) -> None:
    call = one.stub.Generate(ask())
    await worker.claim()
    code, message = await refusal(one.stub.Generate(ask(text="other")))
    assert code == Code.ALREADY_EXISTS
    assert "'r'" in message
    call.cancel()


async def test_above_the_bound_requests_are_refused_with_the_numbers(one: RunningGateway) -> None:
    calls = [one.stub.Generate(ask(f"r{number}")) for number in range(MAX_OPEN // 2)]
    for call in calls:
        await call.read()
    code, message = await refusal(one.stub.Generate(ask("one-more")))
    assert code == Code.RESOURCE_EXHAUSTED
    own = MAX_OPEN // 2
    assert f"{own} requests of this client are open (limit {own})" in message
    for call in calls:
        call.cancel()


async def test_an_offset_behind_the_end_is_refused_with_the_numbers(
    one: RunningGateway, worker: ScriptedWorker
) -> None:
    call = one.stub.Generate(ask())
    await worker.say(await worker.claim(), "abc", length_end())
    await collect(call)
    code, message = await refusal(one.stub.Attach(attach(4)))
    assert code == Code.INVALID_ARGUMENT
    assert "token_offsets[0] is 4, the answer has 3 tokens" in message


async def test_a_request_for_another_model_is_not_read_with_this_ones_words(
    one: RunningGateway, connection: Connection, keys: Keys
) -> None:
    broker = Broker(connection, keys, max_open_requests=MAX_OPEN, result_ttl_s=60)
    job = pb.Job(request_id="r", fingerprint="another", timeout_ms=60_000)
    await broker.submit(job, None)
    code, message = await refusal(one.stub.Attach(attach()))
    assert code == Code.NOT_FOUND
    assert "was made for model another" in message


async def test_a_conversation_is_counted_with_its_image(
    one: RunningGateway, checkpoint: Checkpoint
) -> None:
    messages = ask_about(api.Image(data=image(3, 3))).messages
    counted = await one.stub.CountTokens(api.CountTokensRequest(messages=messages))
    assert list(counted.prompt_ids) == [258, 260, 263, 10, 266, 256, 267, *b"hello", 264]
    assert counted.prompt_tokens == 13
    assert counted.image_tokens == checkpoint.spec.vision.num_image_tokens == 18


async def test_the_model_is_described(one: RunningGateway, checkpoint: Checkpoint) -> None:
    model = await one.stub.GetModel(api.GetModelRequest())
    assert model.fingerprint == checkpoint.fingerprint
    assert (model.context_tokens, model.image_size, model.image_tokens) == (512, 112, 18)
    assert list(model.eos_token_ids) == [256, 263, 265]
    assert round(model.default_sampling.temperature, 6) == 0.8
    assert model.max_image_bytes == MAX_IMAGE_BYTES
