"""vLLM's format in both dialects, and how POST /generate tells it from TGI's."""

from base64 import b64encode
from typing import Any

import httpx
import pytest

from gateway.doors.http.dialect import Dialect
from gateway.doors.http.fields import Fields
from gateway.doors.http.vllm.request import read_vllm
from glm4v.errors import InvalidRequest, RequestFailed
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
PNG = b64encode(b"\x89PNG\r\n\x1a\n" + bytes(32)).decode()  # without a URL around it
PARTS = [
    {"type": "text", "text": "描述这张图片"},
    {"type": "image_url", "image_url": PNG},
]
ANSWER: Script = [
    accepted(),
    tokens(0, 10),  # the newline of the header, which is no text
    tokens(1, 13, text="am"),
    tokens(2, 319, text=" a"),
    tokens(3, EOS),
    finished(4),
]
TWO: Script = [
    accepted(n=2),
    tokens(0, 13, text="am"),
    tokens(0, 319, text=" a", choice=1),
    finished(1, text="!"),
    finished(1, choice=1),
]


async def post(
    body: dict[str, Any], script: Script = ANSWER, dialect: Dialect = ORIGINAL
) -> httpx.Response:
    async with client(ScriptedFacade(script), dialect) as http:
        return await http.post("/generate", json=body)


@pytest.mark.parametrize(
    ("dialect", "answer"),
    [(ORIGINAL, '{"text":["hiam a"]}'), (MINDIE, '{"text":["hi am a"]}')],
)
async def test_a_whole_answer_follows_its_prompt(dialect: Dialect, answer: str) -> None:
    response = await post({"prompt": "hi"}, dialect=dialect)
    assert response.text == answer
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("prompt", ["42", "[1]", "null"])
async def test_a_prompt_that_is_json_is_repeated_all_the_same(prompt: str) -> None:
    response = await post({"prompt": prompt}, dialect=MINDIE)
    assert response.json() == {"text": [f"{prompt} am a"]}


async def test_the_text_of_a_list_is_its_first_text() -> None:
    response = await post({"prompt": PARTS, "max_tokens": 128, "model": "glm4v"}, dialect=MINDIE)
    assert response.json() == {"text": ["描述这张图片 am a"]}


@pytest.mark.parametrize(
    ("dialect", "frames", "media_type"),
    [
        (ORIGINAL, b'{"text":["hiam"]}\n{"text":["hiam a"]}\n', "application/x-ndjson"),
        (MINDIE, b'{"text":["am"]}\0{"text":[" a"]}\0', "text/event-stream; charset=utf-8"),
    ],
)
async def test_frames_are_the_documented_bytes(
    dialect: Dialect, frames: bytes, media_type: str
) -> None:
    response = await post({"prompt": "hi", "stream": True}, dialect=dialect)
    assert response.content == frames
    assert response.headers["content-type"] == media_type


@pytest.mark.parametrize(
    ("dialect", "whole", "frames"),
    [
        (
            ORIGINAL,
            '{"text":["hiam!","hi a"]}',
            '{"text":["hiam","hi"]}\n{"text":["hiam","hi a"]}\n{"text":["hiam!","hi a"]}\n',
        ),
        (
            MINDIE,
            '{"text":["hi am!","hi  a"]}',
            '{"text":["am",""]}\0{"text":[""," a"]}\0{"text":["!",""]}\0',
        ),
    ],
)
async def test_several_answers_are_one_list(dialect: Dialect, whole: str, frames: str) -> None:
    body = {"prompt": "hi", "n": 2, "temperature": 1}
    assert (await post(body, TWO, dialect)).text == whole
    assert (await post(body | {"stream": True}, TWO, dialect)).text == frames


async def test_the_stop_string_ends_the_text_if_it_is_asked_for() -> None:
    script = [*ANSWER[:4], finished(4, stop_string="END")]
    body = {"prompt": "hi", "stop": "END", "include_stop_str_in_output": True}
    assert (await post(body, script)).json() == {"text": ["hiam aEND"]}
    streamed = await post(body | {"stream": True}, script)
    assert streamed.text.endswith('{"text":["hiam aEND"]}\n')
    del body["stop"]
    assert (await post(body, script)).json() == {"text": ["hiam a"]}


