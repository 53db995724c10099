"""KServe's service with Triton's streams, on a real Redis, with a worker that a test scripts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import grpc
import pytest
from grpc import aio

from gateway.access.caller import Caller
from gateway.doors.kserve import grpc_service_pb2 as pb
from gateway.doors.kserve.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from gateway.doors.kserve.stream import InferStream
from gateway.doors.kserve.tensors import pack, unpack
from glm4v.broker import Connection, Keys
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.errors import Unavailable
from tests.integration.gateway_bench import (
    RunningGateway,
    ScriptedWorker,
    attach,
    collect,
    gateway_of,
    length_end,
    refusal,
    running_broker,
    running_gateway,
)
from tests.integration.gateway_bench import text_of as answer_of

if TYPE_CHECKING:
    from gateway.doors.kserve.grpc_service_pb2_grpc import GRPCInferenceServiceAsyncStub

MODEL = "micro-glm4v"
Call = aio.StreamStreamCall[pb.ModelInferRequest, pb.ModelStreamInferResponse]


@pytest.fixture
async def gateway(
    connection: Connection, keys: Keys, checkpoint_dir: Callable[[str], Path]
) -> AsyncIterator[RunningGateway]:
    checkpoint = Checkpoint.open(checkpoint_dir(MODEL))
    async with running_gateway(connection, keys, checkpoint) as gateway:
        yield gateway


@pytest.fixture
def stub(gateway: RunningGateway) -> "GRPCInferenceServiceAsyncStub":
    return GRPCInferenceServiceStub(gateway.channel)


@pytest.fixture
def worker(connection: Connection, keys: Keys, fingerprint: str) -> ScriptedWorker:
    return ScriptedWorker(connection, keys, fingerprint)


def question(
    tag: str = "7", text: str = "hello", model: str = MODEL, **parameters: Any
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, id=tag)
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(pack([text.encode()]))
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
        setattr(request.parameters[name], kind[type(value)], value)
    return request


def stop(request_id: str) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=MODEL, id=request_id)
    request.inputs.add(name="stop", datatype="BOOL", shape=[1]).contents.bool_contents.append(True)
    return request


def text_of(response: pb.ModelInferResponse) -> str:
    """The text of a response, which has it in the raw form alone."""
    names = [each.name for each in response.outputs]
    output = response.outputs[names.index("text_output")]
    assert not output.HasField("contents")
    assert (output.datatype, list(output.shape)) == ("BYTES", [1])
    raw = response.raw_output_contents[names.index("text_output")]
    [element] = unpack("text_output", "BYTES", raw)
    assert isinstance(element, bytes)
    return element.decode()


async def read(call: Call) -> pb.ModelStreamInferResponse:
    with anyio.fail_after(10):
        reply = await call.read()
    assert isinstance(reply, pb.ModelStreamInferResponse), "the stream has ended"
    return reply


async def piece(call: Call) -> tuple[str, str, bool]:
    """The next piece: id, text and whether it is the last of its request."""
    response = (await read(call)).infer_response
    return response.id, text_of(response), response.parameters["triton_final_response"].bool_param


async def test_an_answer_in_one_piece(
    stub: "GRPCInferenceServiceAsyncStub", worker: ScriptedWorker
) -> None:
    request = question(temperature=0, max_tokens=6)
    for name in ("text_output", "finish_reason", "num_input_tokens", "num_output_tokens"):
        request.outputs.add(name=name)
    call = asyncio.create_task(_one(stub, request))
    lease = await worker.claim()
    job = await worker.job(lease)
    assert (job.max_tokens, job.sampling.temperature) == (6, 0)
    await worker.say(lease, "a cat", length_end())
    response = await call
    assert (response.model_name, response.model_version, response.id) == (MODEL, "1", "7")
    assert text_of(response) == "a cat"
    assert [unpack(o.name, o.datatype, raw) for o, raw in _rest(response)] == [
        [b"length"],
        [len(job.prompt_ids)],
        [5],
    ]


async def test_a_stream_has_pieces_and_says_which_is_the_last(
    stub: "GRPCInferenceServiceAsyncStub", worker: ScriptedWorker
) -> None:
    call = stub.ModelStreamInfer()
    await call.write(question("a"))
    lease = await worker.claim()
    await worker.say(lease, "one ")
    assert await piece(call) == ("a", "one ", False)
    await worker.say(lease, "two")
    assert await piece(call) == ("a", "two", False)
    await worker.say(lease, "", length_end())
    assert await piece(call) == ("a", "", True)
    await call.done_writing()
    assert await call.read() is aio.EOF
    assert await call.code() == grpc.StatusCode.OK


async def test_an_empty_response_marks_the_end_where_it_is_asked_for(
    stub: "GRPCInferenceServiceAsyncStub", worker: ScriptedWorker
) -> None:
    call = stub.ModelStreamInfer()
    await call.write(question("a", triton_enable_empty_final_response=True))
    lease = await worker.claim()
    await worker.say(lease, b"\xe7", length_end())  # the start of a character
    assert await piece(call) == ("a", "�", False)
    end = (await read(call)).infer_response
    assert end.id == "a"
    assert end.parameters["triton_final_response"].bool_param
    assert not end.outputs
    assert not end.raw_output_contents


async def test_requests_of_one_stream_are_answered_as_they_go(
    stub: "GRPCInferenceServiceAsyncStub", worker: ScriptedWorker
) -> None:
    """The second is answered before the first, and a third that fails ends neither."""
    call = stub.ModelStreamInfer()
    await call.write(question("a", text="first"))
    first = await worker.claim()
    await call.write(question("b", text="second"))
    second = await worker.claim()
    await worker.say(second, "B", length_end())
    assert await piece(call) == ("b", "B", False)
    assert await piece(call) == ("b", "", True)
    await call.write(question("c", temperature=-1))
    failure = await read(call)
    assert failure.error_message == ("request 'c': sampling.temperature is -1; 0 to 10 is allowed")
    assert not failure.HasField("infer_response")
    await call.done_writing()
    await worker.say(first, "A", length_end())
    assert await piece(call) == ("a", "A", False)
    assert await piece(call) == ("a", "", True)
    assert await call.read() is aio.EOF


async def test_one_request_of_a_stream_is_stopped(
    stub: "GRPCInferenceServiceAsyncStub", worker: ScriptedWorker
) -> None:
    call = stub.ModelStreamInfer()
    await call.write(question("a", text="first"))
    first = await worker.claim()
    await call.write(question("b", text="second"))
    second = await worker.claim()
    await call.write(stop("a"))
    replies = [await read(call), await read(call)]
    [failure] = [each.error_message for each in replies if each.error_message]
    assert failure.startswith("request 'a': request ")
    assert failure.endswith("was cancelled by its caller")
    [done] = [each.infer_response for each in replies if not each.error_message]
    assert (done.id, done.parameters["triton_final_response"].bool_param) == ("a", True)
    assert await worker.say(first, "x") != "ok"
    await worker.say(second, "B", length_end())
    assert await piece(call) == ("b", "B", False)
    assert await piece(call) == ("b", "", True)
    await call.write(stop("a"))
    assert "no request of this stream runs" in (await read(call)).error_message


async def test_a_client_that_leaves_cancels_what_it_has_not_named(
    stub: "GRPCInferenceServiceAsyncStub", gateway: RunningGateway, worker: ScriptedWorker
) -> None:
    call = stub.ModelStreamInfer()
    await call.write(question("a"))
    unnamed = await worker.claim()
    await call.write(question("b", text="named", request_id="mine"))
    named = await worker.claim()
    call.cancel()
    with anyio.fail_after(20):
        while await worker.say(unnamed, "x") == "ok":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await worker.say(named, "still here", length_end())
    events = await collect(gateway.stub.Attach(attach(0, "mine")))
    assert answer_of(events) == "still here"


async def test_a_client_that_leaves_while_a_piece_is_sent_cancels_its_request(
    stub: "GRPCInferenceServiceAsyncStub", worker: ScriptedWorker
) -> None:
    """Then no code of the stream is running that could notice it."""
    call = stub.ModelStreamInfer()
    await call.write(question("a"))
    lease = await worker.claim()
    for _ in range(200):  # more than the window of the client takes, which reads none
        assert await worker.say(lease, "x" * 2000) == "ok"
    call.cancel()
    with anyio.fail_after(20):
        while await worker.say(lease, "x") == "ok":  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_whole_answer_of_a_stream(
    stub: "GRPCInferenceServiceAsyncStub", worker: ScriptedWorker
) -> None:
    call = stub.ModelStreamInfer()
    request = question("a", stream=False, exclude_input_in_output=False, return_finish_reason=True)
    await call.write(request)
    lease = await worker.claim()
    await worker.say(lease, " a")
    await worker.say(lease, " b", length_end())
    response = (await read(call)).infer_response
    assert text_of(response) == "hello a b"
    assert [each.name for each in response.outputs] == ["text_output", "finish_reason"]


async def test_a_stream_of_a_gateway_that_stops_ends_with_unavailable(
    connection: Connection, keys: Keys, checkpoint_dir: Callable[[str], Path]
) -> None:
    """An OK end would leave the client waiting for its answer."""
    checkpoint = Checkpoint.open(checkpoint_dir(MODEL))

    async def requests() -> AsyncIterator[pb.ModelInferRequest]:
        yield question("a")
        await asyncio.Event().wait()

    async with running_broker(connection, keys, checkpoint.fingerprint) as broker:
        gateway = gateway_of(broker, checkpoint)
        stream = InferStream(gateway, Caller(), time_remaining=lambda: None, idle=asyncio.Event())
        reply = asyncio.ensure_future(anext(stream.replies(requests())))
        worker = ScriptedWorker(connection, keys, checkpoint.fingerprint)
        lease = await worker.claim()
        broker.stop_reading()
        with anyio.fail_after(20), pytest.raises(Unavailable, match="shutting down"):
            await reply
        assert await worker.say(lease, "x") == "ok"  # it runs on for whoever takes it up


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (question(model="other"), "NOT_FOUND", "model 'other' is not served here; ask for 'micro"),
        (question(n=2, best_of=1), "INVALID_ARGUMENT", "best_of is 1; 2 to 16 is allowed"),
        (stop("a"), "INVALID_ARGUMENT", "ends a request of the same ModelStreamInfer"),
        (pb.ModelInferRequest(model_name=MODEL), "INVALID_ARGUMENT", "has no input 'text_input'"),
    ],
)
async def test_what_is_wrong_is_a_status(
    stub: "GRPCInferenceServiceAsyncStub", request_: pb.ModelInferRequest, code: str, message: str
) -> None:
    found, text = await refusal(stub.ModelInfer(request_))
    assert (found.name, message in text) == (code, True), text


async def _one(
    stub: "GRPCInferenceServiceAsyncStub", request: pb.ModelInferRequest
) -> pb.ModelInferResponse:
    return await stub.ModelInfer(request, timeout=10)


def _rest(response: pb.ModelInferResponse) -> list[tuple[Any, bytes]]:
    return list(zip(response.outputs, response.raw_output_contents, strict=True))[1:]
