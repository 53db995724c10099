"""One question about one image, put through each door of a running system.

A door returns the text of the answer, and its token ids where the format has them.
"""

import json
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import httpx

from gateway.doors.kserve import grpc_service_pb2 as kserve
from gateway.doors.kserve.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from gateway.doors.kserve.tensors import pack, unpack
from tests.e2e.asking import draw
from tests.integration.http_bench import payloads
from tests.integration.system import System, user

if TYPE_CHECKING:
    from gateway.doors.kserve.grpc_service_pb2_grpc import GRPCInferenceServiceAsyncStub

IMAGE = draw("doors")
QUESTION = "What is this?"
TOKENS = 12
MODEL = "micro-glm4v"
TIMEOUT_S = 60.0

Answer = tuple[str, list[int] | None]
Door = Callable[[System, bool], Awaitable[Answer]]

URL = f"data:image/png;base64,{b64encode(IMAGE).decode()}"
_PARTS = [
    {"type": "text", "text": QUESTION},
    {"type": "image_url", "image_url": URL},
]
_MINDIE = {"glm4v-dialect": "mindie"}


async def native(system: System, is_stream: bool) -> Answer:
    """The API of glm4v.v1, which always streams."""
    answer = await system.ask([user(QUESTION, IMAGE)], max_tokens=TOKENS, ignore_eos=False)
    return answer.text, answer.token_ids


async def openai(system: System, is_stream: bool) -> Answer:
    """OpenAI's chat API."""
    body = {
        "messages": [{"role": "user", "content": _PARTS}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "stream": is_stream,
    }
    response = await _post(system, "/v1/chat/completions", body)
    if not is_stream:
        return response.json()["choices"][0]["message"]["content"], None
    *chunks, done = payloads(response.content)
    assert done == "[DONE]"
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices), None


async def mindie(system: System, is_stream: bool) -> Answer:
    """MindIE's own format."""
    parameters = {"max_new_tokens": TOKENS, "details": True}
    body = {"inputs": _PARTS, "stream": is_stream, "parameters": parameters}
    response = await _post(system, "/infer", body)
    if not is_stream:
        answer = response.json()
        return answer["generated_text"], answer["details"]["generated_token_ids"]
    return _joined(payloads(response.content))


async def mindie_token_ids(system: System, is_stream: bool) -> Answer:
    """MindIE's format for token ids, which takes no image: those of another question."""
    asked = await system.ask([user("Hello")], max_tokens=1)
    parameters = {"max_new_tokens": TOKENS, "details": True}
    body = {"input_id": asked.prompt_ids, "stream": is_stream, "parameters": parameters}
    response = await _post(system, "/infer_token", body)
    if not is_stream:
        answer = response.json()
        return answer["generated_text"], answer["details"]["generated_token_ids"]
    return _joined(payloads(response.content))


async def tgi(system: System, is_stream: bool) -> Answer:
    """TGI's format, with the image in the text."""
    inputs = f"![]({URL}){QUESTION}"
    parameters = {"max_new_tokens": TOKENS, "details": True}
    path = "/generate_stream" if is_stream else "/generate"
    response = await _post(system, path, {"inputs": inputs, "parameters": parameters})
    if not is_stream:
        answer = response.json()
        return answer["generated_text"], [each["id"] for each in answer["details"]["tokens"]]
    frames = payloads(response.content)
    spelled = "".join(each["token"]["text"] for each in frames if not each["token"]["special"])
    assert spelled == frames[-1]["generated_text"]
    return spelled, [each["token"]["id"] for each in frames]


async def tgi_of_mindie(system: System, is_stream: bool) -> Answer:
    """TGI's format in MindIE's dialect, at the root."""
    parameters = {"max_new_tokens": TOKENS, "details": True}
    body = {"inputs": _PARTS, "stream": is_stream, "parameters": parameters}
    response = await _post(system, "/", body, _MINDIE)
    if not is_stream:
        [answer] = response.json()
        return answer["generated_text"], [each["id"] for each in answer["details"]["tokens"]]
    return _joined(payloads(response.content))


