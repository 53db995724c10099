"""Follows the journal of one choice."""

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import ParamSpec

import anyio

from gateway.streaming.events import EventBuilder, is_success, keepalive
from gateway.streaming.merge import merge
from glm4v.broker import Broker
from glm4v.broker.choices import candidates
from glm4v.broker.entries import Event
from glm4v.broker.journal_reader import JournalReader
from glm4v.broker.retry import retry_until_available
from glm4v.errors import DeadlinePassed
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api

log = logging.getLogger(__name__)

_P = ParamSpec("_P")

# A gateway ends an overdue request within two seconds. If the end cannot be read after this time,
# Redis is unavailable, possibly for long.
END_GRACE_S = 5.0


class ChoiceFollower:
    """Streams the events of one choice.

    The first reader that finds a stop string ends the choice. A reader of a choice that failed ends
    the other choices of the request.

    Args:
        broker: Ends requests, and knows the time of Redis.
        request: The job of choice 0.
        journal: An open reader of the choice's journal, which the caller closes.
        builder: Builds the events of the choice.
    """

    def __init__(
        self, broker: Broker, request: pb.Job, journal: JournalReader, builder: EventBuilder
    ) -> None:
        self._broker = broker
        self._request = request
        self._journal = journal
        self.builder = builder

    async def events(
        self, keepalive_s: float = math.inf
    ) -> AsyncGenerator[api.GenerationEvent, None]:
        """Events up to `finished`. The stage is repeated after `keepalive_s` without an entry.

        Raises the error that ended the request, DeadlinePassed if its end cannot be read, and the
        errors of the journal's reader.
        """
        builder, is_stopping = self.builder, False
        while not isinstance(entry := await self._next(keepalive_s), pb.JournalEnd):
            if entry is None:
                yield keepalive(builder.stage)
                continue
            events = builder.to_events(entry)
            if not is_stopping and builder.stop_string is not None:
                is_stopping = True
                await self._stop(builder.stop_string)
            for event in events:
                yield event
        await self._settle(entry)
        yield builder.finished(entry)

    async def _next(self, keepalive_s: float) -> Event | None:
        """The next journal entry; None if none arrives within `keepalive_s`."""
        left_s = self._time_left()
        entry = await self._journal.next(min(keepalive_s, left_s))
        if entry is None and left_s <= keepalive_s:
            raise DeadlinePassed(
                f"request {self._journal.job.request_id!r} did not finish by its deadline, and its "
                "end cannot be read; attach to it later"
            )
        return entry

    async def _stop(self, stop_string: str) -> None:
        """End the choice at its stop string, unless it has ended already."""
        end = pb.JournalEnd(
            kind=pb.END_KIND_STOP_STRING,
            stop_string=stop_string,
            token_count=self.builder.token_count,
        )
        request_id = self._journal.job.request_id
        await self._retry_until_deadline(self._broker.close_request, request_id, end)

    async def _settle(self, end: pb.JournalEnd) -> None:
        """Log the end, and end the other choices if this one failed."""
        kind = pb.EndKind.Name(end.kind).removeprefix("END_KIND_").lower()
        request_id, tokens = self._journal.job.request_id, self.builder.token_count
        log.info("request=%s end=%s tokens=%d", request_id, kind, tokens)
        if not is_success(end) and candidates(self._request) > 1:
            await self._retry_until_deadline(self._broker.end_choices, self._request, end)

    async def _retry_until_deadline(
        self, call: Callable[_P, Awaitable[bool]], *args: _P.args, **kwargs: _P.kwargs
    ) -> None:
        """Make a change as soon as Redis accepts it. Raises DeadlinePassed."""
        try:
            with anyio.fail_after(self._time_left()):
                await retry_until_available(call, *args, **kwargs)
        except TimeoutError:
            raise DeadlinePassed(
                f"request {self._journal.job.request_id!r} could not be ended by its deadline; "
                "attach to it later"
            ) from None

    def _time_left(self) -> float:
        """Seconds until the deadline and the grace time have passed."""
        left_ms = self._journal.job.deadline_ms - self._broker.now_ms()
        return max(left_ms, 0) / 1000 + END_GRACE_S


async def follow_all(
    choices: Sequence[ChoiceFollower], keepalive_s: float
) -> AsyncGenerator[api.GenerationEvent, None]:
    """Events of several choices as they arrive. The stage is repeated after `keepalive_s`
    without one.

    Raises the error of the first choice that fails.
    """
    merged = merge([each.events() for each in choices], keepalive_s=keepalive_s)
    async with aclosing(merged):
        async for event in merged:
            yield repeated_stage(choices) if event is None else event


def repeated_stage(choices: Sequence[ChoiceFollower]) -> api.GenerationEvent:
    """The event of a silent stream of several choices: the stage of the furthest one."""
    return keepalive(max(each.builder.stage for each in choices))
