"""HTTP formats that a load can be sent in: what is posted, and what comes back."""

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.serve.request import LoadRequest

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a frame of a stream says.

    Attributes:
        tokens: That came with it. Without token ids a frame with text counts as 1, so that tokens
            which spell a character together are too few.
        prompt_tokens, output_tokens: Of the whole request, where the server tells.
        is_end: Whether the answer is whole. A stream that ends without such a frame has failed.
    """

    tokens: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    is_end: bool = False


@dataclass(frozen=True, slots=True)
class Format:
    """One HTTP format, streamed.

    Attributes:
        path: `{model}` stands for the name of the model.
        body: What is posted for a request with its image file.
        frame: Reads the JSON value of a frame.
        mark: What a frame's line begins with.
    """

    path: str
    body: Callable[[LoadRequest, bytes | None, str], Body]
    frame: Callable[[Any], Frame]
    mark: bytes = b"data:"


def _parts(request: LoadRequest, image: bytes | None) -> list[Body] | str:
    if image is None:
        return request.text
    url = {"url": _data_url(image)}
    return [{"type": "text", "text": request.text}, {"type": "image_url", "image_url": url}]


def _data_url(image: bytes) -> str:
    return f"data:image/jpeg;base64,{b64encode(image).decode()}"


def _openai_body(request: LoadRequest, image: bytes | None, model: str) -> Body:
    return {
        "model": model,
        "messages": [{"role": "user", "content": _parts(request, image)}],
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _openai_frame(value: Any) -> Frame:
    usage = value.get("usage") or {}
    choices = value["choices"]
    text = any(choice["delta"].get("content") for choice in choices)
    is_end = any(choice.get("finish_reason") for choice in choices)
    return Frame(int(text), usage.get("prompt_tokens"), usage.get("completion_tokens"), is_end)


def _mindie_body(request: LoadRequest, image: bytes | None, model: str) -> Body:
    parameters = {"max_new_tokens": request.max_tokens, "details": True}
    return {"inputs": _parts(request, image), "stream": True, "parameters": parameters}


def _tgi_body(request: LoadRequest, image: bytes | None, model: str) -> Body:
    inputs = request.text if image is None else f"![]({_data_url(image)}){request.text}"
    parameters = {"max_new_tokens": request.max_tokens, "details": True}
    return {"inputs": inputs, "parameters": parameters}


def _token_frame(value: Any) -> Frame:
    """Of MindIE, whose ids are lists, and of TGI."""
    ids = value["token"]["id"]
    details = value.get("details") or {}
    prompt_tokens = details.get("input_length", details.get("prompt_tokens"))
    return Frame(
        len(ids) if isinstance(ids, list) else 1,
        prompt_tokens,
        details.get("generated_tokens"),
        is_end=value.get("generated_text") is not None,
    )


def _vllm_body(request: LoadRequest, image: bytes | None, model: str) -> Body:
    return {
        "prompt": _parts(request, image),
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


def _triton_body(request: LoadRequest, image: bytes | None, model: str) -> Body:
    asked = {f"return_{name}": True for name in (_REASON, _INPUT_TOKENS, _OUTPUT_TOKENS)}
    parameters = {"max_tokens": request.max_tokens, "temperature": 0, "ignore_eos": True, **asked}
    shown = {} if image is None else {"image": b64encode(image).decode()}
    return {"text_input": request.text, **shown, "parameters": parameters}


def _triton_frame(value: Any) -> Frame:
    return Frame(
        int(bool(value["text_output"])),
        _number(value.get(_INPUT_TOKENS)),
        _number(value.get(_OUTPUT_TOKENS)),
        is_end=bool(value.get(_REASON)),
    )


def _number(value: Any) -> int | None:
    """An element of a tensor, which Triton writes without a list if it is the only one."""
    found: int | None = value[0] if isinstance(value, list) else value
    return found


def _vllm_frame(value: Any) -> Frame:
    """The whole text so far, one token more. No line is marked as the last one."""
    return Frame(int(bool(value["text"])), is_end=True)


# Of Triton's vLLM backend.
_REASON, _INPUT_TOKENS, _OUTPUT_TOKENS = "finish_reason", "num_input_tokens", "num_output_tokens"
FORMATS = {
    "openai": Format("/v1/chat/completions", _openai_body, _openai_frame),
    "mindie": Format("/infer", _mindie_body, _token_frame),
    "tgi": Format("/generate_stream", _tgi_body, _token_frame),
    "triton": Format(
        "/v2/models/{model}/generate_stream",
        _triton_body,
        _triton_frame,
    ),
    "vllm": Format("/generate", _vllm_body, _vllm_frame, mark=b"{"),
}


def payload(line: bytes, mark: bytes) -> Any:
    """The JSON value of a line of a stream; None for a line without one."""
    if not line.startswith(mark):
        return None
    content = line if mark == b"{" else line[len(mark) :].strip()
    return None if content == b"[DONE]" else json.loads(content)