async def vllm(system: System, is_stream: bool) -> Answer:
    """vLLM's format: whole texts, which begin with the question."""
    response = await _post(system, "/generate", _vllm_body(is_stream))
    frames = [json.loads(line) for line in response.content.split(b"\n") if line]
    assert len(frames) > 1 or not is_stream
    return frames[-1]["text"][0].removeprefix(QUESTION), None


async def vllm_of_mindie(system: System, is_stream: bool) -> Answer:
    """vLLM's format in MindIE's dialect."""
    response = await _post(system, "/generate", _vllm_body(is_stream), _MINDIE)
    if not is_stream:
        return response.json()["text"][0].removeprefix(f"{QUESTION} "), None
    *frames, rest = response.content.split(b"\0")
    assert rest == b""
    return "".join(json.loads(frame)["text"][0] for frame in frames), None


async def kserve_grpc(system: System, is_stream: bool) -> Answer:
    """KServe's service, with Triton's streams."""
    request = kserve.ModelInferRequest(model_name=MODEL, id="1")
    for name, content in (("text_input", QUESTION.encode()), ("image", IMAGE)):
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(pack([content]))
    request.parameters["temperature"].double_param = 0
    request.parameters["max_tokens"].int64_param = TOKENS
    async with grpc.aio.insecure_channel(system.target) as channel:
        stub: GRPCInferenceServiceAsyncStub = GRPCInferenceServiceStub(channel)
        if not is_stream:
            return _text_output(await stub.ModelInfer(request, timeout=TIMEOUT_S)), None
        call = stub.ModelStreamInfer(iter([request]), timeout=TIMEOUT_S)
        return "".join([_text_output(reply.infer_response) async for reply in call]), None


async def triton(system: System, is_stream: bool) -> Answer:
    """Triton's generate extension over HTTP."""
    body = {
        "text_input": QUESTION,
        "image": b64encode(IMAGE).decode(),
        "parameters": {"temperature": 0, "max_tokens": TOKENS},
    }
    return await _generate(system, body, None, is_stream)


async def triton_of_mindie(system: System, is_stream: bool) -> Answer:
    """The same in MindIE's dialect."""
    body = {"text_input": _PARTS, "parameters": {"max_new_tokens": TOKENS}}
    return await _generate(system, body, _MINDIE, is_stream)


DOORS: dict[str, Door] = {
    "gRPC": native,
    "OpenAI": openai,
    "MindIE": mindie,
    "TGI": tgi,
    "TGI of MindIE": tgi_of_mindie,
    "vLLM": vllm,
    "vLLM of MindIE": vllm_of_mindie,
    "KServe gRPC": kserve_grpc,
    "Triton HTTP": triton,
    "Triton HTTP of MindIE": triton_of_mindie,
}


def _vllm_body(is_stream: bool) -> dict[str, Any]:
    return {"prompt": _PARTS, "temperature": 0, "max_tokens": TOKENS, "stream": is_stream}


async def _post(
    system: System, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> httpx.Response:
    async with httpx.AsyncClient(base_url=system.http_url, timeout=TIMEOUT_S) as client:
        response = await client.post(path, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response


async def _generate(
    system: System, body: dict[str, Any], headers: dict[str, str] | None, is_stream: bool
) -> Answer:
    path = f"/v2/models/{MODEL}/generate{'_stream' if is_stream else ''}"
    response = await _post(system, path, body, headers)
    pieces = payloads(response.content) if is_stream else [response.json()]
    return "".join(piece["text_output"] for piece in pieces), None


def _joined(frames: list[Any]) -> Answer:
    """The answer in frames of MindIE, whose ids are lists."""
    text = "".join(frame["token"]["text"] or "" for frame in frames)
    assert frames[-1]["generated_text"] == text
    assert frames[-1]["details"]["generated_tokens"] == sum(
        len(frame["token"]["id"]) for frame in frames
    )
    return text, [token_id for frame in frames for token_id in frame["token"]["id"]]


def _text_output(response: kserve.ModelInferResponse) -> str:
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name == "text_output":
            [element] = unpack(output.name, output.datatype, raw)
            assert isinstance(element, bytes)
            return element.decode()
    return ""  # the empty last response of a stream