@pytest.mark.parametrize(
    ("dialect", "status", "body", "frame"),
    [
        (
            ORIGINAL,
            400,
            '{"error":{"message":"why","type":"invalid_request_error","param":null,"code":null}}',
            '{"error":{"message":"why","type":"server_error","param":null,"code":500}}\n',
        ),
        (
            MINDIE,
            422,
            '{"error":"why","error_type":"Input Validation Error"}',
            '{"error":"why","error_type":"Generation Error"}\0',
        ),
    ],
)
async def test_errors_have_the_form_of_the_dialect(
    dialect: Dialect, status: int, body: str, frame: str
) -> None:
    refused = await post({"prompt": "hi"}, [InvalidRequest("why")], dialect)
    assert (refused.status_code, refused.text) == (status, body)
    script = [*ANSWER[:3], RequestFailed("why")]
    failed = await post({"prompt": "hi", "stream": True}, script, dialect)
    assert failed.status_code == 200
    assert failed.text.endswith(frame)


@pytest.mark.parametrize(
    ("body", "is_vllm"),
    [
        ({"prompt": "hi"}, True),
        ({"prompt": "hi", "inputs": "hi"}, True),
        ({"prompt": None, "inputs": "hi"}, False),
        ({"inputs": "hi"}, False),
    ],
)
@pytest.mark.parametrize("dialect", Dialect)
async def test_a_prompt_makes_a_body_vllms_and_inputs_tgis(
    body: dict[str, Any], is_vllm: bool, dialect: Dialect
) -> None:
    answer = (await post(body, dialect=dialect)).json()
    assert ("text" in answer) is is_vllm
    assert ("generated_text" in answer) is not is_vllm


MINDIES_REFUSAL = (
    r'{"error":"{\"Error\": \"`inputs` or `prompt` must be necessary and data type must be string. '
    r'Additionally, the request body must be valid json\", \"error_type\": \"validation\"}",'
    r'"error_type":"Input Validation Error"}'
)


@pytest.mark.parametrize("content", ["{}", '{"prompt":null,"inputs":null}', "{", "[]"])
async def test_mindie_refuses_a_body_without_either_in_its_own_words(content: str) -> None:
    async with client(ScriptedFacade(ANSWER), MINDIE) as http:
        headers = {"content-type": "application/json"}
        response = await http.post("/generate", content=content, headers=headers)
    assert response.status_code == 422
    assert response.text == MINDIES_REFUSAL


async def test_a_body_without_either_is_told_what_to_send() -> None:
    response = await post({})
    assert response.status_code == 422
    assert response.json() == {
        "error": "the body has neither inputs (TGI) nor prompt (vLLM); send one of them",
        "error_type": "validation",
    }


def test_what_is_not_set_has_the_defaults_of_each_dialect() -> None:
    original, _ = read_vllm(Fields({"prompt": "hi"}), ORIGINAL)
    assert (original.max_tokens, original.sampling.temperature) == (16, 1)
    mindie, _ = read_vllm(Fields({"prompt": "hi"}), MINDIE)
    assert not mindie.HasField("max_tokens")
    assert mindie.sampling.temperature == 0


def test_what_is_set_is_taken() -> None:
    body = {
        "prompt": PARTS,
        "temperature": 0.5,
        "top_k": -1,
        "top_p": 1,
        "repetition_penalty": 2,
        "frequency_penalty": -2,
        "presence_penalty": 2.0,
        "seed": 3,
        "n": 2,
        "best_of": 3,
        "max_tokens": 9,
        "ignore_eos": True,
        "stop": ["a"],
        "stop_token_ids": [7],
        "skip_special_tokens": True,
    }
    for dialect in Dialect:
        request, form = read_vllm(Fields(body), dialect)
        sampling = request.sampling
        assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 0, 1)
        assert (sampling.frequency_penalty, sampling.presence_penalty) == (-2, 2)
        assert (sampling.repetition_penalty, sampling.seed) == (2, 3)
        assert (request.n, request.best_of, request.max_tokens) == (2, 3, 9)
        assert request.ignore_eos
        assert (list(request.stop), list(request.stop_token_ids)) == (["a"], [7])
        assert request.messages[0].parts[1].image.data.startswith(b"\x89PNG")
        assert not form.is_stream


