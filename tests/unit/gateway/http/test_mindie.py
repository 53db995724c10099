"""MindIE's own format. The frames are those that its documents show."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.doors.http.fields import Fields
from gateway.doors.http.mindie.frames import InferFrames
from gateway.doors.http.mindie.request import read_infer
from gateway.doors.http.sse import EventStreamFraming
from gateway.doors.http.steps import Steps
from glm4v.errors import (
    Cancelled,
    DeadlinePassed,
    InvalidRequest,
    Overloaded,
    RequestFailed,
    Unavailable,
    UnknownReference,
)
from glm4v.v1 import inference_pb2 as api
from tests.unit.gateway.http.scripted_facade import (
    EOS,
    Script,
    ScriptedFacade,
    accepted,
    client,
    finished,
    tokens,
)

ANSWER: Script = [
    accepted(),
    tokens(0, 13, text="am"),
    tokens(1, 319, text=" a"),
    tokens(2, 7, text=" …"),
    tokens(3, EOS),
    finished(4),
]
GOLDEN = """\
data: {"prefill_time":45.5,"decode_time":null,"token":{"id":[13],"text":"am"}}

data: {"prefill_time":null,"decode_time":128.3,"token":{"id":[319],"text":" a"}}

data: {"prefill_time":null,"decode_time":10.0,"token":{"id":[7],"text":" …"}}

data: {"prefill_time":null,"decode_time":120.1,"generated_text":"am a …",\
"details":{"finish_reason":"eos_token","generated_tokens":4,"seed":1},\
"token":{"id":[2],"text":null}}

