"""Streams the events of a request from the journals of its choices."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import ExitStack, aclosing, closing

from gateway.access.caller import Caller
from gateway.streaming.best_of import best, run_to_end
from gateway.streaming.choice import ChoiceFollower, follow_all
from gateway.streaming.events import EventBuilder, accepted, is_interim
from gateway.text.tokenizer import Tokenizer
from glm4v.broker import Broker
from glm4v.broker.choices import candidates, choice_id, is_ranked
from glm4v.broker.journal_reader import JournalReader
from glm4v.errors import InvalidRequest, UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api

_Events = AsyncGenerator[api.GenerationEvent, None]


class EventStream:
    """The events of one request, `accepted` first. Closing the stream detaches from the request.

    Journal entries are read as events are consumed, so a slow consumer fills no buffer.
    """

    def __init__(self, first: api.GenerationEvent, events: _Events, journals: ExitStack) -> None:
        self._first: api.GenerationEvent | None = first
        self._events = events
        self._journals = journals

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> api.GenerationEvent:
        """The next event. Raises the error that ended the request, and Unavailable."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            return await anext(self._events)
        except BaseException:
            self._journals.close()
            raise

    async def aclose(self) -> None:
        """Detach. The request runs on for its orphan timeout."""
        await self._events.aclose()
        self._journals.close()


class RequestFollower:
    """Follows requests for one model.

    Args:
        broker: Reads journals and ends requests.
        tokenizer: Of the model.
        fingerprint: Of the model; requests for a model with another tokenizer are refused.
        image_tokens: Tokens that an image takes in the language model's context.
        keepalive_s: After this long without an event a stream repeats its stage.
    """

    def __init__(
        self,
        broker: Broker,
        tokenizer: Tokenizer,
        *,
        fingerprint: str,
        image_tokens: int,
        keepalive_s: float = 10.0,
    ) -> None:
        self._broker = broker
        self._tokenizer = tokenizer
        self._fingerprint = fingerprint
        self._image_tokens = image_tokens
        self._keepalive_s = keepalive_s

    async def follow(
        self,
        request_id: str,
        caller: Caller,
        *,
        token_offsets: Sequence[int] = (),
        with_prompt_ids: bool = False,
    ) -> EventStream:
        """The events of a request, up to `finished` of each choice.

        `token_offsets` has the tokens of each choice that were received before and are not reported
        again; missing values are 0. Raises UnknownReference for a request that `caller` does not
        own or whose model has another tokenizer, InvalidRequest for too many offsets, RequestFailed
        and Unavailable. The stream raises InvalidRequest for an offset that exceeds the answer.
        """
        with ExitStack() as opened:
            journal = await self._open(request_id, caller, opened)
            job = journal.job
            offsets = _offsets(job, token_offsets)
            journals = opened.pop_all()
        events: _Events
        if candidates(job) == 1:
            events = self._choice(job, journal, token_offset=offsets[0]).events(self._keepalive_s)
        elif is_ranked(job):
            events = self._best(journal, caller, offsets, journals)
        else:
            events = self._all(journal, caller, offsets, journals)
        return EventStream(accepted(job, with_prompt_ids=with_prompt_ids), events, journals)

    async def _all(
        self, journal: JournalReader, caller: Caller, offsets: Sequence[int], journals: ExitStack
    ) -> _Events:
        """Events of all choices of a request."""
        others = await self._open_choices(journal.job, caller, range(1, len(offsets)), journals)
        choices = [
            self._choice(journal.job, each, choice, offsets[choice])
            for choice, each in enumerate([journal, *others])
        ]
        async with aclosing(follow_all(choices, self._keepalive_s)) as events:
            async for event in events:
                yield event

    async def _best(
        self, journal: JournalReader, caller: Caller, offsets: Sequence[int], journals: ExitStack
    ) -> _Events:
        """Interim events of all candidates, then the answers of the best candidates."""
        job = journal.job
        others = await self._open_choices(job, caller, range(1, candidates(job)), journals)
        ranked = [self._choice(job, each) for each in [journal, *others]]
        async with aclosing(run_to_end(ranked, self._keepalive_s)) as events:
            async for event in events:
                yield event
        again = await self._open_choices(job, caller, best(ranked, len(offsets)), journals)
        choices = [
            self._choice(job, each, choice, offsets[choice]) for choice, each in enumerate(again)
        ]
        async with aclosing(follow_all(choices, self._keepalive_s)) as events:
            async for event in events:
                if not is_interim(event) or event.progress.unchanged:
                    yield event

    def _choice(
        self, request: pb.Job, journal: JournalReader, choice: int = 0, token_offset: int = 0
    ) -> ChoiceFollower:
        builder = EventBuilder(
            journal.job,
            self._tokenizer,
            image_tokens=journal.job.image_tokens or self._image_tokens,
            choice=choice,
            token_offset=token_offset,
        )
        return ChoiceFollower(self._broker, request, journal, builder)

    async def _open_choices(
        self, job: pb.Job, caller: Caller, choices: Iterable[int], opened: ExitStack
    ) -> list[JournalReader]:
        return [
            await self._open(choice_id(job.request_id, choice), caller, opened)
            for choice in choices
        ]

    async def _open(self, request_id: str, caller: Caller, opened: ExitStack) -> JournalReader:
        """Open a journal; `opened` closes it."""
        journal = await self._broker.follow_journal(request_id, caller.owner)
        opened.enter_context(closing(journal))
        job = journal.job
        # With the same tokenizer the model does not matter: as after a rolling update.
        if job.fingerprint != self._fingerprint and job.tokenizer_digest != self._tokenizer.digest:
            raise UnknownReference(
                f"request {job.request_id!r} was made for model {job.fingerprint}, "
                f"this gateway serves {self._fingerprint}, which has another tokenizer"
            )
        return journal


def _offsets(job: pb.Job, given: Sequence[int]) -> list[int]:
    """The token offset of each choice."""
    count = max(job.n, 1)
    if len(given) > count:
        raise InvalidRequest(
            f"token_offsets has {len(given)} values; request {job.request_id!r} has {count} choices"
        )
    return [*given, *[0] * (count - len(given))]
