"""Servers under the same load: this one over gRPC, others over OpenAI's HTTP API.

Closed loop: `concurrency` callers, each sending a request when its last one is complete. Greedy
and without stop tokens, so that every server computes the same number of tokens.
"""

import asyncio
import base64
import io
import json
import random
import statistics
import string
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import httpx

from glm4v.errors import Unavailable
from glm4v.v1 import inference_pb2 as api
from glm4v.v1.inference_pb2_grpc import InferenceServiceStub

_TIMEOUT_S = 600.0
_MAX_MESSAGE_BYTES = 64 * 2**20
_JSON = {"content-type": "application/json"}
_Request = TypeVar("_Request")


@dataclass(frozen=True, slots=True)
class Load:
    """The load on every server."""

    prompt_tokens: int
    answer_tokens: int
    image_side: int  # pixels of an image in each request; 0 for none
    same_image: bool  # in all requests; else a new one in each
    seed: int  # of prompts and images; a new one misses the servers' caches

    @property
    def name(self) -> str:
        """A short description."""
        text = f"{self.prompt_tokens} prompt + {self.answer_tokens} answer tokens"
        if not self.image_side:
            return text
        which = "the same" if self.same_image else "a new"
        return f"{text}, {which} {self.image_side} px image in each request"

    def image(self, rng: random.Random) -> bytes | None:
        """A PNG, if the load has images."""
        if not self.image_side:
            return None
        return _image(random.Random(self.seed) if self.same_image else rng, self.image_side)


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement of one server."""

    server: str
    concurrency: int
    tokens_s: float
    time_to_first_token_s: float  # median
    pause_s: float  # between two tokens of one request, 99th percentile


class Server(ABC, Generic[_Request]):
    """A server under measurement."""

    name: str

    @abstractmethod
    async def request(self, load: Load, rng: random.Random) -> _Request:
        """Prepare a request, so that only the response is timed."""

    @abstractmethod
    def ask(self, request: _Request) -> AsyncIterator[int]:
        """Send it; yields the number of tokens received so far."""


class Ours(Server[api.GenerateRequest]):
    """A gateway of this project."""

    def __init__(self, target: str) -> None:
        self.name = "glm4v-serve"
        options = [("grpc.max_send_message_length", _MAX_MESSAGE_BYTES)]
        self._stub = InferenceServiceStub(grpc.aio.insecure_channel(target, options=options))

    async def request(self, load: Load, rng: random.Random) -> api.GenerateRequest:
        """A message with text and an image, if there is one."""
        empty = await self._stub.CountTokens(api.CountTokensRequest(messages=[_message("a", None)]))
        text = _letters(rng, max(1, load.prompt_tokens - empty.prompt_tokens + 1))
        image = load.image(rng)
        return api.GenerateRequest(
            messages=[_message(text, image)],
            sampling=api.SamplingParams(temperature=0),
            max_tokens=load.answer_tokens,
            ignore_eos=True,
        )

    async def ask(self, request: api.GenerateRequest) -> AsyncIterator[int]:
        """Over gRPC."""
        count = 0
        async for reply in self._stub.Generate(request, timeout=_TIMEOUT_S):
            if reply.event.HasField("delta"):
                count += len(reply.event.delta.token_ids)
                yield count


class OpenAi(Server[tuple[str, bytes]]):
    """A server with OpenAI's HTTP API; prompts without images are sent as token ids."""

    def __init__(self, name: str, url: str, model: str) -> None:
        self.name = name
        self._model = model
        # A connection per request: servers close idle ones during the others' turns.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=limits)

    async def request(self, load: Load, rng: random.Random) -> tuple[str, bytes]:
        """Path and body."""
        path, body = self._body(load, rng)
        body |= {
            "model": self._model,
            "max_tokens": load.answer_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return path, json.dumps(body).encode()

    async def ask(self, request: tuple[str, bytes]) -> AsyncIterator[int]:
        """Over HTTP, streamed."""
        path, body = request
        chunks = 0
        async with self._client.stream("POST", path, content=body, headers=_JSON) as reply:
            if reply.status_code != httpx.codes.OK:
                raise Unavailable(f"{self.name} answered {reply.status_code} to {path}")
            async for line in reply.aiter_lines():
                if not line.startswith("data:") or line.endswith("[DONE]"):
                    continue
                event = json.loads(line.removeprefix("data:"))
                if event.get("usage"):  # of the whole response, in the last event
                    yield event["usage"]["completion_tokens"]
                elif event["choices"] and _says_something(event["choices"][0]):
                    chunks += 1
                    yield chunks

    def _body(self, load: Load, rng: random.Random) -> tuple[str, dict[str, object]]:
        image = load.image(rng)
        if image is None:
            ids = [rng.randrange(97, 123) for _ in range(load.prompt_tokens)]
            return "/v1/completions", {"prompt": ids}
        data = base64.b64encode(image).decode()
        url = {"url": f"data:image/png;base64,{data}"}
        content = [
            {"type": "image_url", "image_url": url},
            {"type": "text", "text": _letters(rng, load.prompt_tokens)},
        ]
        return "/v1/chat/completions", {"messages": [{"role": "user", "content": content}]}


async def measure(
    server: Server[Any], load: Load, concurrency: int, requests: int, round_number: int
) -> Round:
    """One round of `requests` requests; raises Unavailable if a response is incomplete."""
    seed = f"{load.seed}:{concurrency}:{round_number}"
    left = [random.Random(f"{seed}:{number}") for number in range(requests)]
    first_s: list[float] = []
    pauses_s: list[float] = []

    async def caller() -> None:
        while left:
            request = await server.request(load, left.pop())
            news = time.perf_counter()
            count = known = 0
            async for count in server.ask(request):
                if count > known:
                    (pauses_s if known else first_s).append(time.perf_counter() - news)
                    news, known = time.perf_counter(), count
            if count != load.answer_tokens:
                raise Unavailable(f"{server.name} gave {count} tokens of {load.answer_tokens}")

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    seconds = time.perf_counter() - start
    return Round(
        server.name,
        concurrency,
        requests * load.answer_tokens / seconds,
        statistics.median(first_s),
        sorted(pauses_s)[int(0.99 * len(pauses_s))] if pauses_s else 0.0,
    )


def _message(text: str, image: bytes | None) -> api.Message:
    parts = [api.ContentPart(text=text)]
    if image is not None:
        parts.insert(0, api.ContentPart(image=api.Image(data=image)))
    return api.Message(role=api.ROLE_USER, parts=parts)


def _letters(rng: random.Random, count: int) -> str:
    """Text of as many tokens in a byte vocabulary."""
    return "".join(rng.choices(string.ascii_lowercase, k=count))


def _image(rng: random.Random, side: int) -> bytes:
    """A PNG of squares."""
    from PIL import Image

    small = Image.frombytes("RGB", (8, 8), rng.randbytes(8 * 8 * 3))
    out = io.BytesIO()
    small.resize((side, side), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


def _says_something(choice: dict[str, object]) -> bool:
    """Whether a chunk carries a token; the first of a chat only names the role."""
    delta = choice.get("delta")
    if isinstance(delta, dict):
        return bool(delta.get("content"))
    return "text" in choice