"""


def clock() -> Iterator[float]:
    now_ms = 0.0
    for passed_ms in (0, 45.5, 128.3, 10, 120.1):
        now_ms += passed_ms
        yield now_ms / 1000


def frames(script: Script, *, with_details: bool) -> str:
    ticks = clock()
    written = InferFrames(seed=1, with_details=with_details, clock=lambda: next(ticks))
    steps = Steps({EOS}, hold=False)
    payloads = [
        payload
        for event in script
        if isinstance(event, api.GenerationEvent)
        for step in steps.feed(event)
        for payload in written.write(step)
    ]
    return EventStreamFraming().frames(payloads, None).decode()


def test_frames_are_the_documented_bytes() -> None:
    assert frames(ANSWER, with_details=True) == GOLDEN


def test_details_that_were_not_asked_for_are_null() -> None:
    golden = re.sub(r'"details":\{.*?\}', '"details":null', GOLDEN)
    assert frames(ANSWER, with_details=False) == golden


async def test_a_stream_is_the_frames_and_nothing_else() -> None:
    body = {"inputs": "hi", "stream": True, "parameters": {"details": True}}
    async with client(ScriptedFacade(ANSWER)) as http:
        response = await http.post("/infer", json=body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    without_times = re.sub(r'_time":[0-9.]+', '_time":0', response.text)
    assert without_times == re.sub(r'_time":[0-9.]+', '_time":0', GOLDEN)


@pytest.mark.parametrize("path", ["/infer", "/infer_token"])
async def test_an_answer_is_the_documented_bytes(path: str) -> None:
    script = [
        accepted(seed=846930886),
        tokens(0, 1, 2, 3, 4, text="…"),
        finished(4),
    ]
    body: dict[str, Any] = {"input_id": [5, 6], "parameters": {"details": True}}
    async with client(ScriptedFacade(script)) as http:
        whole = await http.post(path, json=body)
        del body["parameters"]
        bare = await http.post(path, json=body)
    assert whole.text == (
        '{"generated_text":"…","details":{"finish_reason":"eos_token","generated_tokens":4,'
        '"generated_token_ids":[1,2,3,4],"seed":846930886}}'
    )
    assert bare.text == '{"generated_text":"…"}'
    assert whole.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (finished(1), "eos_token"),
        (finished(1, stop_string="x"), "stop_sequence"),
        (finished(1, api.FINISH_REASON_LENGTH), "length"),
    ],
)
async def test_the_reasons_of_an_end_have_mindies_names(
    end: api.GenerationEvent, reason: str
) -> None:
    body = {"inputs": "hi", "parameters": {"details": True}}
    async with client(ScriptedFacade([accepted(), tokens(0, 13, text="am"), end])) as http:
        answer = (await http.post("/infer", json=body)).json()
    assert answer["details"]["finish_reason"] == reason


def test_what_is_not_set_has_mindies_defaults() -> None:
    asked = read_infer(Fields({"inputs": "hi"}))
    request = asked.request
    assert (asked.is_stream, asked.with_details, asked.time_limit_s) == (False, False, None)
    assert request.max_tokens == 20
    assert request.sampling.temperature == 0  # nothing that only sampling has
    assert request.sampling.repetition_penalty == 1
    assert not request.sampling.HasField("seed")
    assert not request.HasField("priority")
    assert request.messages[0].role == api.ROLE_USER
    assert request.messages[0].parts[0].text == "hi"


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        ({"do_sample": True}, 1),
        ({"do_sample": False, "temperature": 0.5}, 0),
        ({"temperature": 0.5}, 0.5),
        ({"top_k": 3}, 1),
        ({"top_p": 0.5}, 1),
        ({"typical_p": 0.5}, 1),
        ({"seed": 3, "repetition_penalty": 2}, 0),
    ],
)
def test_a_request_is_sampled_if_it_says_so_or_sets_what_only_sampling_has(
    parameters: dict[str, Any], temperature: float
) -> None:
    sampling = read_infer(Fields({"inputs": "hi", "parameters": parameters})).request.sampling
    assert sampling.temperature == temperature
    for name, off in {"top_p": 1, "top_k": 0, "typical_p": 1, "min_p": 0}.items():
        assert getattr(sampling, name) == parameters.get(name, off)


def test_what_is_set_is_taken() -> None:
    parameters = {
        "temperature": 1,  # an integer is a number
        "top_k": 2**31 - 1,
        "top_p": 0.25,
        "typical_p": 1.0,
        "seed": 2**63 - 1,
        "repetition_penalty": 0.5,
        "priority": 1,
        "max_new_tokens": 2**31 - 1,
        "timeout": 65535,
        "details": True,
        "watermark": False,
    }
    asked = read_infer(Fields({"inputs": "hi", "stream": True, "parameters": parameters}))
    sampling = asked.request.sampling
    assert (sampling.top_k, sampling.seed) == (2**31 - 1, 2**63 - 1)
    assert (sampling.top_p, sampling.repetition_penalty) == (0.25, 0.5)
    assert (asked.request.priority, asked.request.max_tokens) == (1, 2**31 - 1)
    assert (asked.time_limit_s, asked.is_stream, asked.with_details) == (65535, True, True)


def with_parameter(name: str, value: object) -> dict[str, Any]:
    return {"inputs": "hi", "parameters": {name: value}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"inputs": "hi", "input_id": [1]}, "Input conflict."),
        ({}, "Not found inputs."),
        ({"inputs": None}, "Not found inputs."),
        ({"inputs": 3}, "The type of inputs is abnormal"),
        ({"inputs": []}, "Inputs arr is empty"),
        ({"inputs": [{"type": "text", "text": 3}]}, "Request param text must be string"),
        (
            {"inputs": [{"type": "image_url", "image_url": None}]},
            "Request param image_url null",
        ),
        (
            {"inputs": [{"type": "image_url", "image_url": "x"}] * 21},
            "The number of multimodal url should be no more than 20",
        ),
        ({"input_id": []}, "Input_id should not be empty"),
        ({"input_id": "1"}, "Parameter input_id must be an array"),
        ({"input_id": [1.5]}, "Parameter input_id must be integer"),
        ({"input_id": [True]}, "Parameter input_id must be integer"),
        ({"input_id": [-1]}, "Data element in param input_id is invalid"),
        ({"input_id": [1048577]}, "Data element in param input_id is invalid"),
        ({"inputs": "hi", "stream": 1}, "stream must be boolean type."),
        ({"inputs": "hi", "parameters": []}, "parameters must be object type."),
        (
            with_parameter("temperature", 0),
            "Parameter temperature must be in (0.0,10.0], got 0.",
        ),
        (
            with_parameter("temperature", 10.5),
            "Parameter temperature must be in (0.0,10.0], got 10.5.",
        ),
        (with_parameter("temperature", "1"), "temperature must be float type."),
        (with_parameter("temperature", True), "temperature must be float type."),
        (
            with_parameter("top_k", 0),
            "Parameter top_k must be in (0,2147483647], got 0.",
        ),
        (with_parameter("top_k", 1.0), "top_k must be unsigned type."),
        (with_parameter("top_p", 1), "Parameter top_p must be in (0.0,1.0), got 1."),
        (with_parameter("top_p", 0.0), "Parameter top_p must be in (0.0,1.0), got 0.0."),
        (
            with_parameter("typical_p", 1.5),
            "Parameter typical_p must be in (0.0,1.0], got 1.5.",
        ),
        (
            with_parameter("repetition_penalty", 0),
            "Parameter repetition_penalty must be in (0.0,10.0], got 0.",
        ),
        (
            with_parameter("seed", 2**63),
            "Parameter seed must be in [0,9223372036854775807], got 9223372036854775808.",
        ),
        (with_parameter("seed", "1"), "seed must be unsigned type."),
        (with_parameter("priority", 0), "Parameter priority must be in [1,5], got 0."),
        (with_parameter("priority", 6), "Parameter priority must be in [1,5], got 6."),
        (
            with_parameter("max_new_tokens", 0),
            "Parameter max_new_tokens must be in (0,2147483647], got 0.",
        ),
        (
            with_parameter("max_new_tokens", 2**31),
            "Parameter max_new_tokens must be in (0,2147483647], got 2147483648.",
        ),
        (with_parameter("timeout", 0), "Parameter timeout must be in [1,65535], got 0."),
        (
            with_parameter("timeout", 65536),
            "Parameter timeout must be in [1,65535], got 65536.",
        ),
        (with_parameter("details", "yes"), "details must be boolean type."),
        (with_parameter("do_sample", 1), "do_sample must be boolean type."),
        (with_parameter("watermark", True), "watermark is not supported: "),
    ],
)
def test_what_mindie_refuses_is_refused_in_its_words(body: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_infer(Fields(body))
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequest("why"), 422, "Input Validation Error"),
        (UnknownReference("why"), 404, "NotFoundError"),
        (RequestFailed("why"), 424, "Generation Error"),
        (Cancelled("why"), 424, "Generation Error"),
        (DeadlinePassed("why"), 500, "Incomplete Generation"),
        (Unavailable("why"), 503, "Service Unavailable"),
        (Overloaded("why"), 503, "Service Unavailable"),
    ],
)
async def test_errors_have_mindies_statuses_and_its_form(
    error: Exception, status: int, kind: str
) -> None:
    async with client(ScriptedFacade([error])) as http:
        response = await http.post("/infer", json={"inputs": "hi"})
        broken = await http.post(
            "/infer", content="{", headers={"content-type": "application/json"}
        )
    assert response.status_code == status
    assert response.text == json.dumps({"error": "why", "error_type": kind}, separators=(",", ":"))
    assert broken.status_code == 422
    assert broken.json()["error_type"] == "Input Validation Error"


async def test_an_error_in_a_stream_is_a_frame_of_its_own() -> None:
    script = [*ANSWER[:2], RequestFailed("three workers crashed")]
    async with client(ScriptedFacade(script)) as http:
        response = await http.post("/infer", json={"inputs": "hi", "stream": True})
    assert response.status_code == 200
    assert response.text.endswith(
        'event: error\ndata: {"error":"three workers crashed","error_type":"Generation Error"}\n\n'
    )


async def test_the_timeout_of_a_body_is_the_time_limit_of_the_request() -> None:
    facade = ScriptedFacade(ANSWER)
    async with client(facade) as http:
        await http.post("/infer", json=with_parameter("timeout", 7))
    assert facade.time_limits == [7.0]


async def test_a_stream_goes_on_after_the_frames_that_its_client_has() -> None:
    body = {"inputs": "hi", "stream": True, "parameters": {"details": True}}
    async with client(ScriptedFacade(ANSWER)) as http:
        whole = (await http.post("/infer", json=body, headers={"last-event-id": ""})).text
    frames = whole.split("\n\n")[:-1]
    ids = [frame.split("\n")[0].removeprefix("id: ") for frame in frames]
    assert ids == ["r:1", "r:2", "r:3", "r:4!"]
    for received in range(1, 4):
        facade = ScriptedFacade(ANSWER)
        async with client(facade) as http:
            rest = await http.post(
                "/infer", json=body, headers={"last-event-id": ids[received - 1]}
            )
        assert facade.offsets == [[]]  # the whole text is in the last frame
        strip = re.compile(r'_time":[0-9.]+')
        assert strip.sub("", rest.text) == strip.sub(
            "", "".join(f"{frame}\n\n" for frame in frames[received:])
        )
