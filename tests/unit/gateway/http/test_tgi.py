"""TGI's format in both dialects. The frames are those that TGI and MindIE document."""

import json
from typing import Any

import pytest

from gateway.doors.http.dialect import Dialect
from gateway.doors.http.fields import Fields
from gateway.doors.http.tgi.request import read_tgi
from glm4v.errors import (
    DeadlinePassed,
    InvalidRequest,
    Overloaded,
    RequestFailed,
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

ORIGINAL, MINDIE = Dialect.ORIGINAL, Dialect.MINDIE
ANSWER: Script = [
    accepted(),
    tokens(0, 13, text="am"),
    tokens(1, 319, text=" a"),
    tokens(2, 7, text=" …"),
    tokens(3, EOS),
    finished(4),
]
ORIGINAL_FRAMES = """\
data:{"index":1,"token":{"id":13,"text":"am","logprob":-0.1,"special":false},\
"generated_text":null,"details":null}

data:{"index":2,"token":{"id":319,"text":" a","logprob":-0.1,"special":false},\
"generated_text":null,"details":null}

data:{"index":3,"token":{"id":7,"text":" …","logprob":-0.1,"special":false},\
"generated_text":null,"details":null}

data:{"index":4,"token":{"id":2,"text":"","logprob":-0.1,"special":true},\
"generated_text":"am a …","details":{"finish_reason":"eos_token","generated_tokens":4,\
"seed":1,"input_length":1605}}

"""
MINDIE_FRAMES = """\
data: {"token":{"id":[13],"text":"am","logprob":null,"special":null},\
"generated_text":null,"details":null}

data: {"token":{"id":[319],"text":" a","logprob":null,"special":null},\
"generated_text":null,"details":null}

data: {"token":{"id":[7],"text":" …","logprob":null,"special":null},\
"generated_text":null,"details":null}

data: {"token":{"id":[2],"text":"","logprob":null,"special":null},\
"generated_text":"am a …","details":{"prompt_tokens":1605,"finish_reason":"eos_token",\
"generated_tokens":4,"seed":1}}

"""
SAMPLED = {"do_sample": True, "details": True}


async def post(
    path: str, body: dict[str, Any], script: Script = ANSWER, dialect: Dialect = ORIGINAL
) -> Any:
    async with client(ScriptedFacade(script), dialect) as http:
        return await http.post(path, json=body)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate_stream", {"inputs": "hi", "parameters": SAMPLED}),
        ("/", {"inputs": "hi", "stream": True, "parameters": SAMPLED}),
    ],
)
@pytest.mark.parametrize(
    ("dialect", "golden"), [(ORIGINAL, ORIGINAL_FRAMES), (MINDIE, MINDIE_FRAMES)]
)
async def test_frames_are_the_documented_bytes(
    path: str, body: dict[str, Any], dialect: Dialect, golden: str
) -> None:
    response = await post(path, body, dialect=dialect)
    assert response.text == golden
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("setting", [ORIGINAL, MINDIE])
async def test_a_header_chooses_the_dialect_of_one_request(setting: Dialect) -> None:
    body = {"inputs": "hi", "parameters": SAMPLED}
    async with client(ScriptedFacade(ANSWER), setting) as http:
        for named, golden in (("MindIE", MINDIE_FRAMES), ("original", ORIGINAL_FRAMES)):
            headers = {"glm4v-dialect": named}
            response = await http.post("/generate_stream", json=body, headers=headers)
            assert response.text == golden
        headers = {"glm4v-dialect": "tgi"}
        refused = await http.post("/generate_stream", json=body, headers=headers)
    assert refused.status_code == 422
    assert refused.json() == {
        "error": "glm4v-dialect is 'tgi'; send original or mindie",
        "error_type": "validation",
    }


async def test_a_whole_answer_of_tgi_has_each_token() -> None:
    response = await post("/generate", {"inputs": "hi", "parameters": SAMPLED})
    token = {"id": 13, "text": "am", "logprob": -0.1, "special": False}
    assert response.json() == {
        "generated_text": "am a …",
        "details": {
            "finish_reason": "eos_token",
            "generated_tokens": 4,
            "seed": 1,
            "prefill": [],
            "tokens": [
                token,
                token | {"id": 319, "text": " a"},
                token | {"id": 7, "text": "?"},
                token | {"id": EOS, "text": "</s>", "special": True},
            ],
        },
    }
    figures = {name: value for name, value in response.headers.items() if name.startswith("x-")}
    assert figures == {
        "x-compute-characters": "2",
        "x-compute-time": "2.000",
        "x-total-time": "2000",
        "x-time-per-token": "500.000",
        "x-prompt-tokens": "1605",
        "x-generated-tokens": "4",
        "x-request-id": "r",
    }


