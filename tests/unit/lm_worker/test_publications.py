"""When output is given to its sink, and with what."""

import asyncio
from collections.abc import Sequence

import anyio
import pytest

from glm4v.errors import Unavailable
from lm_worker.engine.publications import Publications
from lm_worker.engine.sequence import TokenOutput
from lm_worker.plan import SampledToken

NEVER_S = 3600.0
SOON_S = 0.1  # much longer than what a test does meanwhile
OTHER = 9  # a sequence whose request has ended


class Sink:
    """Keeps the indices of each publication; ends `OTHER` in each, or fails."""

    def __init__(self) -> None:
        self.published: list[list[int]] = []
        self.may_return = asyncio.Event()
        self.may_return.set()
        self.called = asyncio.Event()
        self.error: Exception | None = None

    async def publish(self, outputs: Sequence[TokenOutput]) -> set[int]:
        """Return once it may."""
        self.published.append([output.index for output in outputs])
        self.called.set()
        await self.may_return.wait()
        if self.error is not None:
            raise self.error
        return {OTHER}


@pytest.fixture
async def sink() -> Sink:
    return Sink()


def token(index: int, *, is_last: bool = False, is_urgent: bool = False) -> TokenOutput:
    return TokenOutput(1, "request", index, SampledToken(index), is_last, is_urgent)


async def begun(sink: Sink, interval_s: float) -> Publications:
    """After the publication of a first token."""
    publications = Publications(sink, interval_s)
    await publications.add([token(0, is_urgent=True)])
    await asyncio.sleep(0)
    return publications


async def test_tokens_of_short_steps_go_together(sink: Sink) -> None:
    publications = await begun(sink, NEVER_S)
    for index in (1, 2):
        await publications.add([token(index)])
        await asyncio.sleep(0)
    assert sink.published == [[0]]
    await publications.add([token(3, is_last=True)])
    await asyncio.sleep(0)
    assert sink.published == [[0], [1, 2, 3]]


async def test_a_first_token_waits_for_none(sink: Sink) -> None:
    publications = await begun(sink, NEVER_S)
    await publications.add([token(1)])
    await publications.add([token(2), token(0, is_urgent=True)])
    await asyncio.sleep(0)
    assert sink.published == [[0], [1, 2, 0]]


async def test_without_an_interval_each_step_is_published(sink: Sink) -> None:
    publications = await begun(sink, 0.0)
    for index in (1, 2):
        await publications.add([token(index)])
        await asyncio.sleep(0)
    assert sink.published == [[0], [1], [2]]


async def test_a_token_does_not_wait_for_a_long_step(sink: Sink) -> None:
    publications = await begun(sink, SOON_S)
    sink.called.clear()
    await publications.add([token(1)])
    assert sink.published == [[0]]
    with anyio.fail_after(20):
        await sink.called.wait()  # no further step ends
    assert sink.published == [[0], [1]]
    assert await publications.add([]) == {OTHER}


async def test_a_token_waits_for_a_publication_that_takes_longer(sink: Sink) -> None:
    sink.may_return.clear()
    publications = await begun(sink, SOON_S)
    await publications.add([token(1)])
    await asyncio.sleep(3 * SOON_S)
    adding = asyncio.create_task(publications.add([token(2)]))
    await asyncio.sleep(SOON_S)
    assert sink.published == [[0]]
    assert not adding.done(), "steps run on without a limit"
    sink.may_return.set()
    assert await adding == {OTHER}
    await asyncio.sleep(0)
    assert sink.published == [[0], [1, 2]]


async def test_ended_sequences_are_reported_once(sink: Sink) -> None:
    publications = await begun(sink, NEVER_S)
    await asyncio.sleep(0)
    assert await publications.add([token(1)]) == {OTHER}
    assert await publications.add([token(2)]) == set()


async def test_no_step_leaves_nothing_unpublished(sink: Sink) -> None:
    publications = await begun(sink, NEVER_S)
    await publications.add([token(1)])
    busy = []
    for _ in range(2):
        busy.append(publications.is_busy)
        await publications.add([])
        await asyncio.sleep(0)
    assert (busy, publications.is_busy) == ([True, True], False)
    assert sink.published == [[0], [1]]


async def test_the_error_of_a_publication_ends_the_next_step(sink: Sink) -> None:
    sink.error = Unavailable("no Redis")
    publications = await begun(sink, SOON_S)
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="no Redis"):
        await publications.add([token(1)])


async def test_nothing_is_published_once_it_is_cancelled(sink: Sink) -> None:
    publications = await begun(sink, SOON_S)
    await publications.add([token(1)])
    publications.cancel()
    await asyncio.sleep(3 * SOON_S)
    assert sink.published == [[0]]
