"""The clients of TGI, as they are installed, on the running system (docs/clients.md)."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.doors import IMAGE, QUESTION, TIMEOUT_S, TOKENS, URL
from tests.integration.system import Answer, System, user
from tests.needs import TEXT_GENERATION

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPT = Path(__file__).parents[1] / "clients/tgi.py"
IN_MARKDOWN = f"![]({URL}){QUESTION}"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def expected(system: System) -> Answer:
    """The answer over gRPC."""
    return await system.ask([user(QUESTION, IMAGE)], max_tokens=TOKENS, ignore_eos=False)


@pytest.mark.needs_text_generation
async def test_text_generation(system: System, expected: Answer) -> None:
    process = await asyncio.create_subprocess_exec(
        TEXT_GENERATION,
        SCRIPT,
        system.http_url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(TIMEOUT_S):
        out, _ = await process.communicate(IN_MARKDOWN.encode())
    assert process.returncode == 0
    results = json.loads(out)
    for name in ("whole", "stream", "async"):
        assert results[name]["ids"] == expected.token_ids
        assert results[name]["text"] == expected.text
    assert results["whole"]["prefill"] == expected.finished.usage.prompt_tokens
    assert results["stream"]["whole"] == expected.text
    assert results["whole"]["reason"] == results["stream"]["reason"]
    assert "maximum context length is" in results["refused"]


@pytest.fixture
def hub(system: System) -> Any:
    from huggingface_hub import InferenceClient

    return InferenceClient(system.http_url, timeout=TIMEOUT_S)


@pytest.mark.needs_clients
async def test_huggingface_hub_generates(hub: Any, expected: Answer) -> None:
    def ask(**options: Any) -> Any:
        return hub.text_generation(IN_MARKDOWN, max_new_tokens=TOKENS, **options)

    details = await asyncio.to_thread(ask, details=True)
    assert details.generated_text == expected.text
    assert [token.id for token in details.details.tokens] == expected.token_ids
    assert await asyncio.to_thread(ask) == expected.text
    frames = await asyncio.to_thread(lambda: list(ask(details=True, stream=True)))
    assert [frame.token.id for frame in frames] == expected.token_ids
    assert frames[-1].generated_text == expected.text
    pieces = await asyncio.to_thread(lambda: list(ask(stream=True)))
    assert "".join(pieces) == expected.text


@pytest.mark.needs_clients
async def test_huggingface_hub_says_why_a_request_is_refused(hub: Any) -> None:
    from huggingface_hub.errors import ValidationError

    with pytest.raises(ValidationError, match="maximum context length is"):
        await asyncio.to_thread(hub.text_generation, "hi", max_new_tokens=10**6)


@pytest.mark.needs_clients
async def test_huggingface_hub_chats(hub: Any, expected: Answer) -> None:
    content = [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": URL}},
    ]
    messages = [{"role": "user", "content": content}]

    def ask(**options: Any) -> Any:
        return hub.chat_completion(messages, max_tokens=TOKENS, temperature=0.0, **options)

    answer = await asyncio.to_thread(ask)
    assert answer.choices[0].message.content == expected.text
    chunks = await asyncio.to_thread(lambda: list(ask(stream=True)))
    deltas = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(deltas) == expected.text
