"""An engine that is about to sleep notices a new request."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from lm_worker.engine.sequence import TokenOutput
from tests.parity.engine_runs import Answers, Layout, ask, running
from tests.parity.golden_plans import cases, open_golden


async def test_a_request_added_during_the_last_publication_runs(
    checkpoint_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = open_golden("bundled")
    texts = [case for case in cases(golden) if f"{case}/vision_embeddings" not in golden]
    asked = ask(golden, texts[0], boi_id=0)
    first, second = (
        replace(asked, request=replace(asked.request, request_id=name)) for name in ("1", "2")
    )
    publish = Answers.publish
    async with running(checkpoint_dir("micro-glm4v"), Layout()) as run:

        async def publish_and_ask(tokens: Sequence[TokenOutput]) -> set[int]:
            if tokens[-1].is_last and tokens[-1].request_id == first.request.request_id:
                await asyncio.sleep(0.05)  # the engine has found nothing to plan by now
                run.answers.ended[second.request.request_id] = asyncio.Event()
                await run.engine.add(second.request, (), None)
                await asyncio.sleep(0)
            return await publish(run.answers, tokens)

        monkeypatch.setattr(run.answers, "publish", publish_and_ask)
        await run.answer([first])
        with anyio.fail_after(20):
            await run.answers.ended[second.request.request_id].wait()
    assert len(run.answers.tokens[second.request.request_id]) == second.request.max_tokens