async def test_a_whole_answer_of_mindie_is_the_documented_bytes() -> None:
    script = [
        accepted(prompt_ids=[1]),
        tokens(0, 13, text="…"),
        finished(2, api.FINISH_REASON_LENGTH),
    ]
    parameters = {"details": True, "decoder_input_details": True}
    body: dict[str, Any] = {"inputs": "hi", "parameters": parameters}
    assert (await post("/generate", body, script, MINDIE)).text == (
        '{"details":{"prompt_tokens":1605,"finish_reason":"length","generated_tokens":2,'
        '"prefill":[{"id":1,"logprob":null,"special":null,"text":null}],"seed":1,'
        '"tokens":[{"id":13,"logprob":null,"special":null,"text":null}]},"generated_text":"…"}'
    )
    del parameters["decoder_input_details"]
    without = (await post("/generate", body, script, MINDIE)).json()
    assert without["details"]["prefill"] == []
    bare = await post("/generate", {"inputs": "hi"}, script, MINDIE)
    assert bare.text == '{"generated_text":"…"}'


@pytest.mark.parametrize("dialect", Dialect)
async def test_the_answer_of_the_root_is_a_list(dialect: Dialect) -> None:
    response = await post("/", {"inputs": "hi"}, dialect=dialect)
    assert response.text == '[{"generated_text":"am a …"}]'


async def test_the_details_of_mindies_last_frame_are_null_unless_asked_for() -> None:
    response = await post("/generate_stream", {"inputs": "hi"}, dialect=MINDIE)
    assert response.text.endswith('"generated_text":"am a …","details":null}\n\n')


async def test_tgi_has_no_seed_where_nothing_is_drawn() -> None:
    body = {"inputs": "hi", "parameters": {"details": True}}
    assert (await post("/generate", body)).json()["details"]["seed"] is None
    assert '"seed":null' in (await post("/generate_stream", body)).text


async def test_the_text_of_the_prompt_comes_first_if_the_full_text_is_asked_for() -> None:
    body = {"inputs": "hi", "parameters": {"return_full_text": True}}
    assert (await post("/generate", body)).json()["generated_text"] == "hiam a …"
    assert '"generated_text":"hiam a …"' in (await post("/generate_stream", body)).text
    ignored = await post("/generate", body, dialect=MINDIE)
    assert ignored.json()["generated_text"] == "am a …"


async def test_text_that_was_withheld_is_in_the_last_frame_and_no_special_token() -> None:
    script = [accepted(), tokens(0, 13, text="am"), tokens(1, EOS), finished(2, text=" (")]
    response = await post("/generate_stream", {"inputs": "hi"}, script)
    last = json.loads(response.text.split("\n\n")[-2].removeprefix("data:"))
    assert last["token"]["text"] == " ("
    assert not last["token"]["special"]
    assert last["generated_text"] == "am ("


async def test_several_tokens_of_one_step_are_several_frames() -> None:
    script = [accepted(), tokens(0, 13, 319, text="am a"), tokens(2, EOS), finished(3)]
    response = await post("/generate_stream", {"inputs": "hi"}, script)
    frames = [json.loads(line[5:]) for line in response.text.split("\n\n")[:-1]]
    assert [frame["index"] for frame in frames] == [1, 2, 3]
    assert [frame["token"]["text"] for frame in frames] == ["", "am a", ""]


async def test_alternatives_are_reported_for_each_token() -> None:
    parameters = {"top_n_tokens": 1, "details": True}
    facade = ScriptedFacade(ANSWER)
    async with client(facade) as http:
        body = {"inputs": "hi", "parameters": parameters}
        whole = (await http.post("/generate", json=body)).json()
        stream = (await http.post("/generate_stream", json=body)).text
    top = [{"id": 13, "text": "am", "logprob": -0.1, "special": False}]
    assert whole["details"]["top_tokens"][0] == top
    assert json.loads(stream.split("\n\n")[0][5:])["top_tokens"] == top
    assert [request.top_logprobs for request in facade.requests] == [1, 1]


async def test_the_best_answer_comes_first_and_the_others_beside_it() -> None:
    script = [
        accepted(n=2, seed=2**64 - 1),
        tokens(0, 13, text="am", logprob=-2.0),
        tokens(0, 319, text=" a", logprob=-0.5, choice=1),
        finished(1),
        finished(1, choice=1),
    ]
    parameters = {"best_of": 2, "do_sample": True, "details": True}
    facade = ScriptedFacade(script)
    async with client(facade) as http:
        response = await http.post("/generate", json={"inputs": "hi", "parameters": parameters})
    answer = response.json()
    assert facade.requests[0].n == 2
    assert answer["generated_text"] == " a"
    assert answer["details"]["seed"] == 0
    [other] = answer["details"]["best_of_sequences"]
    assert (other["generated_text"], other["seed"]) == ("am", 2**64 - 1)


