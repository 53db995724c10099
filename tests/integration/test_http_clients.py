"""Clients of others, as they are installed, on the running system; docs/clients.md has versions.

Their modules are imported where they are used: without the extra `clients` these tests are skipped.
"""

import base64
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pydantic
import pytest
import pytest_asyncio

from tests.e2e.asking import draw
from tests.integration.system import System, user

pytestmark = [pytest.mark.needs_clients, pytest.mark.asyncio(loop_scope="session")]

IMAGE = draw("clients")
QUESTION = "What is this?"
DATA_URL = f"data:image/png;base64,{base64.b64encode(IMAGE).decode()}"
CONTENT = [
    {"type": "text", "text": QUESTION},
    {"type": "image_url", "image_url": {"url": DATA_URL}},
]
TOKENS = 20
REQUEST = {
    "model": "micro-glm4v",
    "messages": [{"role": "user", "content": CONTENT}],
    "temperature": 0,
    "max_completion_tokens": TOKENS,
    "extra_body": {"ignore_eos": True},
}
FORMED = {
    "model": "micro-glm4v",
    "messages": [{"role": "user", "content": "Is it a cat?"}],
    "max_completion_tokens": 200,
}


class Verdict(pydantic.BaseModel):
    """A form that any model can fill in."""

    cat: bool


@pytest.fixture
def client(system: System) -> Iterator[Any]:
    from openai import OpenAI

    with OpenAI(base_url=f"{system.http_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def aio_client(system: System) -> AsyncIterator[Any]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(
        base_url=f"{system.http_url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def expected(system: System) -> str:
    """The answer over gRPC."""
    return (await system.ask([user(QUESTION, IMAGE)], max_tokens=TOKENS)).text


async def test_openai_gets_the_answer(client: Any, expected: str) -> None:
    answer = client.chat.completions.create(**REQUEST)
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + TOKENS
    assert answer._request_id == answer.id.removeprefix("chatcmpl-")


async def test_openai_streams(client: Any, expected: str) -> None:
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(**REQUEST, stream=True, stream_options=options))
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == expected
    assert chunks[-1].usage.completion_tokens == TOKENS


async def test_openai_streams_asynchronously(aio_client: Any, expected: str) -> None:
    stream = await aio_client.chat.completions.create(**REQUEST, stream=True)
    texts = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    assert "".join(texts) == expected


async def test_openais_helper_follows_a_stream(client: Any) -> None:
    with client.chat.completions.stream(**FORMED, response_format=Verdict) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.role == "assistant"
    assert isinstance(final.choices[0].message.parsed, Verdict)


async def test_openai_parses_what_has_a_form(client: Any) -> None:
    answer = client.chat.completions.parse(**FORMED, response_format=Verdict)
    assert isinstance(answer.choices[0].message.parsed, Verdict)


async def test_openai_lists_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["micro-glm4v"]
    assert client.models.retrieve("micro-glm4v").owned_by == "glm4v-serve"


async def test_openai_raises_its_own_errors_with_our_words(client: Any) -> None:
    import openai

    with pytest.raises(openai.BadRequestError, match="temperature is 11; 0 to 10 is allowed"):
        client.chat.completions.create(**{**REQUEST, "temperature": 11})
    with pytest.raises(openai.NotFoundError, match="'gpt-4o' is not served"):
        client.chat.completions.create(**{**REQUEST, "model": "gpt-4o"})
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{**REQUEST, "max_completion_tokens": 10**6})
    assert refused.value.code == "context_length_exceeded"


@pytest_asyncio.fixture(loop_scope="session")
async def langchain(system: System) -> AsyncIterator[Callable[..., Any]]:
    """Makes chat models, whose connections it closes."""
    import httpx2
    from langchain_openai import ChatOpenAI

    with httpx2.Client() as http:
        async with httpx2.AsyncClient() as aio_http:
            yield partial(
                ChatOpenAI,
                base_url=f"{system.http_url}/v1",
                api_key="none",
                model="micro-glm4v",
                temperature=0,
                max_retries=0,
                http_client=http,
                http_async_client=aio_http,
            )


@pytest.fixture
def chat(langchain: Callable[..., Any]) -> Any:
    return langchain(max_completion_tokens=TOKENS, extra_body={"ignore_eos": True})


async def test_langchain_gets_the_answer(chat: Any, expected: str) -> None:
    from langchain_core.messages import HumanMessage

    answer = chat.invoke([HumanMessage(content=CONTENT)])
    assert answer.content == expected
    assert answer.usage_metadata["output_tokens"] == TOKENS
    assert answer.response_metadata["finish_reason"] == "length"


async def test_langchain_sends_an_image_as_a_string(chat: Any, expected: str) -> None:
    parts = [CONTENT[0], {"type": "image_url", "image_url": DATA_URL}]
    assert chat.invoke([("user", parts)]).content == expected


async def test_langchain_streams(chat: Any, expected: str) -> None:
    chunks = [chunk async for chunk in chat.astream([("user", CONTENT)])]
    assert "".join(chunk.content for chunk in chunks) == expected


async def test_langchain_fills_a_form(langchain: Callable[..., Any]) -> None:
    chat = langchain(max_completion_tokens=200)
    formed = chat.with_structured_output(Verdict, method="json_schema")
    assert isinstance(formed.invoke("Is it a cat?"), Verdict)


async def test_langchain_knows_that_a_prompt_is_too_long(chat: Any) -> None:
    from langchain_core.exceptions import ContextOverflowError

    with pytest.raises(ContextOverflowError, match="maximum context length is 512 tokens"):
        chat.invoke("a" * 600)
