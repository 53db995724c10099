"""The formats of MindIE, TGI and vLLM on a real Redis, a scripted worker behind them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from glm4v.broker import Connection, Keys
from glm4v.checkpoint.checkpoint import Checkpoint
from tests.integration.gateway_bench import ScriptedWorker, length_end
from tests.integration.http_bench import RunningHttp, payloads, running_http

MINDIE = {"glm4v-dialect": "mindie"}
# The path, a body that asks the question, what makes it a stream, and the header.
FORMATS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, str]]] = {
    "mindie": ("/infer", {"inputs": "hello"}, {"stream": True}, {}),
    "tgi root": ("/", {"inputs": "hello"}, {"stream": True}, {}),
    "tgi of mindie": ("/", {"inputs": "hello"}, {"stream": True}, MINDIE),
    "vllm": ("/generate", {"prompt": "hello"}, {"stream": True}, {}),
    "vllm of mindie": ("/generate", {"prompt": "hello"}, {"stream": True}, MINDIE),
}


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


def text_of(answer: Any) -> str:
    """The text of a whole answer in any format."""
    answer = answer[0] if isinstance(answer, list) else answer
    return str(answer["text"][0] if "text" in answer else answer["generated_text"])


@pytest.mark.parametrize("name", FORMATS)
async def test_a_whole_answer_arrives(name: str, http: RunningHttp, worker: ScriptedWorker) -> None:
    path, body, _, headers = FORMATS[name]
    asking = asyncio.create_task(http.client.post(path, json=body, headers=headers))
    lease = await worker.claim()
    await worker.say(lease, "\nAn ")
    await worker.say(lease, "答", length_end())
    response = await asking
    echo = {"vllm": "hello", "vllm of mindie": "hello "}.get(name, "")
    assert text_of(response.json()) == f"{echo}An 答"
    assert response.headers["x-request-id"] == lease.request_id


@pytest.mark.parametrize("name", FORMATS)
async def test_a_client_that_leaves_ends_its_request(
    name: str, http: RunningHttp, worker: ScriptedWorker
) -> None:
    path, body, stream, headers = FORMATS[name]
    request = http.client.build_request("POST", path, json=body | stream, headers=headers)
    reading = asyncio.create_task(http.client.send(request, stream=True))
    lease = await worker.claim()
    await worker.say(lease, "a")
    await worker.say(lease, "b")
    response = await reading
    await anext(response.aiter_bytes())
    await response.aclose()
    for _ in range(250):
        if await worker.say(lease, "c") != "ok":
            return
        await asyncio.sleep(0.02)
    pytest.fail("the request still runs")


async def test_the_frames_of_a_real_stream_hold_the_last_token_for_the_end(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    body = {"inputs": "hello", "parameters": {"max_new_tokens": 3, "details": True}}
    asking = asyncio.create_task(http.client.post("/generate_stream", json=body))
    lease = await worker.claim()
    assert (await worker.job(lease)).max_tokens == 3
    await worker.say(lease, "\n")
    await worker.say(lease, "ab", length_end())
    frames = payloads((await asking).content)
    assert [frame["token"]["id"] for frame in frames] == [10, 97, 98]
    assert [frame["token"]["text"] for frame in frames] == ["", "", "ab"]
    assert [frame["generated_text"] for frame in frames] == [None, None, "ab"]
    assert frames[-1]["details"]["finish_reason"] == "length"


async def test_token_ids_are_the_prompt(http: RunningHttp, worker: ScriptedWorker) -> None:
    body = {"input_id": [258, 260, 263, 10, 97, 264]}
    asking = asyncio.create_task(http.client.post("/infer_token", json=body))
    lease = await worker.claim()
    job = await worker.job(lease)
    assert list(job.prompt_ids) == body["input_id"]
    await worker.say(lease, "\nyes", length_end())
    assert (await asking).json() == {"generated_text": "yes"}


@pytest.mark.parametrize("name", FORMATS)
async def test_a_refused_picture_says_what_to_send_instead(name: str, http: RunningHttp) -> None:
    path, body, _, headers = FORMATS[name]
    [field] = body
    for url in ("https://example.org/cat.jpg", "/data/multimodal_inputs/a.jpg", "file:///a.jpg"):
        parts = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "?"}]
        response = await http.client.post(path, json={field: parts}, headers=headers)
        assert response.status_code in (400, 422)
        assert "send the file itself as data:image/jpeg;base64," in response.text
