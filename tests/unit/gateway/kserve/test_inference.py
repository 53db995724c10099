"""Requests of KServe's protocol as requests of the gateway."""

import base64
import json
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from gateway.doors.kserve.inference import Inference, read_inference
from gateway.doors.kserve.tensors import Tensor
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api


def text(content: str = "why?", shape: tuple[int, ...] = (1,)) -> dict[str, Tensor]:
    return {"text_input": Tensor("text_input", "BYTES", shape, [content.encode()])}


def bytes_of(name: str, *elements: bytes) -> dict[str, Tensor]:
    return {name: Tensor(name, "BYTES", (len(elements),), elements)}


def scalar(name: str, datatype: str, value: float) -> dict[str, Tensor]:
    return {name: Tensor(name, datatype, (1,), [value])}


def read(
    tensors: dict[str, Tensor] | None = None,
    parameters: dict[str, Any] | None = None,
    outputs: list[str] | None = None,
) -> Inference:
    return read_inference(
        "7", text() if tensors is None else tensors, parameters or {}, outputs or []
    )


def refusal(tensors: dict[str, Tensor] | None = None, **parameters: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(tensors, parameters)
    return str(caught.value)


def image_file(kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, kind)
    return file.getvalue()


def test_a_question_about_an_image_is_one_message() -> None:
    file = image_file()
    request = read(text() | bytes_of("image", file)).request
    [message] = request.messages
    assert message.role == api.ROLE_USER
    assert [part.image.data or part.text for part in message.parts] == [file, "why?"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_an_image_is_its_file_or_a_text_of_it(kind: str) -> None:
    file = image_file(kind)
    encoded = base64.b64encode(file)
    for content in (file, encoded, b"data:image/png;base64," + encoded):
        request = read(text() | bytes_of("image", content)).request
        assert request.messages[0].parts[0].image.data == file


def test_a_webp_that_numpy_has_cut_says_so() -> None:
    """numpy takes zero bytes off the end of what is packed with its dtype S."""
    file = image_file("WEBP")
    message = refusal(text() | bytes_of("image", file[:-3]))
    assert message == (
        f"input 'image': the file is cut: {len(file) - 3} of {len(file)} bytes; pack images "
        "with dtype=object"
    )


def test_parameters_are_fields_of_the_request() -> None:
    request = read(
        parameters={
            "temperature": 0.5,
            "top_p": 1,
            "top_k": -1,
            "repetition_penalty": "1.25",
            "seed": 2**64 - 1,
            "max_tokens": 5.0,
            "min_tokens": "2",
            "stop": '["a", "]"]',
            "stop_token_ids": "[1, 2]",
            "ignore_eos": "true",
            "priority": 2,
            "request_id": "r-1",
            "json_schema": "{}",
        }
    ).request
    wanted = api.GenerateRequest(
        messages=[api.Message(role=api.ROLE_USER, parts=[api.ContentPart(text="why?")])],
        sampling=api.SamplingParams(
            temperature=0.5, top_p=1, top_k=0, repetition_penalty=1.25, seed=2**64 - 1
        ),
        max_tokens=5,
        min_tokens=2,
        stop=["a", "]"],
        stop_token_ids=[1, 2],
        ignore_eos=True,
        priority=2,
        request_id="r-1",
        response_format=api.ResponseFormat(json_schema="{}"),
    )
    assert request == wanted


def test_one_stop_string_needs_no_list() -> None:
    assert read(parameters={"stop": "END"}).request.stop == ["END"]


def test_what_the_protocol_reserves_is_not_of_the_answer() -> None:
    """tritonclient sends these by arguments of its own."""
    reserved = {
        "sequence_id": "a",
        "sequence_start": True,
        "sequence_end": True,
        "priority": 0,
        "binary_data_output": True,
        "triton_anything": 1,
    }
    assert read(parameters=reserved).request == read().request


def test_a_timeout_is_in_microseconds() -> None:
    assert read(parameters={"timeout": 1_500_000}).time_limit_s == 1.5
    assert read().time_limit_s is None


def test_sampling_parameters_may_be_a_tensor_of_json_or_tensors() -> None:
    """As Triton's vLLM backend and its TensorRT-LLM backend have them."""
    sampling = json.dumps({"temperature": "0.25", "max_tokens": 7, "stop": ["x"]}).encode()
    tensors = text() | bytes_of("sampling_parameters", sampling)
    assert read(tensors).request.sampling.temperature == 0.25
    assert read(tensors).request.stop == ["x"]
    assert read(tensors, {"max_tokens": 3}).request.max_tokens == 3
    tensors |= scalar("max_tokens", "INT32", 9) | scalar("temperature", "FP32", 0.5)
    assert read(tensors).request.max_tokens == 9
    assert read(tensors).request.sampling.temperature == 0.5


def test_flags_ask_for_outputs_and_forms() -> None:
    assert list(read().outputs) == ["text_output"]
    flagged = read(text() | scalar("return_finish_reason", "BOOL", True))
    assert list(flagged.outputs) == ["text_output", "finish_reason"]
    assert list(read(outputs=["num_output_tokens"]).outputs) == ["num_output_tokens"]
    assert read(text() | scalar("stream", "BOOL", False)).in_pieces is False
    assert read(parameters={"exclude_input_in_output": False}).prefix == "why?"
    assert read(parameters={"triton_enable_empty_final_response": True}).empty_final is True


def test_a_batch_dimension_is_kept_for_the_answer() -> None:
    assert read(text(shape=(1, 1))).rank == 2


def test_stop_is_an_order_as_bool_and_a_string_otherwise() -> None:
    assert read(text() | scalar("stop", "BOOL", True)).is_stop
    assert read(scalar("stop", "BOOL", True)).is_stop
    assert not read(text() | scalar("stop", "BOOL", False)).is_stop
    assert read(text() | bytes_of("stop", b"END")).request.stop == ["END"]


@pytest.mark.parametrize(
    ("tensors", "parameters", "message"),
    [
        ({}, {}, "the request has no input 'text_input'; send one of type BYTES"),
        (None, {"temprature": 1}, "the parameter 'temprature' is unknown; did you mean 'temp"),
        (None, {"zzz": 1}, "the parameter 'zzz' is unknown; known are temperature, top_p,"),
        (None, {"temperature": "hot"}, "temperature is 'hot'; send a number"),
        (None, {"temperature": True}, "temperature is True; send a number"),
        (None, {"max_tokens": 1.5}, "max_tokens is 1.5; send an integer"),
        (None, {"max_tokens": -1}, "max_tokens is -1, out of range"),
        (None, {"seed": 2**64}, "seed is 18446744073709551616, out of range"),
        (None, {"ignore_eos": "maybe"}, "ignore_eos is 'maybe'; send true or false"),
        (None, {"stop": "[a"}, "stop begins with '[' and is no JSON list"),
        (None, {"stop": '["a", 1]'}, "stop is ['a', 1]; send a string, or a JSON list"),
        (None, {"timeout": "soon"}, "timeout is 'soon'; send an integer"),
        (None, {"timeout": -1}, "timeout is -1; send microseconds"),
        (None, {"timeout": 10**400}, "send microseconds, from 0 to 2^63 - 1"),
        (text() | bytes_of("image", b"a", b"b"), {}, "input 'image' has 2 elements; send one"),
        (text() | scalar("image", "UINT8", 1), {}, "input 'image' has no bytes; send the file"),
        (text() | bytes_of("speed", b"1"), {}, "the parameter 'speed' is unknown"),
        (bytes_of("text_input", b"\xff"), {}, "input 'text_input' is no UTF-8 at byte 0"),
        (text() | bytes_of("sampling_parameters", b"{"), {}, "input 'sampling_parameters' is no"),
        (text() | bytes_of("sampling_parameters", b"1"), {}, "is no JSON object"),
    ],
)
def test_errors_name_the_field_and_what_to_send(
    tensors: dict[str, Tensor] | None, parameters: dict[str, Any], message: str
) -> None:
    assert message in refusal(tensors, **parameters)


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="output 'logits' is unknown; known are text_output"):
        read(outputs=["logits"])
