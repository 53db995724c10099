"""Sampling rules and response formats through the running system, beside free requests."""

import asyncio
import json
import re
from typing import Any

import grpc
import pytest

from glm4v.client import Client
from glm4v.client.messages import user_message
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
CHOICE = api.ResponseFormat(choice=api.ChoiceFormat(options=CHOICES))
NEWLINES = api.SamplingParams(temperature=0, logit_bias={10: 100.0})


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
    assert (closed.text, closed.token_ids) == ("ab", [*b"\nab"])
    assert closed.finished.WhichOneof("matched") is None
    assert closed.finished.reason == api.FINISH_REASON_STOP


@pytest.mark.parametrize("form", [JSON, REGEX, CHOICE], ids=["json_schema", "regex", "choice"])
async def test_a_form_begins_behind_the_headers_newline_which_is_a_token_and_no_text(
    system: System, form: api.ResponseFormat
) -> None:
    # Whatever the request says of the newline: the first one is the template's.
    for fields in (
        {"sampling": api.SamplingParams(temperature=0, logit_bias={10: -100.0})},
        {"sampling": drawn(5), "stop_token_ids": [10], "min_tokens": 1},
    ):
        answer = await system.ask([user("abc")], response_format=form, max_tokens=400, **fields)
        assert answer.token_ids[0] == 10
        ending = "\n" if answer.finished.stop_token_id == 10 else ""
        assert answer.text + ending == bytes(answer.token_ids[1:]).decode()
        assert fits(form, answer.text), answer.text
        assert answer.finished.usage.completion_tokens == len(answer.token_ids)


async def test_the_headers_newline_is_no_text_stops_nothing_and_counts_as_a_token(
    system: System,
) -> None:
    async def first_is_newline(**fields: Any) -> Answer:
        return await system.ask([user("abc")], sampling=NEWLINES, **fields)

    free = await first_is_newline(max_tokens=3)
    assert (free.token_ids, free.text) == ([10] * 3, "\n\n")
    stopped = await first_is_newline(max_tokens=3, stop=["\n"])
    assert (stopped.token_ids, stopped.text) == ([10] * 2, "")
    assert stopped.finished.stop_string == "\n"
    by_token = await first_is_newline(max_tokens=3, stop_token_ids=[10])
    assert (by_token.token_ids, by_token.finished.stop_token_id) == ([10] * 2, 10)
    assert by_token.text == ""
    longer = await first_is_newline(max_tokens=4, stop_token_ids=[10], min_tokens=3)
    assert longer.token_ids[0] == 10  # one of the three
    assert 10 not in longer.token_ids[1:3]
    assert longer.token_ids[3] == 10
    one = await first_is_newline(max_tokens=1, stop_token_ids=[10])
    assert (one.token_ids, one.finished.reason) == ([10], api.FINISH_REASON_LENGTH)
    other = await system.ask([user("abc")], sampling=api.SamplingParams(logit_bias={65: 100.0}))
    assert other.text == bytes(other.token_ids).decode() == "A" * 20


async def test_several_answers_and_readers_that_come_later_see_the_same_text(
    system: System,
) -> None:
    def read() -> None:
        with Client(system.target) as client:
            for options in ({"response_format": CHOICE}, {"logit_bias": {10: 100.0}}):
                with client.generate(
                    [user_message("abc")],
                    seed=3,
                    n=2,
                    best_of=3,
                    top_logprobs=1,
                    max_tokens=6,
                    **options,
                ) as whole:
                    assert whole.text == whole.choices[0].text
                for choice in whole.choices:
                    assert choice.token_ids[0] == 10
                    assert choice.text == bytes(choice.token_ids[1:]).decode()
                    assert [each.chosen.token_id for each in choice.logprobs] == choice.token_ids
                first = whole.choices[0]
                for offset in range(len(first.token_ids) + 1):
                    with client.attach(whole.request_id, offset) as rest:
                        assert rest.text == bytes(first.token_ids[max(offset, 1) :]).decode()
                        assert rest.token_ids == first.token_ids[offset:]

    await asyncio.to_thread(read)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (api.ResponseFormat(json_schema="{"), "json_schema is not JSON"),
        (api.ResponseFormat(json_schema='{"type": "objekt"}'), "objekt"),
        (api.ResponseFormat(regex="a("), "unclosed group"),
        (api.ResponseFormat(choice=api.ChoiceFormat()), "choice has 0 options; 1 to 1000"),
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
