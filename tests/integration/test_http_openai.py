"""OpenAI's chat API on a real Redis, a scripted worker behind it: what clients read, byte for byte.

Each of the forms below is one that some client was seen to need; docs/clients.md says which.
"""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from glm4v.broker import Connection, Keys
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api
from tests.integration.gateway_bench import (
    MAX_IMAGE_BYTES,
    ScriptedWorker,
    failed_end,
    length_end,
)
from tests.integration.http_bench import RunningHttp, chat_body, payloads, running_http

Refusal = tuple[int, dict[str, Any]]


@pytest.fixture
def checkpoint(checkpoint_dir: Callable[[str], Path]) -> Checkpoint:
    return Checkpoint.open(checkpoint_dir("micro-glm4v"))


@pytest.fixture
async def http(
    connection: Connection, keys: Keys, checkpoint: Checkpoint
) -> AsyncIterator[RunningHttp]:
    async with running_http(connection, keys, checkpoint, keepalive_s=0.3) as running:
        yield running


@pytest.fixture
def worker(
    connection: Connection, keys: Keys, http: RunningHttp, checkpoint: Checkpoint
) -> ScriptedWorker:
    return ScriptedWorker(connection, keys, checkpoint.fingerprint)


def golden(data: bytes) -> str:
    """A body with what differs in each run replaced, and without the comments of a stream."""
    text = re.sub(r'"created":\d+', '"created":0', data.decode())
    text = re.sub(r"fp_[0-9a-f]{12}", "fp_x", text)
    return re.sub(r"(?m)^: \w+\n\n", "", text)


def chunk(choices: str, usage: str = "") -> str:
    """A frame of request "r"."""
    head = '{"id":"chatcmpl-r","object":"chat.completion.chunk","created":0,"model":"micro-glm4v",'
    return f'data: {head}"system_fingerprint":"fp_x","choices":[{choices}]{usage}}}\n\n'


ROLE = '{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}'


async def answered(
    http: RunningHttp, worker: ScriptedWorker, *texts: str, **body: Any
) -> tuple[Any, pb.Job]:
    """What comes back for a request "r" whose worker says these texts, and its job."""
    reading = asyncio.create_task(http.chat(request_id="r", **body))
    lease = await worker.claim()
    job = await worker.job(lease)
    for text in texts[:-1]:
        await worker.say(lease, text)
    await worker.say(lease, texts[-1], length_end())
    return await reading, job


async def test_the_frames_of_a_stream(http: RunningHttp, worker: ScriptedWorker) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream, _ = await answered(http, worker, "\nAn ", "答", "", stream=True, stream_options=options)
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.headers["x-accel-buffering"] == "no"
    assert stream.headers["x-request-id"] == "r"
    usage = ',"usage":{"prompt_tokens":10,"completion_tokens":7,"total_tokens":17}'
    assert golden(stream.content) == (
        chunk(ROLE)
        + chunk('{"index":0,"delta":{"content":"An "},"finish_reason":null}')
        + chunk('{"index":0,"delta":{"content":"答"},"finish_reason":null}')
        + chunk('{"index":0,"delta":{},"finish_reason":"length"}')
        + chunk("", usage)
        + "data: [DONE]\n\n"
    )


