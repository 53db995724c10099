"""Triton's HTTP on a real Redis, in its own form and in MindIE's, a scripted worker behind it."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.doors.kserve.tensors import pack
from glm4v.broker import Broker, Connection, Keys
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.errors import UnknownReference
from tests.integration.gateway_bench import ScriptedWorker, length_end
from tests.integration.http_bench import RunningHttp, running_http
from tests.unit.gateway.kserve.test_inference import image_file

MODEL = "/v2/models/micro-glm4v"
MINDIE = {"glm4v-dialect": "mindie"}


@pytest.fixture
def checkpoint(checkpoint_dir: Callable[[str], Path]) -> Checkpoint:
    return Checkpoint.open(checkpoint_dir("micro-glm4v"))


@pytest.fixture
async def http(
    connection: Connection, keys: Keys, checkpoint: Checkpoint
) -> AsyncIterator[RunningHttp]:
    async with running_http(connection, keys, checkpoint) as running:
        yield running


@pytest.fixture
def worker(
    connection: Connection, keys: Keys, http: RunningHttp, checkpoint: Checkpoint
) -> ScriptedWorker:
    return ScriptedWorker(connection, keys, checkpoint.fingerprint)


def post(
    http: RunningHttp, path: str, body: Any, headers: dict[str, str] | None = None
) -> "asyncio.Task[httpx.Response]":
    """A request without a Content-Type, as tritonclient sends it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.create_task(http.client.post(MODEL + path, content=content, headers=headers))


async def test_a_whole_answer_in_tritons_form(http: RunningHttp, worker: ScriptedWorker) -> None:
    body = {
        "id": "7",
        "text_input": "hello",
        "parameters": {"temperature": 0, "max_tokens": 9},
        "return_finish_reason": True,
    }
    reading = post(http, "/generate", body)
    lease = await worker.claim()
    job = await worker.job(lease)
    assert (job.max_tokens, job.sampling.temperature) == (9, 0)
    await worker.say(lease, "\nAn ")
    await worker.say(lease, "答", length_end())
    assert (await reading).content == (
        '{"id":"7","model_name":"micro-glm4v","model_version":"1","text_output":"An 答",'
        '"finish_reason":"length"}'
    ).encode()


async def test_a_stream_in_tritons_form(http: RunningHttp, worker: ScriptedWorker) -> None:
    reading = post(http, "/versions/1/generate_stream", {"text_input": "hello", "stream": True})
    lease = await worker.claim()
    await worker.say(lease, "\nAn ")
    await worker.say(lease, "答", length_end())
    response = await reading
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    head = 'data: {"model_name":"micro-glm4v","model_version":"1","text_output":'
    frames = [line for line in response.text.split("\n\n") if line.startswith("data")]
    assert frames == [f'{head}"An "}}', f'{head}"答"}}', f'{head}""}}']
    assert response.text.endswith("\n\n")


async def test_a_stream_that_fails_says_so(http: RunningHttp, worker: ScriptedWorker) -> None:
    reading = post(http, "/generate_stream", {"text_input": "hello", "id": "a"})
    lease = await worker.claim()
    await worker.say(lease, "\nAn ")
    await asyncio.sleep(0.1)
    stopped = await http.client.post(MODEL + "/stopInfer", json={"id": "a"})
    assert (stopped.status_code, stopped.content) == (200, b'{"id":"a"}')
    last = (await reading).text.strip().split("\n\n")[-1]
    assert last.startswith('event: error\ndata: {"error":"request ')
    assert last.endswith('was cancelled by its caller"}')


async def test_an_image_in_every_form(
    http: RunningHttp, connection: Connection, keys: Keys
) -> None:
    """Its digest says whether the gateway has got the file."""
    broker = Broker(connection, keys, max_open_requests=1, result_ttl_s=60)
    file = image_file()
    digest = hashlib.sha256(file).hexdigest()
    encoded = base64.b64encode(file).decode()
    parts = [
        {"type": "text", "text": "hello"},
        {"type": "image_url", "image_url": f"data:image/png;base64,{encoded}"},
    ]
    bodies: list[tuple[str, Any, dict[str, str] | None]] = [
        ("/generate", {"text_input": "hello", "image": encoded}, None),
        ("/generate_stream", {"text_input": "hello", "image": [encoded]}, None),
        ("/generate", {"text_input": parts}, None),
        ("/generate", {"text_input": parts}, MINDIE),
        ("/generate_stream", {"text_input": parts}, MINDIE),
        ("/infer", *binary_request(file)),
    ]
    for number, (path, body, headers) in enumerate(bodies):
        key = {"idempotency-key": f"image-{number}"}
        reading = post(http, path, body, {**(headers or {}), **key})
        found = None
        async with asyncio.timeout(20):
            while found is None:
                await asyncio.sleep(0.02)
                with suppress(UnknownReference):
                    found = await broker.job(f"image-{number}", "")
        assert found.image_digest == digest, path
        await http.client.post(MODEL + "/stopInfer", json={"id": f"image-{number}"})
        assert (await reading).status_code == (424 if headers is MINDIE else 499)


