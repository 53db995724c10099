"""A request whose lease was lost and regained is not mistaken for its old sequence."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from lm_worker.engine.sequence import TokenOutput
from lm_worker.plan import StepPlan
from tests.parity.engine_runs import Answers, Layout, ask, running
from tests.parity.golden_plans import cases, open_golden

FIRST = 0  # sequence of an engine
KNOWN = 3  # tokens that were published before the lease lapsed


async def test_a_request_is_added_again_while_a_step_runs(
    checkpoint_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = open_golden("bundled")
    text = next(case for case in cases(golden) if f"{case}/vision_embeddings" not in golden)
    asked, expected = ask(golden, text, boi_id=0), golden[f"{text}/greedy_tokens"].tolist()
    publish, refused, is_back = Answers.publish, asyncio.Event(), asyncio.Event()
    async with running(checkpoint_dir("micro-glm4v"), Layout()) as run:
        execute = run.ranks.execute

        async def come_back() -> None:
            await refused.wait()
            await run.engine.remove(FIRST)
            await run.engine.add(asked.request, tuple(expected[:KNOWN]), None, is_quarantined=True)
            is_back.set()

        async def refuse_once(tokens: Sequence[TokenOutput]) -> set[int]:
            if tokens[0].index == KNOWN and not refused.is_set():
                refused.set()
                return {tokens[0].sequence_id}
            return await publish(run.answers, tokens)

        async def execute_until_it_is_back(plan: StepPlan) -> Any:
            result = await execute(plan)
            if refused.is_set():
                await is_back.wait()
            return result

        monkeypatch.setattr(run.answers, "publish", refuse_once)
        monkeypatch.setattr(run.ranks, "execute", execute_until_it_is_back)
        coming = asyncio.create_task(come_back())
        with anyio.fail_after(20):
            assert (await run.answer([asked]))[text] == expected
            await coming
