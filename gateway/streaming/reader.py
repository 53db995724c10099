"""Follows one request's journal and streams its events."""

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import ParamSpec, cast

import anyio

from gateway.streaming.merge import merge
from gateway.streaming.replies import Replies, is_success
from gateway.text.tokenizer import Tokenizer
from glm4v.broker import Broker
from glm4v.broker.choices import candidates, choice_id, is_ranked
from glm4v.broker.entries import Event
from glm4v.broker.patience import retry_until_available
from glm4v.errors import DeadlinePassed, InvalidRequest, UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api

# What was asked, and the entries behind that.
_Journal = tuple[pb.Job, AsyncGenerator[Event, None]]

log = logging.getLogger(__name__)

_P = ParamSpec("_P")

# A request is ended within a second or two of its deadline; when its end still cannot be read after
# this, Redis is away and nobody should wait for it.
END_GRACE_S = 5.0


class Reader:
    """Reads journals for one model."""

    def __init__(
        self,
        broker: Broker,
        tokenizer: Tokenizer,
        *,
        fingerprint: str,
        image_tokens: int,
        silence_s: float = 10.0,
    ) -> None:
        self._broker = broker
        self._tokenizer = tokenizer
        self._fingerprint = fingerprint
        self._image_tokens = image_tokens
        self._silence_s = silence_s

    async def events(
        self,
        request_id: str,
        *,
        token_offsets: Sequence[int] = (),
        with_prompt_ids: bool = False,
    ) -> AsyncGenerator[api.GenerationEvent, None]:
        """Events of a request: accepted … finished, once for each choice.

        `token_offsets` says for each choice how many tokens not to report, 0 where it ends. After
        every `silence_s` without an event the stage is told again. The first stop string found ends
        a choice for everybody. Raises UnknownReference, Unavailable, InvalidRequest (an offset
        behind the end) and the error that ended it.
        """
        stage = api.STAGE_RUNNING if any(token_offsets) else api.STAGE_QUEUED
        events = self._events(request_id, token_offsets, with_prompt_ids=with_prompt_ids)
        async with aclosing(events):
            async for event in events:
                if event is None:
                    reminder = api.Progress(stage=stage, unchanged=True)
                    yield api.GenerationEvent(progress=reminder)
                    continue
                if event.HasField("progress"):
                    stage = event.progress.stage
                elif event.HasField("delta"):
                    stage = api.STAGE_RUNNING
                yield event

    async def _events(
        self, request_id: str, token_offsets: Sequence[int], *, with_prompt_ids: bool
    ) -> AsyncGenerator[api.GenerationEvent | None, None]:
        """The same, with None for a silence."""
        job, entries = await self._open(request_id)
        journals = [(job, entries)]
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(aclosing(entries))
            offsets = _offsets(job, token_offsets)
            accepted = Replies(job, self._tokenizer, image_tokens=self._image_tokens)
            yield accepted.accepted(with_prompt_ids=with_prompt_ids)
            if is_ranked(job):
                scores: dict[int, float] = {}
                ranked = await stack.enter_async_context(
                    aclosing(self._ranked(stack, journals[0], scores))
                )
                async for event in ranked:
                    yield event
                best = sorted(scores, key=lambda choice: (-scores[choice], choice))
                journals = await self._open_all(stack, job, best[: job.n])
            else:
                journals += await self._open_all(stack, job, range(1, len(offsets)))
            choices = [
                self._choice(job, journal, choice, offsets[choice])
                for choice, journal in enumerate(journals)
            ]
            answers = await stack.enter_async_context(
                aclosing(merge(choices, silence_s=self._silence_s))
            )
            async for event in answers:
                if not (is_ranked(job) and _is_on_the_way(event)):
                    yield event

    async def _ranked(
        self, stack: AsyncExitStack, first: _Journal, scores: dict[int, float]
    ) -> AsyncGenerator[api.GenerationEvent | None, None]:
        """Wait until all candidates have ended, and score them; what is to be told meanwhile."""
        job, _ = first
        journals = [first, *await self._open_all(stack, job, range(1, candidates(job)))]
        choices = [self._choice(job, journal, 0, 0, scores) for journal in journals]
        async with aclosing(merge(choices, silence_s=self._silence_s)) as events:
            told_at = time.monotonic()
            async for event in events:
                if event is None or _is_on_the_way(event):
                    yield event
                elif time.monotonic() - told_at >= self._silence_s:
                    yield None
                else:
                    continue
                told_at = time.monotonic()

    async def _choice(
        self,
        first: pb.Job,
        journal: _Journal,
        choice: int,
        token_offset: int,
        scores: dict[int, float] | None = None,
    ) -> AsyncGenerator[api.GenerationEvent, None]:
        """Events of one journal of a request, reported as those of `choice`, up to its end."""
        job, entries = journal
        replies = Replies(
            job,
            self._tokenizer,
            image_tokens=self._image_tokens,
            choice=choice,
            token_offset=token_offset,
        )
        end: pb.JournalEnd | None = None
        is_stopping = False
        async with aclosing(entries):
            async for entry in entries:
                if isinstance(entry, pb.JournalEnd):
                    end = entry
                    break
                news = list(replies.events(entry))
                if replies.stop_string is not None and not is_stopping:
                    is_stopping = True
                    await self._stop(job, replies.stop_string, replies.token_count)
                for event in news:
                    yield event
        assert end is not None, "the broker reads a journal up to its end"
        ended = pb.EndKind.Name(end.kind).removeprefix("END_KIND_").lower()
        log.info("request=%s end=%s tokens=%d", job.request_id, ended, replies.token_count)
        if not is_success(end) and candidates(first) > 1:
            await self._change(job, self._broker.end_choices, first, end)
        if scores is not None:
            scores[job.choice] = replies.mean_logprob
        yield replies.finished(end)

    async def _open(self, name: str) -> _Journal:
        """Begin to read a journal; what was asked, and the entries behind that."""
        entries = self._entries(name)
        first = await anext(entries)
        assert isinstance(first, pb.JournalAccepted)
        if first.job.fingerprint != self._fingerprint:
            await entries.aclose()
            raise UnknownReference(
                f"request {first.job.request_id!r} was made for model {first.job.fingerprint}, "
                f"this gateway serves {self._fingerprint}"
            )
        return first.job, entries

    async def _open_all(
        self, stack: AsyncExitStack, job: pb.Job, choices: Iterable[int]
    ) -> list[_Journal]:
        """Journals of several choices of a request; the stack closes them."""
        journals = []
        for choice in choices:
            journal = await self._open(choice_id(job.request_id, choice))
            await stack.enter_async_context(aclosing(journal[1]))
            journals.append(journal)
        return journals

    async def _entries(self, request_id: str) -> AsyncGenerator[Event, None]:
        """The journal, with an end to waiting for it."""
        # The broker reads with a generator; closing it here and now ends its following at once.
        journal = cast(AsyncGenerator[Event, None], self._broker.read(request_id))
        async with aclosing(journal):
            entry = await anext(journal)
            assert isinstance(entry, pb.JournalAccepted)
            job = entry.job
            while True:
                yield entry
                try:
                    with anyio.fail_after(self._time_left(job)):
                        entry = await anext(journal)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise DeadlinePassed(
                        f"request {request_id!r} was not done by its deadline, and its end cannot "
                        "be read; attach to it later"
                    ) from None

    async def _stop(self, job: pb.Job, stop_string: str, token_count: int) -> None:
        """End a request whose stop string was found, unless it has ended already."""
        end = pb.JournalEnd(
            kind=pb.END_KIND_STOP_STRING, stop_string=stop_string, token_count=token_count
        )
        await self._change(job, self._broker.close_request, job.request_id, end)

    async def _change(
        self, job: pb.Job, call: Callable[_P, Awaitable[bool]], *args: _P.args, **kwargs: _P.kwargs
    ) -> bool:
        """Make a change that Redis may be too full for now: the answer is there, and can wait."""
        try:
            with anyio.fail_after(self._time_left(job)):
                return await retry_until_available(call, *args, **kwargs)
        except TimeoutError:
            raise DeadlinePassed(
                f"request {job.request_id!r} could not be ended by its deadline; attach to it later"
            ) from None

    def _time_left(self, job: pb.Job) -> float:
        return max(job.deadline_ms - self._broker.now_ms(), 0) / 1000 + END_GRACE_S


def _is_on_the_way(event: api.GenerationEvent | None) -> bool:
    """Whether it is told while candidates are not ranked, and not afterwards."""
    return event is not None and event.WhichOneof("event") in ("progress", "prompt_logprobs")


def _offsets(job: pb.Job, given: Sequence[int]) -> list[int]:
    """Tokens the reader has of each choice."""
    count = max(job.n, 1)
    if len(given) > count:
        raise InvalidRequest(
            f"token_offsets has {len(given)} values; request {job.request_id!r} has {count} choices"
        )
    return [*given, *[0] * (count - len(given))]