async def test_withheld_text_comes_with_the_reason(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    stream, _ = await answered(http, worker, "ab", stream=True, stop="bc")
    assert golden(stream.content) == (
        chunk(ROLE)
        + chunk('{"index":0,"delta":{"content":"a"},"finish_reason":null}')
        + chunk('{"index":0,"delta":{"content":"b"},"finish_reason":"length"}')
        + "data: [DONE]\n\n"
    )


async def test_a_whole_answer(http: RunningHttp, worker: ScriptedWorker) -> None:
    answer, _ = await answered(http, worker, "\nAn ", "答")
    assert answer.headers["content-type"] == "application/json"
    assert golden(answer.content) == (
        '{"id":"chatcmpl-r","object":"chat.completion","created":0,"model":"micro-glm4v",'
        '"system_fingerprint":"fp_x","choices":[{"index":0,"message":{"role":"assistant",'
        '"content":"An 答"},"logprobs":null,"finish_reason":"length"}],'
        '"usage":{"prompt_tokens":10,"completion_tokens":7,"total_tokens":17}}'
    )


@pytest.mark.parametrize(("include", "text"), [(False, "a"), (True, "abc")])
async def test_a_stop_string_is_left_out_unless_asked_for(
    http: RunningHttp, worker: ScriptedWorker, include: bool, text: str
) -> None:
    fields = {"stop": ["bc"], "include_stop_str_in_output": include}
    answer, _ = await answered(http, worker, "abcd", **fields)
    [choice] = answer.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")


async def test_several_choices_have_an_index_in_every_chunk(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    reading = asyncio.create_task(http.stream(n=2, stream_options={"include_usage": True}))
    for text in ("a", "b"):
        await worker.say(await worker.claim(), text, length_end())
    *chunks, usage, sentinel = payloads(await reading)
    texts, roles = ["", ""], [0, 0]
    for each in chunks:
        [choice] = each["choices"]
        roles[choice["index"]] += "role" in choice["delta"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert (sorted(texts), roles, sentinel) == (["a", "b"], [1, 1], "[DONE]")
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_are_those_of_the_text(
    http: RunningHttp, worker: ScriptedWorker, stream: bool
) -> None:
    reading = asyncio.create_task(http.chat(stream=stream, logprobs=True, top_logprobs=1))
    lease = await worker.claim()
    assert (await worker.job(lease)).top_logprobs == 1
    await worker.say(lease, "\na", length_end(), logprob=-0.5)  # the newline is the template's
    answer = await reading
    one = {"token": "a", "logprob": -0.5, "bytes": [97]}
    expected = {"content": [{**one, "top_logprobs": [one]}]}
    found = payloads(answer.content)[1:2] if stream else [answer.json()]
    assert found[0]["choices"][0]["logprobs"] == expected


async def test_a_stream_that_fails_ends_with_the_form_that_all_clients_take_for_a_failure(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    reading = asyncio.create_task(http.stream(request_id="r"))
    lease = await worker.claim()
    await worker.say(lease, "a")
    await asyncio.sleep(0.1)
    await worker.say(lease, "", failed_end("ABORTED", "boom"))
    assert golden(await reading) == (
        chunk(ROLE)
        + chunk('{"index":0,"delta":{"content":"a"},"finish_reason":null}')
        + "event: error\n"
        + 'data: {"error":{"message":"boom","type":"server_error","param":null,"code":500}}\n\n'
    )


async def test_a_failure_before_any_text_is_an_answer_of_its_own(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    reading = asyncio.create_task(http.chat(stream=True))
    lease = await worker.claim()
    await worker.say(lease, "", failed_end("INVALID_ARGUMENT", "the image is cut off"))
    answer = await reading
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "the image is cut off"


async def test_stages_and_keepalives_are_comments(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    reading = asyncio.create_task(http.stream())
    await asyncio.sleep(1.5)  # longer than an early failure is awaited
    await worker.say(await worker.claim(), "a", length_end())
    stream = (await reading).decode()
    assert stream.count(": queued\n\n") >= 3
    lines = [line for line in stream.split("\n") if line]
    assert {line.split(":")[0] for line in lines} == {"", "data"}  # no id, event or retry


async def test_the_role_comes_before_the_first_text(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    async with http.client.stream(
        "POST", "/v1/chat/completions", json=chat_body(stream=True)
    ) as response:
        lines = response.aiter_lines()
        assert '"role":"assistant"' in await anext(lines)
        await worker.say(await worker.claim(), "a", length_end())
        assert [line async for line in lines][-2] == "data: [DONE]"


async def test_a_conversation_keeps_its_roles(http: RunningHttp, worker: ScriptedWorker) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}], "name": "x"},
        {"role": "assistant", "content": "hi", "refusal": None},
        {"role": "user", "content": "bye"},
    ]
    _, job = await answered(http, worker, "a", messages=messages)
    count = api.CountTokensRequest()
    for role, text in zip((1, 2, 3, 2), ("be brief", "hello", "hi", "bye"), strict=True):
        count.messages.add(role=role).parts.add(text=text)
    expected = await http.gateway.count_tokens(http.caller, count)
    assert list(job.prompt_ids) == list(expected.prompt_ids)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_completion_tokens": 3, "max_tokens": 9}, {"max_tokens": 3}),
        ({"max_tokens": 9}, {"max_tokens": 9}),
        ({"stop": None, "ignore_eos": True}, {"stop": [], "stop_token_ids": []}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"priority": 0}, {"priority": 3}),
        ({"priority": 1, "cache_salt": "s"}, {"priority": 1, "cache_salt": "s"}),
        ({"min_tokens": 2, "n": 1, "best_of": 1}, {"min_tokens": 2}),
    ],
)
async def test_options_reach_the_job(
    http: RunningHttp, worker: ScriptedWorker, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    answer, job = await answered(http, worker, "a", **fields)
    assert answer.status_code == 200
    for name, value in expected.items():
        found = getattr(job, name)
        assert (list(found) if isinstance(value, list) else found) == value


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"do_sample": False}, {"temperature": 0.0}),
        ({"top_p": 0.5, "top_k": -1}, {"top_p": 0.5, "top_k": 0}),
        ({"seed": 7}, {"seed": 7}),
        ({"seed": -1}, {"seed": 2**64 - 1}),
        ({"presence_penalty": 1, "frequency_penalty": -2}, {"presence_penalty": 1}),
        ({"repetition_penalty": 1.5, "min_p": 0.5}, {"repetition_penalty": 1.5, "min_p": 0.5}),
        ({"logit_bias": {"97": -100}}, {"logit_bias": {97: -100.0}}),
    ],
)
async def test_sampling_parameters_reach_the_job(
    http: RunningHttp, worker: ScriptedWorker, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    _, job = await answered(http, worker, "a", **fields)
    for name, value in expected.items():
        found = getattr(job.sampling, name)
        assert (dict(found) if name == "logit_bias" else found) == value


SCHEMA = {"title": "Cat", "type": "object", "properties": {"cat": {"type": "boolean"}}}


@pytest.mark.parametrize(
    ("fields", "kind", "value"),
    [
        ({"response_format": {"type": "text"}}, None, ""),
        ({"response_format": {"type": "json_object"}}, "json_schema", "{}"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "Cat", "strict": True, "schema": SCHEMA},
                }
            },
            "json_schema",
            '{"title": "Cat", "type": "object", "properties": {"cat": {"type": "boolean"}}}',
        ),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"structured_outputs": {"json": "{}"}}, "json_schema", "{}"),
        ({"structured_outputs": {"json_object": True}}, "json_schema", "{}"),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"guided_json": {}}, "json_schema", "{}"),
    ],
)
async def test_the_form_of_the_answer(
    http: RunningHttp,
    worker: ScriptedWorker,
    fields: dict[str, Any],
    kind: str | None,
    value: str,
) -> None:
    _, job = await answered(http, worker, "a", **fields)
    assert job.response_format.WhichOneof("format") == kind
    assert not kind or getattr(job.response_format, kind) == value


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "dummy"},
        {"model": "tgi"},
        {"model": None},
        {"tools": [], "tool_choice": "none"},
        {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"skip_special_tokens": False, "modalities": ["text"], "chat_template_kwargs": {}},
        {"stream_options": {"continuous_usage_stats": True, "x": 1}, "logprobs": None},
    ],
)
async def test_what_clients_send_without_need_is_taken(
    http: RunningHttp, worker: ScriptedWorker, fields: dict[str, Any]
) -> None:
    answer, _ = await answered(http, worker, "a", **fields)
    assert answer.status_code == 200
    assert "x-ignored-parameters" not in answer.headers


