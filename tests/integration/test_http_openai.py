"""OpenAI's chat API on a real Redis, a scripted worker behind it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from glm4v.broker import Connection, Keys
from glm4v.checkpoint.checkpoint import Checkpoint
from tests.integration.gateway_bench import ScriptedWorker, length_end
from tests.integration.http_bench import RunningHttp, payloads, running_http


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


async def test_a_stream_ends_with_its_reason_and_the_sentinel(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    reading = asyncio.create_task(http.stream())
    lease = await worker.claim()
    await worker.say(lease, "\nAn ")
    await worker.say(lease, "答", length_end())
    role, *texts, last, sentinel = payloads(await reading)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(each["choices"][0]["delta"]["content"] for each in texts) == "An 答"
    assert last["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "length"}
    assert sentinel == "[DONE]"


async def test_a_whole_answer_has_its_text_and_counts(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    reading = asyncio.create_task(http.chat())
    lease = await worker.claim()
    await worker.say(lease, "\nAn ")
    await worker.say(lease, "答", length_end())
    answer = (await reading).json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "An 答"}
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}
    assert (await reading).headers["x-request-id"] == answer["id"].removeprefix("chatcmpl-")


async def test_health_models_and_the_description(http: RunningHttp) -> None:
    get = http.client.get
    assert [(await get(path)).status_code for path in ("/health", "/ready", "/live")] == [200] * 3
    http.health.set_serving(False)
    assert [(await get(path)).status_code for path in ("/health", "/ready", "/live")] == [
        503,
        503,
        200,
    ]
    assert (await http.client.head("/metrics")).status_code == 200
    assert (await get("/v1/models")).json()["data"][0]["id"] == "micro-glm4v"
    assert (await get("/v1/models/micro-glm4v")).json()["max_model_len"] == 512
    described = (await get("/openapi.json")).json()["paths"]
    assert "requestBody" in described["/v1/chat/completions"]["post"]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (
            {"temperature": "1"},
            400,
            {
                "message": "temperature: input should be a valid number",
                "type": "invalid_request_error",
                "param": "temperature",
                "code": None,
            },
        ),
        (
            {"model": "gpt"},
            404,
            {
                "message": "the model 'gpt' is not served; 'micro-glm4v' is",
                "type": "not_found_error",
                "param": None,
                "code": "model_not_found",
            },
        ),
    ],
)
async def test_errors_have_openais_form(
    http: RunningHttp, body: dict[str, Any], status: int, error: dict[str, Any]
) -> None:
    answer = await http.chat(**body)
    assert (answer.status_code, answer.json()) == (status, {"error": error})