async def test_the_prompt_is_reported_with_its_probabilities() -> None:
    found = [
        api.TokenLogprobs(),
        api.TokenLogprobs(chosen=api.Logprob(token_id=319, logprob=-0.25)),
    ]
    event = api.GenerationEvent(prompt_logprobs=api.PromptLogprobs(tokens=found))
    script = [accepted(prompt_ids=[EOS, 319]), event, *ANSWER[1:]]
    parameters = {"decoder_input_details": True, "details": True}
    facade = ScriptedFacade(script)
    async with client(facade) as http:
        response = await http.post("/generate", json={"inputs": "hi", "parameters": parameters})
    assert response.json()["details"]["prefill"] == [
        {"id": EOS, "text": "</s>", "logprob": None},
        {"id": 319, "text": " a", "logprob": -0.25},
    ]
    assert facade.requests[0].HasField("prompt_logprobs")


@pytest.mark.parametrize(
    ("grammar", "expected"),
    [
        ({"type": "regex", "value": "a+"}, api.ResponseFormat(regex="a+")),
        ({"type": "json", "value": '{"a": 1}'}, api.ResponseFormat(json_schema='{"a": 1}')),
        ({"type": "json", "value": {"a": "é"}}, api.ResponseFormat(json_schema='{"a": "é"}')),
        (
            {"type": "json_schema", "value": {"name": "n", "schema": {"type": "null"}}},
            api.ResponseFormat(json_schema='{"type": "null"}'),
        ),
    ],
)
def test_grammars_are_response_formats(
    grammar: dict[str, Any], expected: api.ResponseFormat
) -> None:
    body = Fields({"inputs": "hi", "parameters": {"grammar": grammar}})
    request, _ = read_tgi(body, ORIGINAL, is_stream=False)
    assert request.response_format == expected


PNG = "iVBORw0KGgoAAAANSUhEUg=="


def test_an_image_in_the_markdown_of_a_text_is_the_image() -> None:
    inputs = f"![](data:image/png;base64,{PNG})What is this?\n\n"
    request, _ = read_tgi(Fields({"inputs": inputs}), ORIGINAL, is_stream=False)
    image, text = request.messages[0].parts
    assert image.image.data.startswith(b"\x89PNG")
    assert text.text == "What is this?\n\n"
    request, _ = read_tgi(Fields({"inputs": inputs}), MINDIE, is_stream=False)
    assert [part.text for part in request.messages[0].parts] == [inputs]


@pytest.mark.parametrize("dialect", Dialect)
def test_the_list_of_mindie_is_taken_in_both_dialects(dialect: Dialect) -> None:
    inputs = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": f"data:image/png;base64,{PNG}"},
    ]
    request, _ = read_tgi(Fields({"inputs": inputs}), dialect, is_stream=False)
    assert request.messages[0].parts[0].text == "What is this?"
    assert request.messages[0].parts[1].HasField("image")


def test_what_is_not_set_has_the_defaults_of_each_dialect() -> None:
    original, form = read_tgi(Fields({"inputs": "hi"}), ORIGINAL, is_stream=False)
    assert not original.HasField("max_tokens")
    assert form.is_sampled  # TGI samples where a body has no parameters
    assert original.sampling.temperature == 1
    body = Fields({"inputs": "hi", "parameters": {}})
    original, form = read_tgi(body, ORIGINAL, is_stream=False)
    assert not form.is_sampled
    assert original.sampling.temperature == 0
    mindie, form = read_tgi(Fields({"inputs": "hi"}), MINDIE, is_stream=False)
    assert (mindie.max_tokens, form.is_sampled) == (20, False)
    assert mindie.sampling.temperature == 0


@pytest.mark.parametrize(
    ("do_sample", "dialect", "sampled"),
    [
        (False, ORIGINAL, True),  # TGI takes a temperature for a wish to sample
        (False, MINDIE, False),
        (True, MINDIE, True),
    ],
)
def test_a_temperature_beside_do_sample(do_sample: bool, dialect: Dialect, sampled: bool) -> None:
    parameters = {"do_sample": do_sample, "temperature": 0.5}
    body = Fields({"inputs": "hi", "parameters": parameters})
    request, form = read_tgi(body, dialect, is_stream=False)
    assert form.is_sampled is sampled
    assert request.sampling.temperature == (0.5 if sampled else 0)