async def test_an_unknown_field_is_ignored_and_named(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    answer, _ = await answered(http, worker, "a", temprature=1, **{"in valid": 1})
    assert answer.headers["x-ignored-parameters"] == "temprature"


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"temperature": "1"}, (400, {"param": "temperature"})),
        ({"temperature": 11}, (400, {"type": "invalid_request_error", "code": None})),
        ({"messages": "hello"}, (400, {"param": "messages"})),
        ({"messages": [{"role": "tool", "content": "x"}]}, (400, {"param": "messages[0].role"})),
        ({"tools": [{"type": "function"}]}, (400, {"param": "tools"})),
        ({"modalities": ["audio"]}, (400, {"param": "modalities"})),
        ({"top_logprobs": 2}, (400, {"param": "top_logprobs"})),
        ({"logit_bias": {"x": 1}}, (400, {"param": "logit_bias"})),
        ({"response_format": {"type": "xml"}}, (400, {"param": "response_format.type"})),
        (
            {"response_format": {"type": "json_schema"}},
            (400, {"param": "response_format.json_schema.schema"}),
        ),
        ({"guided_regex": "a", "guided_json": {}}, (400, {"type": "invalid_request_error"})),
        ({"model": "gpt-4o"}, (404, {"type": "not_found_error", "code": "model_not_found"})),
        ({"max_tokens": 600}, (400, {"code": "context_length_exceeded"})),
        (
            {"messages": [{"role": "user", "content": "a" * 600}]},
            (400, {"code": "context_length_exceeded"}),
        ),
    ],
)
async def test_errors_have_openais_form_and_name_the_field(
    http: RunningHttp, fields: dict[str, Any], refusal: Refusal
) -> None:
    answer = await http.chat(**fields)
    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert answer.status_code == refusal[0]
    assert {name: error[name] for name in refusal[1]} == refusal[1]


