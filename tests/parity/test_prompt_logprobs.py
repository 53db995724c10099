"""Prompt log-probabilities match those of the original implementation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.spec import ModelSpec
from glm4v.checkpoint.weights import Weights
from lm_worker.engine.sequence import TokenOutput
from lm_worker.plan import PromptLogprob
from tests.parity.engine_runs import Answers, Asked, Layout, ask, rank_processes, running
from tests.parity.golden_plans import cases, open_golden

GOLDEN = open_golden("bundled")
TOP = 3
HEAD = "transformer.output_layer.weight"


@dataclass
class Scored(Answers):
    """Answers, and what came with their first tokens."""

    scores: dict[str, tuple[PromptLogprob, ...]] = field(default_factory=dict)

    async def publish(self, tokens: Sequence[TokenOutput]) -> set[int]:
        for token in tokens:
            if token.index == 0:
                self.scores[token.request_id] = token.prompt_logprobs
            else:
                assert token.prompt_logprobs == ()
        return await super().publish(tokens)


@pytest.fixture(scope="module")
def folder(checkpoint_dir: Callable[[str], Path]) -> Path:
    return checkpoint_dir("micro-glm4v")


@pytest.fixture(scope="module")
def asked(folder: Path) -> list[Asked]:
    boi_id = Checkpoint.open(folder).spec.boi_id
    requests = [ask(GOLDEN, case, boi_id) for case in cases(GOLDEN)]
    return [
        replace(one, request=replace(one.request, prompt_logprobs=TOP, max_tokens=3))
        for one in requests
    ]


def check(folder: Path, asked: Sequence[Asked], scored: Scored) -> None:
    checkpoint = Checkpoint.open(folder)
    spec = checkpoint.spec
    head = Weights(checkpoint, torch.float32, torch.device("cpu")).read(HEAD)
    for one in asked:
        normed = torch.from_numpy(GOLDEN[f"{one.request.request_id}/act/lm.final_layernorm"])
        logprobs = torch.log_softmax(normed @ head.T, dim=-1)
        expected = predicted(one, spec)
        got = scored.scores[one.request.request_id]
        assert [score.prompt_index for score in got] == list(expected)
        for score in got:
            row = logprobs[expected[score.prompt_index]]
            assert score.token_id == one.request.prompt_ids[score.prompt_index]
            assert score.logprob == pytest.approx(float(row[score.token_id]), abs=1e-4)
            best = row.topk(TOP).values.tolist()
            assert [logprob for _, logprob in score.top] == pytest.approx(best, abs=1e-4)
            assert all(
                logprob == pytest.approx(float(row[token_id]), abs=1e-4)
                for token_id, logprob in score.top
            )


def predicted(one: Asked, spec: ModelSpec) -> dict[int, int]:
    """For each token that is predicted, the row that does it."""
    slot, extra = one.request.image_offset, spec.vision.num_image_tokens - 3
    rows = {}
    for index in range(1, len(one.request.prompt_ids)):
        if slot < 0 or index < slot:
            rows[index] = index - 1
        elif index > slot + 2:
            rows[index] = index - 1 + extra
    return rows


@pytest.mark.parametrize(
    "layout", [Layout(max_batched_tokens=10_000), Layout(max_batched_tokens=7)], ids=str
)
async def test_logprobs_match_the_original_in_any_chunks(
    layout: Layout, folder: Path, asked: list[Asked]
) -> None:
    scored = Scored()
    async with running(folder, layout, answers=scored) as run:
        first = await run.answer(asked)
        check(folder, asked, scored)
        scored.scores.clear()
        assert await run.answer(asked) == first  # the prompts' rows are in the cache by now
        check(folder, asked, scored)


async def test_logprobs_survive_preemption(folder: Path, asked: list[Asked]) -> None:
    scored = Scored()
    requests = [replace(one, request=replace(one.request, max_tokens=30)) for one in asked]
    async with running(
        folder, Layout(max_batched_tokens=9, block_size=4, blocks=40), answers=scored
    ) as run:
        await run.answer(requests)
        assert run.scheduler.counts.preemptions > 0
    check(folder, asked, scored)


async def test_logprobs_match_on_two_ranks(folder: Path, asked: list[Asked]) -> None:
    scored = Scored()
    with rank_processes(folder, 2) as rank:
        async with running(folder, Layout(), rank, answers=scored) as run:
            await run.answer(asked)
    check(folder, asked, scored)