def test_what_is_set_is_taken() -> None:
    parameters = {
        "temperature": 1,
        "top_k": 3,
        "top_p": 0.25,
        "typical_p": 0.5,
        "frequency_penalty": 1.5,
        "repetition_penalty": 1.5,
        "seed": 2**64 - 1,
        "max_new_tokens": 5,
        "stop": ["a", "b"],
        "truncate": 7,
        "watermark": False,
        "adapter_id": None,
    }
    body = Fields({"inputs": "hi", "parameters": parameters})
    request, _ = read_tgi(body, ORIGINAL, is_stream=True)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (1, 3, 0.25)
    assert (sampling.typical_p, sampling.frequency_penalty) == (0.5, 1.5)
    assert (sampling.repetition_penalty, sampling.seed) == (1.5, 2**64 - 1)
    assert (request.max_tokens, list(request.stop)) == (5, ["a", "b"])
    assert request.truncate_prompt_tokens == 7
    one = Fields({"inputs": "hi", "parameters": {"stop": "a"}})
    assert list(read_tgi(one, MINDIE, is_stream=False)[0].stop) == ["a"]


BOTH = tuple(Dialect)


@pytest.mark.parametrize(
    ("name", "value", "dialects", "said"),
    [
        ("temperature", 0, BOTH, "Parameter temperature must be in (0.0,10.0], got 0."),
        ("repetition_penalty", 0.0, BOTH, "Parameter repetition_penalty must be in (0.0,10.0]"),
        ("top_k", 0, BOTH, "Parameter top_k must be in (0,2147483647], got 0."),
        ("top_p", 1.0, BOTH, "Parameter top_p must be in (0.0,1.0), got 1.0."),
        ("top_p", 0, BOTH, "Parameter top_p must be in (0.0,1.0), got 0."),
        ("typical_p", 1, [ORIGINAL], "Parameter typical_p must be in (0.0,1.0), got 1."),
        ("typical_p", 1.5, [MINDIE], "Parameter typical_p must be in (0.0,1.0], got 1.5."),
        ("frequency_penalty", -2, [ORIGINAL], "Parameter frequency_penalty must be in (-2.0,2.0]"),
        ("seed", -1, BOTH, "Parameter seed must be in [0,"),
        ("seed", 2**63, [MINDIE], "Parameter seed must be in [0,9223372036854775807]"),
        ("seed", 2**64, [ORIGINAL], "Parameter seed must be in [0,18446744073709551615]"),
        ("max_new_tokens", 0, BOTH, "Parameter max_new_tokens must be in (0,2147483647], got 0."),
        ("truncate", 0, BOTH, "Parameter truncate must be in (0,2147483647], got 0."),
        ("stop", "", BOTH, "Parameter stop must have 1 to 1024 characters, got 0."),
        ("stop", "a" * 1025, BOTH, "Parameter stop must have 1 to 1024 characters, got 1025."),
        ("stop", 1, BOTH, "stop must be string or list[string] type."),
        ("stop", ["a", ""], BOTH, "Parameter stop must be a list of strings of 1 to 1024"),
        ("stop", ["a"] * 1025, BOTH, "Parameter stop must have at most 1024 strings"),
        ("stop", ["a" * 1024] * 33, BOTH, "Parameter stop must have at most 1024 strings"),
        ("details", 1, BOTH, "details must be boolean type."),
        ("decoder_input_details", 1, BOTH, "decoder_input_details must be boolean type."),
        ("do_sample", "yes", BOTH, "do_sample must be boolean type."),
        ("watermark", True, BOTH, "watermark is not supported: "),
        ("adapter_id", "a", BOTH, "adapter_id is not supported: "),
        ("best_of", 0, [ORIGINAL], "Parameter best_of must be in [1,16], got 0."),
        ("best_of", 2, [ORIGINAL], "best_of is 2, of answers that are all the same"),
        ("top_n_tokens", 21, [ORIGINAL], "Parameter top_n_tokens must be in [0,20], got 21."),
        ("grammar", "a", [ORIGINAL], "grammar must be object type."),
        ("grammar", {"type": "bnf"}, [ORIGINAL], "grammar.type is 'bnf'; one of json, "),
        ("grammar", {"type": "json"}, [ORIGINAL], "grammar.value must be object type."),
        ("grammar", {"type": "regex", "value": 1}, [ORIGINAL], "grammar.value must be string"),
        ("return_full_text", 1, BOTH, "return_full_text must be boolean type."),
    ],
)
def test_what_a_dialect_refuses(
    name: str, value: object, dialects: list[Dialect], said: str
) -> None:
    for dialect in dialects:
        with pytest.raises(InvalidRequest) as raised:
            read_tgi(
                Fields({"inputs": "hi", "parameters": {name: value}}), dialect, is_stream=False
            )
        assert str(raised.value).startswith(said)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "Request should contain 'inputs' and the type should be string."),
        ({"inputs": 1}, "The type of inputs is abnormal"),
        (
            {"inputs": "hi", "parameters": {"decoder_input_details": True}},
            "The decoder_input_details must not be true when stream is true.",
        ),
    ],
)
async def test_a_refused_stream_says_why(dialect: Dialect, body: dict[str, Any], said: str) -> None:
    response = await post("/generate_stream", body, dialect=dialect)
    assert response.status_code == 422
    assert response.json()["error"] == said


