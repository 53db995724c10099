"""HTTP on the running system: the same answers as over gRPC."""

import base64
import hashlib
from typing import Any

import httpx
import pytest

from glm4v.v1 import inference_pb2 as api
from tests.e2e.asking import draw
from tests.integration.http_bench import CHAT, payloads
from tests.integration.system import System, user

pytestmark = pytest.mark.asyncio(loop_scope="session")

IMAGE = draw("http")
QUESTION = "What is this?"
DATA_URL = f"data:image/png;base64,{base64.b64encode(IMAGE).decode()}"
SEEDED = api.SamplingParams(temperature=1, top_p=1, seed=7)


async def ask(system: System, image: Any, **fields: Any) -> httpx.Response:
    content = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": image}]
    body = {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 20,
        "ignore_eos": True,
        "logprobs": True,
        **fields,
    }
    async with httpx.AsyncClient(base_url=system.http_url, timeout=60) as client:
        return await client.post(CHAT, json=body)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("sampling", "fields"),
    [
        (api.SamplingParams(temperature=0), {"temperature": 0}),
        (SEEDED, {"temperature": 1, "top_p": 1, "seed": 7}),
    ],
)
async def test_an_image_and_a_question_give_the_same_tokens_as_over_grpc(
    system: System, sampling: api.SamplingParams, fields: dict[str, Any], stream: bool
) -> None:
    expected = await system.ask([user(QUESTION, IMAGE)], sampling=sampling)
    options = {"include_usage": True}
    found = await ask(system, DATA_URL, stream=stream, stream_options=options, **fields)
    if stream:
        chunks = [each for each in payloads(found.content) if each != "[DONE]"]
        choices = [choice for each in chunks for choice in each["choices"]]
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        usage = chunks[-1]["usage"]
    else:
        choices = found.json()["choices"]
        text, usage = choices[0]["message"]["content"], found.json()["usage"]
    entries = [each for one in choices for each in (one.get("logprobs") or {}).get("content", [])]
    spoken = bytes(byte for each in entries for byte in each["bytes"])
    assert text == expected.text
    assert spoken.decode(errors="replace") == expected.text  # each token of the text, and no other
    counts = expected.finished.usage
    assert usage["completion_tokens"] == 20
    assert usage["prompt_tokens"] == counts.prompt_tokens - 3 + counts.image_tokens


async def test_an_image_that_was_sent_before_is_named_by_its_digest(system: System) -> None:
    first = await ask(system, {"url": DATA_URL}, temperature=0)
    digest = hashlib.sha256(IMAGE).hexdigest()
    again = await ask(system, {"url": f"sha256:{digest}"}, temperature=0)
    assert again.json()["choices"] == first.json()["choices"]
    unknown = await ask(system, f"sha256:{'0' * 64}", temperature=0)
    assert unknown.status_code == 404


async def test_an_image_that_cannot_be_read_is_an_error_before_the_stream(system: System) -> None:
    cut = base64.b64encode(IMAGE[: len(IMAGE) // 2]).decode()
    answer = await ask(system, cut, temperature=0, stream=True)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