def binary_request(file: bytes) -> tuple[bytes, dict[str, str]]:
    """Both inputs in the binary form, and its header."""
    contents = {"text_input": pack([b"hello"]), "image": pack([file])}
    inputs = [
        {
            "name": name,
            "shape": [1],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": len(data)},
        }
        for name, data in contents.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    body = head + b"".join(contents.values())
    return body, {"inference-header-content-length": str(len(head))}


async def test_tensors_in_json_and_in_the_binary_form(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    """The layout is that of Triton's "Binary Tensor Data Extension"."""
    text = {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["hello"]}
    wanted = [
        {"name": "text_output", "parameters": {"binary_data": True}},
        {"name": "num_output_tokens", "parameters": {"binary_data": True}},
        {"name": "finish_reason"},
    ]
    reading = post(http, "/infer", {"id": "42", "inputs": [text], "outputs": wanted})
    lease = await worker.claim()
    await worker.say(lease, "a cat", length_end())
    response = await reading
    length = int(response.headers["inference-header-content-length"])
    assert response.headers["content-type"] == "application/octet-stream"
    head = json.loads(response.content[:length])
    assert (head["model_name"], head["model_version"], head["id"]) == ("micro-glm4v", "1", "42")
    assert head["outputs"] == [
        {
            "name": "text_output",
            "datatype": "BYTES",
            "shape": [1],
            "parameters": {"binary_data_size": 9},
        },
        {
            "name": "num_output_tokens",
            "datatype": "UINT32",
            "shape": [1],
            "parameters": {"binary_data_size": 4},
        },
        {"name": "finish_reason", "datatype": "BYTES", "shape": [1], "data": ["length"]},
    ]
    assert response.content[length:] == b"\x05\0\0\0a cat\x05\0\0\0"


async def test_answers_in_mindies_form(http: RunningHttp, worker: ScriptedWorker) -> None:
    body = {"id": "a123", "text_input": "hello", "parameters": {"details": True}}
    reading = post(http, "/generate", body, MINDIE)
    lease = await worker.claim()
    assert (await worker.job(lease)).max_tokens == 20
    await worker.say(lease, "\nA cat", length_end())
    assert (await reading).content == (
        b'{"id":"a123","model_name":"micro-glm4v","model_version":null,"text_output":"A cat",'
        b'"details":{"finish_reason":"length","generated_tokens":6,"first_token_cost":null,'
        b'"decode_cost":null,"batch_size":null,"queue_wait_time":null}}'
    )
    body = {"id": "a123", "text_input": "hello", "parameters": {"max_new_tokens": 2}}
    reading = post(http, "/generate_stream", body, MINDIE)
    lease = await worker.claim()
    await worker.say(lease, "A")
    await worker.say(lease, "B", length_end())
    frames = [line for line in (await reading).text.split("\n\n") if line.startswith("data")]
    head = 'data:{"id":"a123","model_name":"micro-glm4v","model_version":null,"text_output":'
    assert frames == [f'{head}"A"}}', f'{head}"B"}}']


async def test_token_ids_in_mindies_form(http: RunningHttp, worker: ScriptedWorker) -> None:
    tensor = {
        "name": "input0",
        "shape": [1, 4],
        "datatype": "UINT32",
        "data": [1, 2, 3, 4],
        "parameters": {"max_new_tokens": 3},
    }
    body = {"id": "42", "inputs": [tensor], "outputs": [{"name": "output0"}]}
    reading = post(http, "/infer", body, MINDIE)
    lease = await worker.claim()
    assert list((await worker.job(lease)).prompt_ids) == [1, 2, 3, 4]
    await worker.say(lease, "abc", length_end())
    assert (await reading).content == (
        b'{"id":"42","outputs":[{"name":"output0","shape":[1,3],"datatype":"UINT32",'
        b'"data":[97,98,99]}]}'
    )


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "error"),
    [
        ("/generate", {}, None, 400, "text_input is missing; send a text"),
        ("/generate", {"text_input": "a", "temprature": 1}, None, 400, "did you mean 'temperat"),
        ("/generate_stream", {"text_input": "a", "n": 2}, None, 400, "n is 2; a stream has one"),
        ("/versions/2/generate", {"text_input": "a"}, None, 404, "has no version '2'"),
        ("/generate", b"{", None, 400, "the body is not JSON"),
        ("/infer", {"inputs": []}, None, 400, "the request has no input 'text_input'"),
        ("/infer", b"{}", {"inference-header-content-length": "9"}, 400, "is '9', the body has 2"),
        ("/stopInfer", {"id": "none"}, None, 404, "request 'none' is unknown"),
        ("/generate", {}, MINDIE, 422, "The text_input not found"),
        ("/generate", {"text_input": []}, MINDIE, 422, "Parameter text_input arr is empty"),
        ("/generate", {"text_input": 1}, MINDIE, 422, "The type of text_input is abnormal"),
        ("/generate", {"id": "a b", "text_input": "a"}, MINDIE, 422, "The id can contain only"),
        ("/infer", {"inputs": []}, MINDIE, 422, "Inputs count must be 1."),
        ("/infer", {"inputs": [{}]}, MINDIE, 422, "Req should contain 'outputs' and the type"),
        (
            "/infer",
            {"inputs": [{"datatype": "INT8"}], "outputs": []},
            MINDIE,
            422,
            "Unsupported datatype, got INT8.",
        ),
        (
            "/infer",
            {"inputs": [{"datatype": "UINT32", "shape": [1, 2], "data": [1]}], "outputs": []},
            MINDIE,
            422,
            "Data size should be 2, got 1.",
        ),
        ("/stopInfer", rb'{"id": "\ud800"}', None, 400, "the body is not JSON"),
        ("/generate", b"[" * 1000, None, 400, "the body is not JSON: recursion limit"),
        ("/generate", b"[]", MINDIE, 422, "the body should be an object"),
    ],
)
async def test_errors_are_a_string_in_the_form_of_the_dialect(
    http: RunningHttp,
    path: str,
    body: Any,
    headers: dict[str, str] | None,
    status: int,
    error: str,
) -> None:
    response = await post(http, path, body, headers)
    assert response.status_code == status
    found = response.json()
    assert error in found["error"]
    assert ("error_type" in found) == (headers is MINDIE)


