"""Streaming clients of one door, in a process of their own: when each token arrived.

    python -m bench.doors_clients DOOR TARGET MODEL COUNT TOKENS

prints a list of times for each client, on the clock of this machine. The clients read as little as
they can, so that they need less than what they measure.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import grpc

from bench.doors import DOORS
from gateway.doors.kserve import grpc_service_pb2 as kserve
from gateway.doors.kserve.tensors import pack
from glm4v.v1 import inference_pb2 as api

_CONNECTIONS = 8  # of all clients over gRPC
_QUESTION = "Hello"
_CHAT = "/v1/chat/completions"
_PIECE = b'"content":"a"'
_READ_BYTES = 64 * 2**10


async def native(channel: grpc.aio.Channel, model: str, number: int, tokens: int) -> list[float]:
    """Times of the tokens of one answer over the gateway's own API."""
    request = api.GenerateRequest(max_tokens=tokens, ignore_eos=True)
    request.messages.add(role=api.ROLE_USER).parts.add(text=f"{_QUESTION} {number}")
    method: Any = channel.unary_stream("/glm4v.v1.InferenceService/Generate")
    times = []
    async for data in method(request.SerializeToString()):
        if api.GenerateResponse.FromString(data).event.HasField("delta"):
            times.append(time.monotonic())
    return times


async def triton(channel: grpc.aio.Channel, model: str, number: int, tokens: int) -> list[float]:
    """The same over KServe's protocol, with a stream of one request."""
    request = kserve.ModelInferRequest(model_name=model, id=str(number))
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(pack([f"{_QUESTION} {number}".encode()]))
    request.parameters["max_tokens"].int64_param = tokens
    request.parameters["ignore_eos"].bool_param = True
    method: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    call = method()
    await call.write(request.SerializeToString())
    await call.done_writing()
    times = []
    async for data in call:
        reply = kserve.ModelStreamInferResponse.FromString(data)
        if reply.error_message:
            raise RuntimeError(reply.error_message)
        if reply.infer_response.raw_output_contents[0] == pack([b"a"]):
            times.append(time.monotonic())
    return times


async def server_sent(target: str, model: str, number: int, tokens: int) -> list[float]:
    """The same over OpenAI's chat API."""
    message = {"role": "user", "content": f"{_QUESTION} {number}"}
    body = {"messages": [message], "stream": True, "max_tokens": tokens, "ignore_eos": True}
    content = json.dumps(body).encode()
    url = urlsplit(target)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(
        f"POST {_CHAT} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode()
    )
    writer.write(content)
    times: list[float] = []
    data = b""
    while chunk := await reader.read(_READ_BYTES):
        now = time.monotonic()
        data += chunk
        count = data.count(_PIECE)
        times += [now] * count
        data = data[data.rfind(_PIECE) + len(_PIECE) :] if count else data
        if data.find(b"event: error") >= 0:
            raise RuntimeError(data.decode())
    writer.close()
    return times


async def clients(door: str, target: str, model: str, count: int, tokens: int) -> list[list[float]]:
    """Times of all clients."""
    one: Callable[[int], Awaitable[list[float]]]
    if DOORS[door] == "http":

        def one(number: int) -> Awaitable[list[float]]:
            return server_sent(target, model, number, tokens)

        return await asyncio.gather(*map(one, range(count)))
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(_CONNECTIONS)]
    ask = native if door == "gRPC" else triton
    found = await asyncio.gather(
        *(ask(channels[each % _CONNECTIONS], model, each, tokens) for each in range(count))
    )
    for channel in channels:
        await channel.close()
    return found


def main() -> None:
    """Ask, and print the times."""
    door, target, model, count, tokens = sys.argv[1:]
    times = asyncio.run(clients(door, target, model, int(count), int(tokens)))
    for number, each in enumerate(times):
        if len(each) != int(tokens):
            raise SystemExit(f"client {number} got {len(each)} of {tokens} tokens")
    sys.stdout.write(json.dumps(times))


if __name__ == "__main__":
    main()