async def test_too_long_a_prompt_says_so_in_the_words_that_clients_look_for(
    http: RunningHttp,
) -> None:
    answer = await http.chat("a" * 600)
    assert "this model's maximum context length is 512 tokens" in answer.json()["error"]["message"]


async def test_an_image_of_too_many_bytes_is_not_tried_again(http: RunningHttp) -> None:
    data = base64.b64encode(bytes(MAX_IMAGE_BYTES + 1)).decode()
    answer = await http.chat([{"type": "image_url", "image_url": f"data:image/png;base64,{data}"}])
    assert answer.status_code == 413
    assert "send a smaller file" in answer.json()["error"]["message"]


async def test_an_id_that_is_taken_is_not_tried_again(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    first, _ = await answered(http, worker, "a", temperature=0)
    again = await http.chat(request_id="r", temperature=0)  # the same request attaches
    assert again.json()["choices"] == first.json()["choices"]
    other = await http.chat("another", request_id="r")
    assert other.status_code == 422


async def test_a_limit_says_when_to_come_back(http: RunningHttp, worker: ScriptedWorker) -> None:
    waiting = [asyncio.create_task(http.chat()) for _ in range(3)]  # all that one client may have
    leases = [await worker.claim() for _ in waiting]
    answer = await http.chat()
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["type"] == "rate_limit_error"
    for lease in leases:
        await worker.say(lease, "a", length_end())
    assert [(await one).status_code for one in waiting] == [200] * 3


async def test_a_deadline_that_passed_is_final(http: RunningHttp, worker: ScriptedWorker) -> None:
    answer = await http.chat(headers={"x-request-timeout": "0.2"})
    assert answer.status_code == 504
    assert answer.json()["error"]["type"] == "timeout_error"
    assert answer.headers["x-should-retry"] == "false"
    refused = await http.chat(headers={"x-request-timeout": "soon"})
    assert refused.json()["error"]["message"].startswith("X-Request-Timeout is 'soon'")


async def test_health_models_and_the_description(http: RunningHttp) -> None:
    get, paths = http.client.get, ("/health", "/ready", "/live")
    assert [(await get(path)).status_code for path in paths] == [200, 200, 200]
    http.health.set_serving(False)
    assert [(await get(path)).status_code for path in paths] == [503, 503, 200]
    assert (await http.client.head("/metrics")).status_code == 200
    assert (await get("/v1/models")).json()["data"][0]["id"] == "micro-glm4v"
    assert (await get("/v1/models/micro-glm4v")).json()["max_model_len"] == 512
    assert (await get("/v1/models/other")).json()["error"]["code"] == "model_not_found"
    assert (await get("/v1/other")).json()["error"]["type"] == "not_found_error"
    wrong = await http.client.put("/v1/models")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
    assert wrong.json()["error"]["message"] == "PUT /v1/models is not served; GET, HEAD is"
    described = (await get("/openapi.json")).json()["paths"]
    assert "requestBody" in described["/v1/chat/completions"]["post"]


async def test_an_id_goes_on_where_it_says_or_says_what_is_wrong(
    http: RunningHttp, worker: ScriptedWorker
) -> None:
    reading = asyncio.create_task(http.stream({"last-event-id": ""}, request_id="r", n=2))
    for _ in range(2):
        await worker.say(await worker.claim(), "abc", length_end())
    assert b"\nid: r:0,0\n" in await reading
    for last, start in (("r:1", "bc"), ("r:3!,2", "")):
        rest = payloads(await http.stream({"last-event-id": last}, n=2))
        texts = [each["choices"][0] for each in rest[:-1]]
        own = [one["delta"].get("content", "") for one in texts if one["index"] == 0]
        assert ("".join(own), rest[-1]) == (start, "[DONE]")
    assert payloads(await http.stream({"last-event-id": "r:3!,3!;"}, n=2)) == ["[DONE]"]
    for last, status in (("x", 400), ("unknown:1", 404), ("r:9", 400), ("r:1,1,1", 400)):
        assert (await http.chat(stream=True, headers={"last-event-id": last})).status_code == status
    assert (await http.chat(headers={"last-event-id": "r:1"})).status_code == 400
