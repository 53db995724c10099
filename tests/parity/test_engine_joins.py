"""A request with an image joins the step after the one in progress."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from glm4v.checkpoint.checkpoint import Checkpoint
from lm_worker.parallel.ranks import Ranks
from lm_worker.plan import StepPlan, StepResult
from tests.parity.engine_runs import Layout, ask, running
from tests.parity.golden_plans import cases, open_golden


async def test_an_image_joins_the_next_step(
    checkpoint_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits behind the step in progress, in the device's queue, with its embedding."""
    golden = open_golden("bundled")
    with_image = [case for case in cases(golden) if f"{case}/vision_embeddings" in golden]
    texts = [case for case in cases(golden) if case not in with_image]
    boi_id = Checkpoint.open(checkpoint_dir("micro-glm4v")).spec.boi_id
    steps: list[set[int]] = []
    execute = Ranks._execute

    def slowly(ranks: Ranks, plan: StepPlan) -> StepResult:
        steps.append({chunk.sequence_id for chunk in plan.chunks})
        time.sleep(0.02)
        return execute(ranks, plan)

    monkeypatch.setattr(Ranks, "_execute", slowly)
    async with running(checkpoint_dir("micro-glm4v"), Layout()) as run:
        text, image = ask(golden, texts[0], boi_id), ask(golden, with_image[0], boi_id)
        for asked in (text, image):
            run.answers.ended[asked.request.request_id] = asyncio.Event()
        await run.engine.add(text.request, (), None)
        with anyio.fail_after(20):
            await run.engine.wait_step()  # the second step is under way
            added = await run.engine.add(image.request, (), image.image)
            for ended in run.answers.ended.values():
                await ended.wait()
    assert [added in step for step in steps[:3]] == [False, False, True]
