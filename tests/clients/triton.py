"""tritonclient, unmodified: one question over gRPC and HTTP, whole and streamed, and its errors.

    python -m tests.clients.triton GRPC_TARGET HTTP_TARGET MODEL IMAGE_FILE

prints one JSON object, which the test compares with what the gateway's own API answers.
"""

import asyncio
import json
import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_aio
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

QUESTION = "What is this?"
PARAMETERS = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
WAIT_S = 60.0


def tensors(kind: Any, image: bytes | None, **form: Any) -> list[Any]:
    """The inputs of a request, for one of the client's modules."""
    contents = {"text_input": QUESTION.encode()} | ({"image": image} if image else {})
    found = []
    for name, content in contents.items():
        found.append(kind.InferInput(name, [1], "BYTES"))
        found[-1].set_data_from_numpy(np.array([content], dtype=object), **form)
    return found


def text_of(result: Any) -> str:
    """The one text of a result."""
    return str(result.as_numpy("text_output")[0].decode())


def error_of(call: Any, *args: Any, **kwargs: Any) -> list[str]:
    """Status and text of a call that fails."""
    try:
        call(*args, **kwargs)
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return []


def streamed(
    client: Any, model: str, inputs: list[list[Any]], *, empty_final: bool
) -> dict[str, Any]:
    """Texts by id, and the errors, of several requests on one stream, and one that fails."""
    replies: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: replies.put((result, error)))
    found: dict[str, Any] = {"texts": {}, "errors": [], "ends": [], "pieces": 0}
    ask = client.async_stream_infer
    ask(model, inputs[0], request_id="bad", parameters={"top_p": 7})
    for number, each in enumerate(inputs):
        ask(
            model,
            each,
            request_id=str(number),
            parameters=PARAMETERS,
            enable_empty_final_response=empty_final,
        )
    while len(found["ends"]) < len(inputs):
        result, error = replies.get(timeout=WAIT_S)
        if error is not None:
            found["errors"].append(str(error))
            continue
        response = result.get_response()
        if result.as_numpy("text_output") is not None:
            texts = found["texts"]
            texts[response.id] = texts.get(response.id, "") + text_of(result)
            found["pieces"] += 1
        if response.parameters["triton_final_response"].bool_param:
            found["ends"].append(response.id)
    client.stop_stream()
    return found


def cancelled(client: Any, model: str, inputs: list[Any]) -> list[str]:
    """What a client gets that cancels its stream after the first piece."""
    replies: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: replies.put((result, error)))
    long = PARAMETERS | {"max_tokens": 400}
    client.async_stream_infer(model, inputs, request_id="long", parameters=long)
    assert replies.get(timeout=WAIT_S)[1] is None
    client.stop_stream(cancel_requests=True)
    while (error := replies.get(timeout=WAIT_S)[1]) is None:
        pass
    return [error.status(), error.message()]


async def over_asyncio(target: str, model: str, inputs: list[Any]) -> str:
    """The stream of the asyncio client."""
    async with over_aio.InferenceServerClient(target) as client:

        async def requests() -> Any:
            yield {"model_name": model, "inputs": inputs, "parameters": PARAMETERS}

        text = ""
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            text += text_of(result)
        return text


def found(client: Any, web: Any, model: str) -> dict[str, Any]:
    """What both clients find out about server and model."""
    both = (client, web)
    return {
        "live": [each.is_server_live() for each in both],
        "ready": [each.is_server_ready() for each in both],
        "model_ready": [each.is_model_ready(model) for each in both],
        "other_ready": [each.is_model_ready("other") for each in both],
        "server": [client.get_server_metadata().name, web.get_server_metadata()["name"]],
        "metadata": client.get_model_metadata(model, as_json=True),
        "web_metadata": web.get_model_metadata(model),
        "decoupled": [
            client.get_model_config(model).config.model_transaction_policy.decoupled,
            web.get_model_config(model)["model_transaction_policy"]["decoupled"],
        ],
    }


def over_rpc(client: Any, target: str, model: str, image: bytes) -> dict[str, Any]:
    """Answers over gRPC."""
    text, both = tensors(over_grpc, None), tensors(over_grpc, image)
    named = [over_grpc.InferRequestedOutput(name) for name in ("text_output", "finish_reason")]
    whole = client.infer(model, both, request_id="7", outputs=named, parameters=PARAMETERS)
    return {
        "id": whole.get_response().id,
        "with_image": text_of(whole),
        "finish_reason": whole.as_numpy("finish_reason")[0].decode(),
        "text": text_of(client.infer(model, text, parameters=PARAMETERS)),
        "asyncio": asyncio.run(over_asyncio(target, model, both)),
        "stream": streamed(client, model, [text, both], empty_final=False),
        "empty_final": streamed(client, model, [text, both], empty_final=True),
        "cancelled": cancelled(client, model, text),
        "unknown_model": error_of(client.infer, "other", text),
        "unknown_parameter": error_of(client.infer, model, text, parameters={"temprature": 1}),
    }


def over_web(web: Any, model: str, image: bytes) -> dict[str, Any]:
    """Answers over HTTP, in the binary form and in JSON."""
    both, text = tensors(over_http, image), tensors(over_http, None, binary_data=False)
    plain = [over_http.InferRequestedOutput("text_output", binary_data=False)]
    in_json = web.infer(model, text, outputs=plain, parameters=PARAMETERS)
    return {
        "with_image": text_of(web.infer(model, both, parameters=PARAMETERS)),
        "text": str(in_json.as_numpy("text_output")[0]),
        "unknown_model": error_of(web.infer, "other", text),
        "unknown_parameter": error_of(web.infer, model, text, parameters={"temprature": 1}),
    }


def main() -> None:
    """Ask, and print what came."""
    target, web_target, model, image_file = sys.argv[1:]
    image = Path(image_file).read_bytes()
    client = over_grpc.InferenceServerClient(target)
    web = over_http.InferenceServerClient(web_target, network_timeout=WAIT_S)
    report = {
        "found": found(client, web, model),
        "grpc": over_rpc(client, target, model, image),
        "http": over_web(web, model, image),
    }
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
