"""Sampling rules and response formats through the running system, beside free requests."""

import asyncio
import json
import re
from typing import Any

import grpc
import pytest

from glm4v.v1 import inference_pb2 as api
from tests.integration.system import Answer, System, user

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["colour", "count"],
    "additionalProperties": False,
}
CHOICES = ["yes", "no", "图片"]
JSON = api.ResponseFormat(json_schema=json.dumps(SCHEMA))
REGEX = api.ResponseFormat(regex=r"[a-f]{3}-[0-9]{1,4}")
CHOICE = api.ResponseFormat(choice=api.Choices(options=CHOICES))


def drawn(seed: int) -> api.SamplingParams:
    return api.SamplingParams(temperature=1.0, top_p=1.0, seed=seed)


async def refused(system: System, **fields: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await system.ask([user("abc")], **fields)
    return refused.value


def fits(response_format: api.ResponseFormat, text: str) -> bool:
    match response_format.WhichOneof("format"):
        case "regex":
            return re.fullmatch(response_format.regex, text) is not None
        case "choice":
            return text in CHOICES
    answer = json.loads(text)
    return (
        list(answer) == ["colour", "count"]
        and answer["colour"] in ("red", "green")
        and 0 <= answer["count"] <= 99
    )


async def test_answers_have_their_form_and_free_ones_beside_them_stay_as_they_are(
    system: System,
) -> None:
    free = await system.ask([user("abc")], sampling=drawn(1))
    wanted = [
        (form, sampling)
        for form in (JSON, REGEX, CHOICE)
        for sampling in (api.SamplingParams(temperature=0), drawn(1), drawn(2), drawn(3))
    ]
    beside, *answers = await asyncio.gather(
        system.ask([user("abc")], sampling=drawn(1)),
        *(
            system.ask([user("abc")], sampling=s, response_format=form, max_tokens=400)
            for form, s in wanted
        ),
    )
    assert beside.token_ids == free.token_ids
    for (form, sampling), answer in zip(wanted, answers, strict=True):
        assert fits(form, answer.text), answer.text
        assert answer.finished.reason == api.FINISH_REASON_STOP
        alone = await system.ask(
            [user("abc")], sampling=sampling, response_format=form, max_tokens=400
        )
        assert alone.token_ids == answer.token_ids


async def test_with_the_models_own_ends_a_form_ends_at_one_or_where_nothing_follows(
    system: System,
) -> None:
    form = api.ResponseFormat(regex="ab*")
    answer = await system.ask(
        [user("abc")], response_format=form, ignore_eos=False, max_tokens=100, sampling=drawn(4)
    )
    assert re.fullmatch("ab*", answer.text)
    assert answer.finished.WhichOneof("matched") == "stop_token_id"
    closed = await system.ask(
        [user("abc")], response_format=api.ResponseFormat(regex="ab"), ignore_eos=False
    )
    assert (closed.text, len(closed.token_ids)) == ("ab", 2)
    assert closed.finished.WhichOneof("matched") is None
    assert closed.finished.reason == api.FINISH_REASON_STOP


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (api.ResponseFormat(json_schema="{"), "json_schema is not JSON"),
        (api.ResponseFormat(json_schema='{"type": "objekt"}'), "objekt"),
        (api.ResponseFormat(regex="a("), "unclosed group"),
        (api.ResponseFormat(choice=api.Choices()), "choice has 0 options; 1 to 1000"),
        (api.ResponseFormat(regex="(a{1,1000}){1,1000}"), "cannot be followed at token"),
    ],
)
async def test_a_form_that_cannot_be_used_is_an_invalid_argument(
    system: System, form: api.ResponseFormat, said: str
) -> None:
    error = await refused(system, response_format=form, max_tokens=400)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert said in (error.details() or "")


async def test_an_answer_is_not_shorter_than_asked(system: System) -> None:
    whole = await system.ask([user("abc")], max_tokens=30)
    stop = whole.token_ids[2]
    longer = await system.ask([user("abc")], max_tokens=30, stop_token_ids=[stop], min_tokens=10)
    assert len(longer.token_ids) > 10
    assert stop not in longer.token_ids[:10]


async def test_biases_and_penalties_reach_the_sampler(system: System) -> None:
    async def answer(**rules: Any) -> Answer:
        return await system.ask([user("abc")], sampling=api.SamplingParams(temperature=0, **rules))

    forced = await answer(logit_bias={65: 100.0})
    assert forced.token_ids == [65] * 20
    assert 65 in (await answer(logit_bias={65: 100.0}, repetition_penalty=1.5)).token_ids
    assert (await answer(logit_bias={65: 50.0, 66: 100.0})).token_ids == [66] * 20
    most = await answer(frequency_penalty=2.0, logit_bias=dict.fromkeys(range(65, 75), 20.0))
    counts = [most.token_ids.count(token) for token in range(65, 75)]
    assert max(counts) < 20
    assert sum(counts) == 20
