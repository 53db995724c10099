"""Steps of decodes alone give way to an image on the same cores, and to nothing else."""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device.arbiter import NoArbiter
from lm_worker.engine import engine as module
from lm_worker.engine.scheduler import Scheduler
from lm_worker.engine.sequence import TokenOutput
from lm_worker.plan import SampledToken, StepPlan
from tests.parity.engine_runs import GOLDEN_TOKENS, Asked, Layout, Running, ask, running
from tests.parity.golden_plans import cases, open_golden

WITHIN_S = 20.0
FOR_EVER_S = 1000.0


class OneImage(NoArbiter):
    """An image is encoded until a test says otherwise."""

    is_encoding = True


class Steps:
    """When each step ended, how long it took by the scheduler's account, and its sequences."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ended: list[float] = []
        self.seconds: list[float] = []
        self.sequences: list[set[int]] = []
        apply = Scheduler.apply

        def noted(
            scheduler: Scheduler,
            plan: StepPlan,
            tokens: Sequence[Sequence[SampledToken]],
            seconds: float,
        ) -> list[TokenOutput]:
            self.ended.append(time.monotonic())
            self.seconds.append(seconds)
            self.sequences.append({chunk.sequence_id for chunk in plan.chunks})
            return apply(scheduler, plan, tokens, seconds)

        monkeypatch.setattr(Scheduler, "apply", noted)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


@pytest.fixture
def folder(checkpoint_dir: Callable[[str], Path]) -> Path:
    return checkpoint_dir("micro-glm4v")


@pytest.fixture
def texts(folder: Path) -> list[Asked]:
    golden = open_golden("bundled")
    boi_id = Checkpoint.open(folder).spec.boi_id
    of_texts = [case for case in cases(golden) if f"{case}/vision_embeddings" not in golden]
    return [ask(golden, case, boi_id) for case in of_texts]


async def begun(run: Running, asked: Asked) -> int:
    """The sequence of a request that has its first token."""
    run.answers.ended[asked.request.request_id] = asyncio.Event()
    sequence_id = await run.engine.add(asked.request, (), asked.image)
    with anyio.fail_after(WITHIN_S):
        while not run.answers.tokens.get(asked.request.request_id):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    return sequence_id


async def test_answers_alone_get_a_token_now_and_then(
    folder: Path, texts: list[Asked], steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause_s = 0.1
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", pause_s)
    async with running(folder, Layout(), arbiter=OneImage()) as run:
        with anyio.fail_after(WITHIN_S):
            await run.answer(texts[:1])
    decodes = steps.ended[-GOLDEN_TOKENS:]  # the first of them ends the prefill
    assert min(after - before for before, after in pairwise(decodes)) >= pause_s
    assert min(steps.seconds[1 - GOLDEN_TOKENS :]) < pause_s, "the wait is no part of the step"


async def test_a_prefill_waits_for_no_image_and_takes_the_answers_along(
    folder: Path, texts: list[Asked], steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", FOR_EVER_S)
    image = OneImage()
    async with running(folder, Layout(), arbiter=image) as run:
        first = await begun(run, texts[0])
        second = await begun(run, texts[1])
        assert {first, second} in steps.sequences
        assert not any(ended.is_set() for ended in run.answers.ended.values())
        image.is_encoding = False
        with anyio.fail_after(WITHIN_S):
            for ended in run.answers.ended.values():
                await ended.wait()


async def test_a_full_batch_has_nothing_to_wait_for(
    folder: Path, texts: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", FOR_EVER_S)
    async with running(folder, Layout(max_num_seqs=1), arbiter=OneImage()) as run:
        with anyio.fail_after(WITHIN_S):
            await run.answer(texts[:1])


async def test_an_engine_that_waits_for_an_image_can_be_stopped(
    folder: Path, texts: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", FOR_EVER_S)
    async with running(folder, Layout(), arbiter=OneImage()) as run:
        sequence_id = await begun(run, texts[0])
        with anyio.fail_after(WITHIN_S):
            run.engine.stop()
            await run.stepping
        await run.engine.remove(sequence_id)