async def test_the_model_that_is_not_served(http: RunningHttp) -> None:
    get = http.client.get
    assert (await get("/v2/models/x")).json() == {
        "error": "model 'x' is not served here; ask for 'micro-glm4v'"
    }
    found = await get("/v2/models/x", headers=MINDIE)
    assert (found.status_code, found.json()) == (
        404,
        {"error": "Model x not found.", "error_type": "NotFoundError"},
    )


async def test_server_model_and_health(http: RunningHttp) -> None:
    get = http.client.get
    paths = ("/v2/health/live", "/v2/health/ready", MODEL + "/ready")
    assert [(await get(path)).status_code for path in paths] == [200, 200, 200]
    http.health.set_serving(False)
    assert [(await get(path)).status_code for path in paths] == [200, 503, 503]
    assert (await get("/v2")).json()["extensions"] == [
        "binary_tensor_data",
        "generate",
        "model_configuration",
        "parameters",
    ]
    assert (await get("/v2", headers=MINDIE)).json()["name"] == "MindIE Server"
    mindie = (await get(MODEL, headers=MINDIE)).json()
    assert mindie["inputs"] == [{"name": "input0", "datatype": "UINT32", "shape": [-1]}]
    assert (await get(MODEL + "/config", headers=MINDIE)).json()["max_seq_len"] == 512


async def test_a_page_of_another_site_cannot_ask_without_saying_json(http: RunningHttp) -> None:
    """A browser sends any other type without asking the gateway first."""
    body = json.dumps({"text_input": "hello"}).encode()
    response = await http.client.post(
        MODEL + "/generate", content=body, headers={"origin": "https://example.com"}
    )
    assert response.status_code == 400
    assert "send Content-Type: application/json" in response.json()["error"]
