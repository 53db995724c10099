"""Sends requests to a running system, over gRPC or in an HTTP format."""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from bench.serve.formats import FORMATS, Format, Frame, payload
from bench.serve.request import LoadRequest
from glm4v.client import AsyncClient, Tls, user_message
from glm4v.errors import ConfigurationError, Glm4vError, InvalidRequest

GRPC = "grpc"
NAMES = (GRPC, *FORMATS)
_ERROR_EVENT = b"event: error"
_REASON_BYTES = 300  # of an error's body


class RequestError(Exception):
    """A request that failed; its text is a short code that failures are counted by."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(code)
        self.details = details


class Door(Protocol):
    """A way into the system."""

    async def send(
        self, request: LoadRequest, image: bytes | None, on_frame: Callable[[Frame], None]
    ) -> None:
        """Ask, and tell of each frame as it comes. Raises RequestError."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the system is, and how it lets a caller in.

    Attributes:
        address: `HOST:PORT` for gRPC, the beginning of a URL for HTTP.
        tls: None without TLS.
    """

    door: str
    address: str
    model: str
    timeout_s: float
    api_key: str | None = field(repr=False, default=None)
    tls: Tls | None = None


@asynccontextmanager
async def open_door(target: Target) -> AsyncIterator[Door]:
    """A door whose connections are closed at the end. Raises InvalidRequest, ConfigurationError."""
    if target.door == GRPC:
        async with AsyncClient(
            target.address, timeout_s=target.timeout_s, api_key=target.api_key, tls=target.tls
        ) as client:
            yield _GrpcDoor(client)
        return
    async with open_http(target) as client:
        yield _HttpDoor(client, FORMATS[target.door], target.model)


def open_http(target: Target) -> httpx.AsyncClient:
    """A client of HTTP. Raises InvalidRequest, ConfigurationError."""
    if not target.address.startswith(("http://", "https://")):
        raise InvalidRequest(f"{target.address} is not a URL; write http://HOST:PORT")
    headers = {"glm4v-dialect": "original"}
    if target.api_key is not None:
        headers["authorization"] = f"Bearer {target.api_key}"
    return httpx.AsyncClient(
        base_url=target.address,
        headers=headers,
        timeout=target.timeout_s,
        limits=httpx.Limits(max_connections=None),
        verify=_tls_context(target.tls),
        trust_env=False,
    )


class _GrpcDoor:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def send(
        self, request: LoadRequest, image: bytes | None, on_frame: Callable[[Frame], None]
    ) -> None:
        question = user_message(request.text, image)
        try:
            async with self._client.generate(
                [question], max_tokens=request.max_tokens, ignore_eos=True, temperature=0
            ) as answer:
                async for event in answer:
                    usage = event.finished.usage
                    if event.HasField("finished"):
                        on_frame(Frame(0, usage.prompt_tokens, usage.completion_tokens))
                    else:
                        on_frame(Frame(len(event.delta.token_ids)))
        except Glm4vError as error:
            raise RequestError(error.code, str(error)) from None


class _HttpDoor:
    def __init__(self, client: httpx.AsyncClient, form: Format, model: str) -> None:
        self._client = client
        self._form = form
        self._path = form.path.replace("{model}", model)
        self._model = model

    async def send(
        self, request: LoadRequest, image: bytes | None, on_frame: Callable[[Frame], None]
    ) -> None:
        body = self._form.body(request, image, self._model)
        try:
            async with self._client.stream("POST", self._path, json=body) as response:
                if response.status_code != httpx.codes.OK:
                    reason = (await response.aread())[:_REASON_BYTES].decode(errors="replace")
                    raise RequestError(f"HTTP {response.status_code}", reason)
                await self._read(response, on_frame)
        except httpx.TimeoutException:
            raise RequestError("timeout", f"nothing for {self._client.timeout.read} s") from None
        except httpx.HTTPError as error:
            raise RequestError("connection", f"{type(error).__name__}: {error}") from None

    async def _read(self, response: httpx.Response, on_frame: Callable[[Frame], None]) -> None:
        is_error = is_whole = False
        async for line in _lines(response):
            shown = line[:_REASON_BYTES].decode(errors="replace")
            if is_error and line:
                raise RequestError("error in the stream", shown)
            is_error = is_error or line.startswith(_ERROR_EVENT)
            try:
                value = payload(line, self._form.mark)
                frame = None if value is None else self._form.frame(value)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise RequestError("error in the stream", shown) from None
            if frame is not None:
                on_frame(frame)
                is_whole = is_whole or frame.is_end
        if is_error or not is_whole:
            raise RequestError("broken off", "the stream ended before the answer did")


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Lines, which end with LF or CR LF only: httpx's own also end in the middle of texts."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
    if rest:
        yield rest


def _tls_context(tls: Tls | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if tls is None:
        return context
    if tls.server_name is not None:
        raise ConfigurationError("--tls-server-name is of gRPC only; name the host in the URL")
    try:
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"tls: {error}") from None
    return context
