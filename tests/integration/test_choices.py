"""Several answers to one prompt: each is what a request of its own gets; they end together."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from glm4v.broker import Connection, Keys
from glm4v.client import Client
from glm4v.client.messages import user_message
from glm4v.client.options import GenerateOptions
from glm4v.errors import Cancelled, InvalidRequest
from glm4v.v1 import inference_pb2 as api
from tests.integration.system import System, user
from tests.integration.test_system import draw, nothing_is_left

pytestmark = pytest.mark.asyncio(loop_scope="session")

N = 4
SEED = 2**64 - 2  # the seeds of later choices start again from 0


def sampling(seed: int) -> api.SamplingParams:
    return api.SamplingParams(temperature=1.0, top_p=1.0, seed=seed % 2**64)


async def choices_of(
    system: System, messages: Sequence[api.Message], **fields: Any
) -> dict[int, list[api.GenerationEvent]]:
    """Events by choice; checks that each is in order and ends once."""
    fields.setdefault("sampling", sampling(SEED))
    request = api.GenerateRequest(messages=messages, ignore_eos=True, max_tokens=20, **fields)
    events = [r.event async for r in system.stub.Generate(request, timeout=60)]
    assert events[0].HasField("accepted")
    assert not any(event.HasField("accepted") for event in events[1:])
    return by_choice(events, events[0].accepted.n)


def by_choice(
    events: Sequence[api.GenerationEvent], count: int, offsets: Sequence[int] = ()
) -> dict[int, list[api.GenerationEvent]]:
    choices: dict[int, list[api.GenerationEvent]] = {choice: [] for choice in range(count)}
    for event in events:
        if event.HasField("delta") or event.HasField("finished"):
            choices[event.choice].append(event)
    for choice, mine in choices.items():
        known = offsets[choice] if offsets else 0
        for event in mine[:-1]:
            assert event.delta.first_index == known
            known += len(event.delta.token_ids)
        assert mine[-1].finished.usage.completion_tokens == known
    return choices


def tokens(events: Sequence[api.GenerationEvent]) -> list[int]:
    return [token_id for event in events for token_id in event.delta.token_ids]


def text(events: Sequence[api.GenerationEvent]) -> str:
    return "".join(event.delta.text + event.finished.text for event in events)


def mean(events: Sequence[api.GenerationEvent]) -> float:
    values = [each.chosen.logprob for event in events for each in event.delta.logprobs]
    return sum(values) / len(values)


@pytest.mark.parametrize("image", [None, draw(77)])
async def test_each_is_the_answer_to_its_seed(system: System, image: bytes | None) -> None:
    messages = [user("several", image)]
    choices = await choices_of(system, messages, n=N)
    assert len({tuple(tokens(events)) for events in choices.values()}) == N
    for choice, events in choices.items():
        alone = await system.ask(messages, sampling=sampling(SEED + choice))
        assert tokens(events) == alone.token_ids
        assert text(events) == alone.text
    await nothing_is_left(system)


async def test_the_best_are_the_most_probable(system: System) -> None:
    messages = [user("best of")]
    every = await choices_of(system, messages, n=6, top_logprobs=1)
    order = sorted(every, key=lambda choice: -mean(every[choice]))
    best = await choices_of(system, messages, n=2, best_of=6)
    assert [tokens(best[rank]) for rank in (0, 1)] == [tokens(every[c]) for c in order[:2]]
    assert [text(best[rank]) for rank in (0, 1)] == [text(every[c]) for c in order[:2]]
    assert not any(event.delta.logprobs for events in best.values() for event in events)
    await nothing_is_left(system)


async def test_a_stop_string_ends_one_choice(system: System) -> None:
    messages = [user("stop one")]
    choices = await choices_of(system, messages, n=N)
    stop = next(
        letter
        for letter in text(choices[1]).strip()
        if letter not in text(choices[0]) and letter != "\ufffd"
    )
    stopped = await choices_of(system, messages, n=N, stop=[stop])
    assert text(stopped[0]) == text(choices[0])
    assert text(stopped[1]) == text(choices[1]).partition(stop)[0]
    assert stopped[1][-1].finished.stop_string == stop


@pytest.mark.parametrize("ranked", [False, True])
async def test_attach_goes_on_with_each_choice(system: System, ranked: bool) -> None:
    name = f"attached-{ranked}-{random.getrandbits(32)}"
    fields: dict[str, Any] = {"n": 3, "best_of": 5 if ranked else 3, "request_id": name}
    whole = await choices_of(system, [user("again")], **fields)
    assert await choices_of(system, [user("again")], **fields) == whole  # it runs once
    offsets = [5, 0, 20]
    call = system.stub.Attach(api.AttachRequest(request_id=name, token_offsets=offsets))
    rest = by_choice([reply.event async for reply in call], 3, offsets)
    for choice, events in rest.items():
        assert tokens(events) == tokens(whole[choice])[offsets[choice] :]
        assert text(whole[choice]).endswith(text(events))


async def test_a_cancel_ends_all(system: System) -> None:
    request = api.GenerateRequest(
        messages=[user("cancelled")],
        n=N,
        ignore_eos=True,
        max_tokens=400,
        request_id=f"c-{random.getrandbits(32)}",
    )
    call = system.stub.Generate(request, timeout=60)
    async for reply in call:
        if reply.event.HasField("delta"):
            break
    cancel = api.CancelRequest(request_id=request.request_id)
    assert (await system.stub.Cancel(cancel)).cancelled
    assert not (await system.stub.Cancel(cancel)).cancelled
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in call:
            pass
    assert refused.value.code() == grpc.StatusCode.CANCELLED
    await nothing_is_left(system, within_s=10)


async def test_journals_of_one_request_expire_together(system: System) -> None:
    name = f"kept-{random.getrandbits(32)}"
    await choices_of(system, [user("kept")], n=3, request_id=name)
    connection, keys = Connection(system.redis_url), Keys()
    try:
        ends = [
            await connection.commands.pexpiretime(keys.journal(f"{name}{part}"))
            for part in ("", "/1", "/2")
        ]
    finally:
        await connection.close()
    assert len(set(ends)) == 1
    assert ends[0] > 0


async def test_the_client_gathers_them(system: System) -> None:
    def ask() -> None:
        with Client(system.target) as client:
            asked: GenerateOptions = {"temperature": 1.0, "seed": 3, "max_tokens": 9, "n": 3}
            with client.generate([user_message("gather")], **asked) as generation:
                first = generation.text
                assert [choice.finished is not None for choice in generation.choices] == [True] * 3
            texts = [choice.text for choice in generation.choices]
            assert texts[0] == first
            with client.attach(generation.request_id, 2, 3) as rest:
                assert rest.text == texts[0][-len(rest.text) :]
                assert [c.token_ids for c in rest.choices] == [
                    choice.token_ids[offset:]
                    for choice, offset in zip(generation.choices, (2, 3, 0), strict=True)
                ]
            with pytest.raises(InvalidRequest, match="token_offsets has 4 values"):
                _ = client.attach(generation.request_id, 0, 0, 0, 0).text
            with pytest.raises(InvalidRequest, match=r"token_offsets\[2\] is 99"):
                _ = client.attach(generation.request_id, 0, 0, 99).text
            with client.generate([user_message("left")], n=2, max_tokens=400) as left:
                next(left)
            with pytest.raises(Cancelled):
                _ = client.attach(left.request_id).text

    await asyncio.to_thread(ask)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, "n is 0; 1 to 16"),
        ({"n": 17}, "n is 17; 1 to 16"),
        ({"n": 3, "best_of": 2}, "best_of is 2; 3 to 16"),
        ({"prompt_logprobs": 21}, "prompt_logprobs is 21; 0 to 20"),
    ],
)
async def test_what_cannot_be_is_refused(
    system: System, fields: dict[str, int], message: str
) -> None:
    request = api.GenerateRequest(messages=[user("?")], **fields)  # type: ignore[arg-type]
    with pytest.raises(grpc.aio.AioRpcError, match=message) as refused:
        async for _ in system.stub.Generate(request):
            pass
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_prompt_is_scored_once_before_its_answers(system: System) -> None:
    first = await system.ask([user("scored", draw(5))])
    request = api.GenerateRequest(
        messages=[user("scored", draw(5))],
        sampling=api.SamplingParams(temperature=0),
        n=2,
        best_of=3,
        max_tokens=3,
        prompt_logprobs=2,
        return_prompt_ids=True,
    )
    events = [r.event async for r in system.stub.Generate(request, timeout=60)]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds.count("prompt_logprobs") == 1
    assert kinds.index("prompt_logprobs") < kinds.index("delta")
    scored = events[kinds.index("prompt_logprobs")].prompt_logprobs.tokens
    slot = first.prompt_ids.index(266)  # the micro model's boi
    silent = [index for index, each in enumerate(scored) if not each.HasField("chosen")]
    assert silent == [0, slot, slot + 1, slot + 2]
    for token_id, each in zip(first.prompt_ids, scored, strict=True):
        if each.HasField("chosen"):
            assert each.chosen.token_id == token_id
            assert len(each.top) == 2
