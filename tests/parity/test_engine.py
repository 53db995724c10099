"""A request gets the same output alone, in any batch, in any chunks, on any number of ranks."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from lm_worker.plan import SamplingParams
from tests.parity.engine_runs import (
    GOLDEN_TOKENS,
    Asked,
    Layout,
    Running,
    ask,
    mixed,
    rank_processes,
    running,
)
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
) -> None:
    layout = Layout(max_batched_tokens=100, block_size=4, blocks=200)
    with rank_processes(folder, size) as rank:
        async with running(folder, layout, rank) as run:
            assert await run.answer(requests) == alone
            assert run.scheduler.counts.preemptions > 0


def callers(folder: Path) -> list[Asked]:
    """Sixteen with the longest prompt, of an image; their tokens differ before the last one."""
    golden = open_golden("bundled")
    boi_id = Checkpoint.open(folder).spec.boi_id
    longest = max(
        (ask(golden, case, boi_id) for case in cases(golden)),
        key=lambda one: len(one.request.prompt_ids) + (0 if one.image is None else 100),
    )
    prompt = longest.request.prompt_ids
    return [
        replace(
            longest,
            request=replace(
                longest.request,
                request_id=str(number),
                prompt_ids=(*prompt[:-1], 40 + number, prompt[-1]),
                client=f"client {number}",
                sampling=SamplingParams(
                    temperature=float(number % 2), seed=number, want_logprobs=True, top_logprobs=20
                ),
            ),
        )
        for number in range(16)
    ]


async def compare_shared_with_alone(run: Running, requests: list[Asked]) -> None:
    """Each alone, under a salt of its own; then all at once, which compute nothing twice."""
    sink = run.answers
    decodes = len(requests) * (GOLDEN_TOKENS - 1)
    for one in requests:
        await run.answer(
            [replace(one, request=replace(one.request, cache_salt=one.request.client))]
        )
    alone = dict(sink.sampled)
    each = (run.scheduler.counts.computed_tokens - decodes) // len(requests)
    before = run.scheduler.counts.computed_tokens
    sink.sampled.clear()
    await run.answer(requests)
    assert sink.sampled == alone
    prefill = run.scheduler.counts.computed_tokens - before - decodes
    assert prefill == each + (len(requests) - 1) * 2  # the two tokens that differ


@pytest.mark.needs_compiler  # only with the kernels are the logits equal bit for bit
@pytest.mark.parametrize(("block_size", "blocks"), [(4, 2400), (16, 600), (128, 80)])
async def test_callers_that_share_a_beginning_get_the_logits_of_one_alone(
    block_size: int, blocks: int, folder: Path
) -> None:
    layout = Layout(block_size=block_size, blocks=blocks)
    async with running(folder, layout) as run:
        await compare_shared_with_alone(run, callers(folder))


@pytest.mark.needs_compiler
async def test_all_ranks_copy_what_callers_share(folder: Path) -> None:
    with rank_processes(folder, 2) as rank:
        async with running(folder, Layout(block_size=128, blocks=80), rank) as run:
            await compare_shared_with_alone(run, callers(folder)[:5])
