"""Draft tokens change no token, and no log-probability beyond rounding."""

import asyncio
import json
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import DeviceOptions, open_device
from lm_worker import assembly
from lm_worker.engine.sequence import SequenceState
from lm_worker.plan import OutputFormat, SamplingParams
from tests.guesser import GuessingPlanner
from tests.parity.engine_runs import Answers, Asked, Layout, mixed, rank_processes, running
from tests.parity.golden_plans import cases, open_golden

COUNT = int(os.environ.get("DRAFTED_SEQUENCES", "48"))  # `make compare-drafts` compares 1000
AT_ONCE = 48  # formats of more would not fit into their memory together
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "count": {"type": "integer"}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}
# Every parameter that looks at the tokens before.
PARAMS = (
    SamplingParams(want_logprobs=True, top_logprobs=2),
    SamplingParams(temperature=1.0, seed=3, min_p=0.02, top_p=0.9),
    SamplingParams(repetition_penalty=1.3),
    SamplingParams(temperature=0.8, seed=4, frequency_penalty=0.5, presence_penalty=0.3),
    SamplingParams(temperature=1.1, seed=5, typical_p=0.8, logit_bias=((65, 2.0),)),
    SamplingParams(temperature=1.0, seed=6, top_k=20, want_logprobs=True),
)
FORMS = (
    OutputFormat("json_schema", json.dumps(SCHEMA)),
    OutputFormat("choice", json.dumps(["a long choice", "a longer choice"])),
    OutputFormat("regex", "[a-z]{2,9}( [0-9]{1,3})*"),
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads would only wait for each other here."""
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def drafts_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where torch computes in place of the kernels: slower, but as exact."""
    device = type(open_device(DeviceOptions("cpu", "float32")))
    monkeypatch.setattr(device, "has_drafts", property(lambda self: True, lambda self, on: None))


@pytest.fixture(scope="module")
def folder(checkpoint_dir: Callable[[str], Path]) -> Path:
    return checkpoint_dir("micro-glm4v")


@pytest.fixture(scope="module")
def requests(folder: Path) -> list[Asked]:
    def varied(number: int, one: Asked) -> Asked:
        request = replace(
            one.request,
            sampling=PARAMS[number % len(PARAMS)],
            output_format=FORMS[number // 3 % 3] if number % 3 == 2 else None,
            max_tokens=12 + number % 25,
            stop_ids=frozenset({7, 100 + number % 150}) if number % 2 else frozenset(),
            min_tokens=number % 9,
        )
        return replace(one, request=request)

    plain = mixed(open_golden("bundled"), Checkpoint.open(folder).spec.boi_id, COUNT)
    return [varied(*numbered) for numbered in enumerate(plain)]


async def answered(
    folder: Path, layout: Layout, requests: list[Asked], *, at_once: int
) -> tuple[Answers, int, int]:
    """The answers, and how many drafts were computed and were right."""
    answers = Answers()
    async with running(folder, layout, answers=answers) as run:
        for first in range(0, len(requests), at_once):
            await run.answer(requests[first : first + at_once])
        counts = run.scheduler.counts
    return answers, counts.draft_tokens, counts.accepted_tokens


@pytest.fixture(scope="module")
def alone(folder: Path, requests: list[Asked]) -> Answers:
    """One request after the other, without drafts."""
    torch.set_num_threads(1)
    layout = Layout(max_batched_tokens=10_000, prefix_cache=False)
    return asyncio.run(answered(folder, layout, requests, at_once=1))[0]


@pytest.fixture
def guesses(alone: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """All drafts know the answer, and are wrong in places."""

    def answer(sequence: SequenceState) -> list[int]:
        tokens = alone.sampled.get(sequence.request.request_id, [])
        return [token.token_id for token in tokens]

    planner = partial(GuessingPlanner, random.Random(1), answer)
    monkeypatch.setattr(assembly, "DraftPlanner", planner)


def check_same(got: Answers, expected: Answers, names: Iterable[str] | None = None) -> None:
    """Of all requests, or of these. Errors too: some stop ids are all that fits a form."""
    names = set(expected.sampled) | set(expected.errors) if names is None else set(names)
    assert got.errors == {name: error for name, error in expected.errors.items() if name in names}
    names &= set(expected.sampled)  # others ended before their first token
    assert got.sampled.keys() == names
    for name in names:
        own, tokens = got.sampled[name], expected.sampled[name]
        assert [token.token_id for token in own] == [token.token_id for token in tokens], name
        for one, other in zip(own, tokens, strict=True):
            assert one.is_complete == other.is_complete
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [i for i, _ in one.top] == [i for i, _ in other.top]


@pytest.mark.usefixtures("guesses")
@pytest.mark.parametrize("at_once", [1, AT_ONCE])
@pytest.mark.parametrize(
    "layout",
    [
        Layout(drafts=True),
        Layout(drafts=True, max_batched_tokens=9, block_size=4, blocks=2400),
        Layout(drafts=True, block_size=4, blocks=60),  # one or two prompts fill them
        Layout(drafts=True, prefix_cache=False),
    ],
    ids=str,
)
async def test_right_and_wrong_drafts_change_no_token(
    layout: Layout, at_once: int, folder: Path, requests: list[Asked], alone: Answers
) -> None:
    got, drafted, accepted = await answered(folder, layout, requests, at_once=at_once)
    check_same(got, alone)
    assert 0 < accepted < drafted


@pytest.mark.parametrize("at_once", [1, AT_ONCE])
async def test_drafts_of_grammars_and_earlier_text_change_no_token(
    at_once: int, folder: Path, requests: list[Asked], alone: Answers
) -> None:
    got, drafted, accepted = await answered(folder, Layout(drafts=True), requests, at_once=at_once)
    check_same(got, alone)
    assert 0 < accepted < drafted


@pytest.mark.usefixtures("guesses")
@pytest.mark.parametrize("size", [2, 4])
async def test_several_ranks_compute_the_same_drafts(
    size: int,
    folder: Path,
    requests: list[Asked],
    alone: Answers,
) -> None:
    layout = Layout(max_batched_tokens=100, block_size=4, blocks=200, drafts=True)
    # Four ranks take turns on a small machine.
    asked = requests if size == 2 or COUNT > AT_ONCE else requests[: COUNT // 4]
    answers = Answers()
    with rank_processes(folder, size) as rank:
        async with running(folder, layout, rank, answers=answers) as run:
            for first in range(0, len(asked), AT_ONCE):
                await run.answer(asked[first : first + AT_ONCE])
            counts = run.scheduler.counts
    assert 0 < counts.accepted_tokens < counts.draft_tokens
    assert counts.forced_tokens > 0 or len(asked) < len(requests)
    check_same(answers, alone, [one.request.request_id for one in asked])


def test_greedy_answers_are_those_of_the_original(alone: Answers) -> None:
    golden = open_golden("bundled")
    [first, *_] = cases(golden)
    tokens = [token.token_id for token in alone.sampled[f"0:{first}"]]
    expected = golden[f"{first}/greedy_tokens"].tolist()
    assert tokens == expected[: len(tokens)]
