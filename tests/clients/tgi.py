"""What the client `text-generation` makes of a server, as JSON: `python tests/clients/tgi.py URL`.

It runs in an environment of its own, `.venv-text-generation`, because it needs a huggingface_hub
below 1.0. Nothing of this project is imported. The question comes from standard input.
"""

import asyncio
import json
import sys
from typing import Any

from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError

TOKENS = 12


def whole(client: Client, question: str) -> dict[str, Any]:
    """A whole answer."""
    response = client.generate(question, max_new_tokens=TOKENS, decoder_input_details=True)
    details = response.details
    return {
        "text": response.generated_text,
        "ids": [token.id for token in details.tokens],
        "reason": details.finish_reason,
        "prefill": len(details.prefill),
    }


def streamed(client: Client, question: str) -> dict[str, Any]:
    """A stream."""
    frames = list(client.generate_stream(question, max_new_tokens=TOKENS))
    return {
        "text": "".join(frame.token.text for frame in frames if not frame.token.special),
        "ids": [frame.token.id for frame in frames],
        "reason": frames[-1].details.finish_reason,
        "whole": frames[-1].generated_text,
    }


async def asynchronous(url: str, question: str) -> dict[str, Any]:
    """The same with asyncio."""
    client = AsyncClient(url, timeout=60)
    answer = await client.generate(question, max_new_tokens=TOKENS)
    stream = client.generate_stream(question, max_new_tokens=TOKENS)
    ids = [frame.token.id async for frame in stream]
    return {"text": answer.generated_text, "ids": ids}


def refused(client: Client) -> str:
    """A request that is refused: the error that it becomes, and its text."""
    try:
        client.generate("hi", max_new_tokens=10**6)
    except ValidationError as error:
        return str(error)
    return "not refused"


def main() -> None:
    url, question = sys.argv[1], sys.stdin.read()
    client = Client(url, timeout=60)
    results = {
        "whole": whole(client, question),
        "stream": streamed(client, question),
        "async": asyncio.run(asynchronous(url, question)),
        "refused": refused(client),
    }
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
