"""kill -9 of the language worker, at every token of an answer."""

import asyncio

import anyio
import pytest

from glm4v.v1 import inference_pb2 as api
from tests.e2e.asking import TOKENS, again, ask, assert_unharmed, draw, encodes
from tests.e2e.fleet import Fleet
from tests.e2e.reading import Reader, Reading

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]
WORKER = "slow_lm_worker"


async def follow(reader: Reader, reading: Reading, tokens: int, reached: asyncio.Event) -> None:
    """Read to the end; `reached` is set when a worker has the request and the tokens are there."""
    is_answering = False
    async for event in reader.events(reading):
        is_answering |= event.progress.stage == api.STAGE_RUNNING
        if is_answering and len(reading.token_ids) >= tokens:
            reached.set()


async def test_killed_at_every_token(fleet: Fleet) -> None:
    await fleet.only("gateway", "vision_worker", WORKER)
    image = draw("killed at every token")
    questions = [ask("why"), ask("why", seed=7), ask("what", image), ask("what", image, seed=9)]
    lacking = [set(range(TOKENS)) for _ in questions]
    async with Reader(fleet.targets) as reader:
        undisturbed = [await reader.read(question) for question in questions]
        aimed: tuple[int, int] | None = None
        for _ in range(3 * TOKENS):
            if not any(lacking):
                break
            readings = [Reading(again(question)) for question in questions]
            aim = max(range(len(questions)), key=lambda number: len(lacking[number]))
            # Missed the last time: the signal comes late on a busy machine, so a token earlier.
            tokens = max(0, min(lacking[aim]) - (aimed == (aim, min(lacking[aim]))))
            aimed = aim, min(lacking[aim])
            reached = [asyncio.Event() for _ in questions]
            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    for reading, event in zip(readings, reached, strict=True):
                        group.start_soon(follow, reader, reading, tokens, event)
                    await reached[aim].wait()
                    await fleet.kill(WORKER)
                    await fleet.start(WORKER)
            for indices, reading, expected in zip(lacking, readings, undisturbed, strict=True):
                indices -= set((await assert_unharmed(fleet, reading, expected)).isolated_runs)
    assert lacking == [set()] * len(questions)
    assert encodes(fleet, image) == 1


async def test_another_worker_takes_over_and_the_first_may_come_back(fleet: Fleet) -> None:
    workers = (WORKER, WORKER + "-2")
    await fleet.only("gateway", "vision_worker", *workers)
    question = ask("who is it", seed=3, max_tokens=2 * TOKENS)
    async with Reader(fleet.targets) as reader:
        undisturbed = await reader.read(question)
        reading = Reading(again(question))
        left = {3, 8}
        async for _ in reader.events(reading):
            # Once at each: the next worker's progress comes while there are as many tokens.
            if len(reading.token_ids) in left:
                left.discard(len(reading.token_ids))
                holder = await fleet.holder(reading.request_id)
                await fleet.kill(holder)
                await fleet.start(holder, wait=False)
        journal = await assert_unharmed(fleet, reading, undisturbed)
    assert len(journal.isolated_runs) == 2
