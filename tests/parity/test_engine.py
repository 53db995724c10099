"""A request gets the same output alone, in any batch, in any chunks, on any number of ranks."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from lm_worker.parallel.group import RankProcesses
from lm_worker.plan import SamplingParams
from tests.parity.engine_runs import GOLDEN_TOKENS, Asked, Layout, ask, mixed, running
from tests.parity.golden_plans import cases, open_golden

WHOLE = 10_000  # rows: no prompt is cut
FEW = 40  # blocks of 4 rows: one or two prompts fill them

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads would only wait for each other here."""
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def folder(checkpoint_dir: Callable[[str], Path]) -> Path:
    return checkpoint_dir("micro-glm4v")


@pytest.fixture(scope="module")
def requests(folder: Path) -> list[Asked]:
    return mixed(open_golden("bundled"), Checkpoint.open(folder).spec.boi_id, 64)


@pytest.fixture(scope="module")
def alone(folder: Path, requests: list[Asked]) -> dict[str, list[int]]:
    """The answers of one request after the other, nothing kept between them."""

    async def answer() -> dict[str, list[int]]:
        answers: dict[str, list[int]] = {}
        async with running(folder, Layout(max_batched_tokens=WHOLE, prefix_cache=False)) as run:
            for one in requests:
                answers |= await run.answer([one])
        return answers

    torch.set_num_threads(1)
    return asyncio.run(answer())


def test_output_alone_is_that_of_the_original(alone: dict[str, list[int]]) -> None:
    golden = open_golden("bundled")
    for number in range(0, 64, 2):  # the greedy ones
        case = cases(golden)[number % len(cases(golden))]
        assert alone[f"{number}:{case}"] == golden[f"{case}/greedy_tokens"].tolist()


def test_formatted_output_matches_its_format(
    requests: list[Asked], alone: dict[str, list[int]]
) -> None:
    formed = [one.request for one in requests if one.request.output_format is not None]
    assert len(formed) > 5
    for request in formed:
        text = bytes(alone[request.request_id]).decode()
        assert re.fullmatch(r"[a-z]{2,9}( [0-9]{1,3})*( |[0-9]+ )?|[a-z]{1,9}", text), text


@pytest.mark.parametrize(
    "layout",
    [
        Layout(max_batched_tokens=1),
        Layout(max_batched_tokens=7, block_size=4, blocks=2400),
        Layout(max_batched_tokens=WHOLE, block_size=128, blocks=80),
        Layout(max_batched_tokens=WHOLE, prefix_cache=False),
        Layout(max_batched_tokens=64, prefill_slowdown=1.1),
    ],
    ids=str,
)
async def test_output_in_a_batch_is_that_alone(
    layout: Layout, folder: Path, requests: list[Asked], alone: dict[str, list[int]]
) -> None:
    async with running(folder, layout) as run:
        assert await run.answer(requests) == alone
        again = requests[::-7]  # the cache is warm, the order another
        names = [one.request.request_id for one in again]
        assert await run.answer(again) == {name: alone[name] for name in names}


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize(("block_size", "blocks"), [(4, FEW), (16, 12)])
async def test_output_after_preemption_is_that_alone(
    block_size: int,
    blocks: int,
    prefix_cache: bool,
    folder: Path,
    requests: list[Asked],
    alone: dict[str, list[int]],
) -> None:
    layout = Layout(block_size=block_size, blocks=blocks, prefix_cache=prefix_cache)
    async with running(folder, layout) as run:
        assert await run.answer(requests) == alone
        assert run.scheduler.counts.preemptions > 0


@pytest.mark.parametrize("size", [2, 4, 8])
async def test_output_of_several_ranks_is_that_alone(
    size: int,
    folder: Path,
    requests: list[Asked],
    alone: dict[str, list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLM4V_MODEL", str(folder))
    monkeypatch.setenv("GLM4V_DTYPE", "float32")
    monkeypatch.setenv("GLM4V_THREADS", "1")
    monkeypatch.setenv("GLM4V_TENSOR_PARALLEL", str(size))
    followers = RankProcesses(size)
    try:
        layout = Layout(max_batched_tokens=100, block_size=4, blocks=200)
        async with running(folder, layout, followers.config) as run:
            assert await run.answer(requests) == alone
            assert run.scheduler.counts.preemptions > 0
    finally:
        followers.stop(told=True)


async def test_output_of_callers_that_share_a_beginning_is_that_alone(folder: Path) -> None:
    """They wait for the one that computes it; the tokens of their prompts differ at the end."""
    golden = open_golden("bundled")
    boi_id = Checkpoint.open(folder).spec.boi_id
    longest = max(
        (ask(golden, case, boi_id) for case in cases(golden)),
        key=lambda one: len(one.request.prompt_ids) + (0 if one.image is None else 100),
    )
    prompt = longest.request.prompt_ids
    requests = [
        replace(
            longest,
            request=replace(
                longest.request,
                request_id=str(number),
                prompt_ids=(*prompt[:-1], 40 + number, prompt[-1]),
                client=f"client {number}",
                sampling=SamplingParams(temperature=float(number % 2), seed=number),
            ),
        )
        for number in range(16)
    ]
    alone: dict[str, list[int]] = {}
    async with running(folder, Layout(prefix_cache=False)) as run:
        for one in requests:
            alone |= await run.answer([one])
        each = run.scheduler.counts.computed_tokens / 16 - GOLDEN_TOKENS + 1
    async with running(folder, Layout(block_size=4, blocks=2400)) as run:
        assert await run.answer(requests) == alone
        prefill = run.scheduler.counts.computed_tokens - 16 * (GOLDEN_TOKENS - 1)
    assert prefill <= each + 15 * 6  # a block and two tokens of their own at most