def test_what_only_vllm_has_is_taken_in_its_dialect() -> None:
    body = {
        "prompt": "hi",
        "min_p": 0.25,
        "min_tokens": 2,
        "top_k": 0,
        "logit_bias": {"5": -1},
        "truncate_prompt_tokens": 7,
    }
    request, _ = read_vllm(Fields(body), ORIGINAL)
    assert (request.sampling.min_p, request.min_tokens, request.sampling.top_k) == (0.25, 2, 0)
    assert dict(request.sampling.logit_bias) == {5: -1.0}
    assert request.truncate_prompt_tokens == 7
    assert request.sampling.temperature == 1


BOTH = tuple(Dialect)


@pytest.mark.parametrize(
    ("fields", "dialects", "said"),
    [
        ({"prompt": 1}, BOTH, "The type of prompt is abnormal"),
        ({"prompt": []}, BOTH, "Prompt arr is empty"),
        ({"prompt": [{"text": None}]}, BOTH, "Request param text must be string"),
        ({"temperature": -0.5}, BOTH, "Parameter temperature must be in [0.0,10.0], got -0.5."),
        ({"top_k": -2}, BOTH, "Parameter top_k must be in -1 || (0,2147483647], got -2"),
        ({"top_k": 0}, [MINDIE], "Parameter top_k must be in -1 || (0,2147483647], got 0"),
        ({"top_k": 1.5}, BOTH, "top_k must be integer type."),
        ({"top_p": 0}, BOTH, "Parameter top_p must be in (0.0,1.0], got 0."),
        ({"repetition_penalty": 2.5}, BOTH, "Parameter repetition_penalty must be in (0.0,2.0]"),
        ({"frequency_penalty": 2.5}, BOTH, "Parameter frequency_penalty must be in [-2.0,2.0]"),
        ({"presence_penalty": -3}, BOTH, "Parameter presence_penalty must be in [-2.0,2.0]"),
        ({"seed": -1}, BOTH, "Parameter seed must be in [0,9223372036854775807], got -1."),
        ({"n": 0}, BOTH, "Parameter n must be in [1,8192], got 0."),
        ({"best_of": 129}, BOTH, "Parameter best_of must be in [1,128], got 129."),
        ({"max_tokens": 0}, BOTH, "Parameter max_tokens must be (0,2147483647], got 0"),
        (
            {"max_tokens": 2**31},
            BOTH,
            "Parameter max_tokens must be (0,2147483647], got 2147483648",
        ),
        ({"max_tokens": 1.0}, BOTH, "max_tokens must be integer type."),
        ({"stream": "yes"}, BOTH, "stream must be boolean type."),
        ({"ignore_eos": 1}, BOTH, "ignore_eos must be boolean type."),
        ({"stop": "a" * 32769}, BOTH, "Parameter stop must have 1 to 32768 characters"),
        ({"stop_token_ids": 1}, BOTH, "stop_token_ids must be array type."),
        ({"stop_token_ids": [-1]}, BOTH, "Parameter stop_token_ids must have integers in [0,"),
        ({"skip_special_tokens": False}, BOTH, "skip_special_tokens is false; "),
        ({"use_beam_search": True}, BOTH, "use_beam_search is not supported: "),
        ({"n": 2}, [MINDIE], "Best_of/N can not greater than 1 when temperature is 0 or not set"),
        ({"best_of": 2, "temperature": 0}, BOTH, "Best_of/N can not greater than 1 when temp"),
        ({"logit_bias": {"a": 1}}, [ORIGINAL], "logit_bias must be an object of token ids and"),
        ({"logit_bias": []}, [ORIGINAL], "logit_bias must be object type."),
    ],
)
def test_what_a_dialect_refuses(fields: dict[str, Any], dialects: list[Dialect], said: str) -> None:
    for dialect in dialects:
        with pytest.raises(InvalidRequest) as raised:
            read_vllm(Fields({"prompt": "hi"} | fields), dialect)
        assert str(raised.value).startswith(said)