async def test_a_stream_has_one_answer() -> None:
    body = {"inputs": "hi", "parameters": {"best_of": 2, "do_sample": True}}
    response = await post("/generate_stream", body)
    assert response.json()["error"].startswith("best_of is 2; a stream has one answer")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequest("why"), 422, "validation"),
        (UnknownReference("why"), 404, "validation"),
        (RequestFailed("why"), 424, "generation"),
        (Overloaded("why"), 429, "overloaded"),
        (DeadlinePassed("why"), 500, "incomplete_generation"),
    ],
)
async def test_errors_have_the_statuses_and_types_of_tgi(
    error: Exception, status: int, kind: str
) -> None:
    response = await post("/generate", {"inputs": "hi"}, [error])
    assert response.status_code == status
    assert response.text == f'{{"error":"why","error_type":"{kind}"}}'


@pytest.mark.parametrize(
    ("dialect", "frame"),
    [
        (ORIGINAL, 'event: error\ndata:{"error":"why","error_type":"generation"}\n\n'),
        (MINDIE, 'event: error\ndata: {"error":"why","error_type":"Generation Error"}\n\n'),
    ],
)
async def test_an_error_in_a_stream_is_a_frame_of_its_own(dialect: Dialect, frame: str) -> None:
    script = [*ANSWER[:2], RequestFailed("why")]
    response = await post("/generate_stream", {"inputs": "hi"}, script, dialect)
    assert response.status_code == 200
    assert response.text.endswith(frame)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("parameters", [{}, {"stop": ["x"]}])
async def test_a_stream_goes_on_after_the_frames_that_its_client_has(
    dialect: Dialect, parameters: dict[str, Any]
) -> None:
    body = {"inputs": "hi", "parameters": {"details": True, **parameters}}
    async with client(ScriptedFacade(ANSWER), dialect) as http:
        headers = {"last-event-id": ""}
        whole = (await http.post("/generate_stream", json=body, headers=headers)).text
        frames = whole.split("\n\n")[:-1]
        ids = [frame.split("\n")[0].removeprefix("id: ") for frame in frames]
        assert ids == ["r:1", "r:2", "r:3", "r:4!"]
        for number, last_id in enumerate(ids[:-1], 1):
            headers = {"last-event-id": last_id}
            rest = await http.post("/generate_stream", json=body, headers=headers)
            assert rest.text == "".join(f"{frame}\n\n" for frame in frames[number:])


async def test_the_server_describes_itself_in_both_dialects() -> None:
    async with client(ScriptedFacade()) as http:
        original = (await http.get("/info")).json()
        mindie = (await http.get("/info", headers={"glm4v-dialect": "mindie"})).json()
    assert original["model_id"] == "glm4v"
    assert (original["max_input_tokens"], original["max_total_tokens"]) == (8191, 8192)
    assert list(mindie) == [
        "docker_label",
        "max_batch_total_tokens",
        "max_best_of",
        "max_concurrent_requests",
        "max_stop_sequences",
        "max_waiting_tokens",
        "sha",
        "validation_workers",
        "version",
        "waiting_served_ratio",
        "models",
        "max_input_length",
    ]
    assert mindie["models"][0]["model_id"] == "glm4v"
    assert (mindie["version"], mindie["max_best_of"]) == ("1.2.3", 1)


@pytest.mark.parametrize("is_serving", [True, False])
async def test_health_is_an_empty_answer_or_tgis_error(is_serving: bool) -> None:
    async with client(ScriptedFacade(), is_serving=is_serving) as http:
        response = await http.get("/health")
    if is_serving:
        assert (response.status_code, response.content) == (200, b"")
    else:
        assert response.status_code == 503
        assert response.text == '{"error":"unhealthy","error_type":"healthcheck"}'
