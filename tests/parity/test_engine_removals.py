"""Sequences that share an image or a last step are removed while the engine waits."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.tensor_bytes import TensorBytes
from lm_worker.plan import StepPlan
from tests.parity.engine_runs import Layout, ask, running
from tests.parity.golden_plans import cases, open_golden


async def test_a_request_is_removed_while_the_image_of_another_is_dropped(
    checkpoint_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    golden, folder = open_golden("bundled"), checkpoint_dir("micro-glm4v")
    boi_id = Checkpoint.open(folder).spec.boi_id
    first = ask(golden, "image", boi_id)
    second = replace(
        first, request=replace(first.request, request_id="second", image="another image")
    )
    assert "image" in cases(golden)
    async with running(folder, Layout(max_batched_tokens=10_000)) as run:
        drop = run.ranks.drop_image
        dropped: list[str] = []

        async def drop_and_remove(digest: str) -> None:
            dropped.append(digest)
            for sequence_id in (0, 1):  # as a worker does that learns their leases are lost
                await run.engine.remove(sequence_id)
            await drop(digest)

        plan, both = run.scheduler.plan, False

        def plan_when_both_are_there() -> StepPlan | None:
            nonlocal both
            both = both or run.scheduler.waiting == 2
            return plan() if both else None

        monkeypatch.setattr(run.ranks, "drop_image", drop_and_remove)
        monkeypatch.setattr(run.scheduler, "plan", plan_when_both_are_there)
        answers = await run.answer([first, second])
        assert answers["second"] == answers["image"]
        assert run.engine.is_idle
        # Asked about again, an image is sent again.
        third = replace(second, request=replace(second.request, request_id="third"))
        assert (await run.answer([third]))["third"] == answers["image"]
    assert sorted(dropped) == sorted(["another image", first.request.image, "another image"])


async def test_a_shared_image_is_sent_although_its_first_request_is_cancelled(
    checkpoint_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    golden, folder = open_golden("bundled"), checkpoint_dir("micro-glm4v")
    asked = ask(golden, "image", Checkpoint.open(folder).spec.boi_id)
    other = replace(asked, request=replace(asked.request, request_id="other"))
    async with running(folder, Layout()) as run:
        add_image, is_sent = run.ranks.add_image, asyncio.Event()

        async def add_late(digest: str, rows: TensorBytes) -> None:
            await is_sent.wait()
            await add_image(digest, rows)

        monkeypatch.setattr(run.ranks, "add_image", add_late)
        run.answers.ended["image"] = asyncio.Event()
        async with anyio.create_task_group() as admitting:
            admitting.start_soon(run.engine.add, asked.request, (), asked.image)
            await anyio.wait_all_tasks_blocked()
            admitting.cancel_scope.cancel()
            is_sent.set()
        with anyio.fail_after(20):
            expected = golden["image/greedy_tokens"].tolist()
            assert (await run.answer([other]))["other"] == expected
