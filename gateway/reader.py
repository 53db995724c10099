"""Follows one request's journal and streams its events."""

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import anyio

from gateway.replies import Replies
from gateway.tokenizer import Tokenizer
from glm4v.broker import Broker
from glm4v.broker.journal import Event
from glm4v.errors import DeadlinePassed, UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api

log = logging.getLogger(__name__)

# A request is ended within a second or two of its deadline; when its end still cannot be read after
# this, Redis is away and nobody should wait for it.
_OVERDUE_S = 5.0


class Reader:
    """Reads journals for one model."""

    def __init__(
        self, broker: Broker, tokenizer: Tokenizer, *, fingerprint: str, image_rows: int
    ) -> None:
        self._broker = broker
        self._tokenizer = tokenizer
        self._fingerprint = fingerprint
        self._image_rows = image_rows

    async def events(
        self, request_id: str, *, token_offset: int = 0, with_prompt_ids: bool = False
    ) -> AsyncGenerator[api.GenerationEvent, None]:
        """Events of a request after its first `token_offset` tokens: accepted … finished.

        The first stop string found ends the request for everybody. Raises UnknownReference,
        Unavailable, InvalidRequest (an offset behind the end) and the error that ended it.
        """
        async with aclosing(self._entries(request_id)) as entries:
            job = await self._accepted(entries)
            replies = Replies(
                job, self._tokenizer, image_rows=self._image_rows, token_offset=token_offset
            )
            yield replies.accepted(with_prompt_ids=with_prompt_ids)
            end: pb.JournalEnd | None = None
            is_stopping = False
            async for entry in entries:
                if isinstance(entry, pb.JournalEnd):
                    end = entry
                    break
                event = replies.event(entry)
                if replies.stop_string is not None and not is_stopping:
                    is_stopping = True
                    end = await self._stop(request_id, replies.stop_string, replies.token_count)
                if event is not None:
                    yield event
                if end is not None:
                    break
        assert end is not None, "the broker reads a journal up to its end"
        ended = pb.EndKind.Name(end.kind).removeprefix("END_KIND_").lower()
        log.info("request=%s end=%s tokens=%d", request_id, ended, replies.token_count)
        yield replies.finished(end)

    async def _accepted(self, entries: AsyncGenerator[Event, None]) -> pb.Job:
        first = await anext(entries)
        assert isinstance(first, pb.JournalAccepted)
        if first.job.fingerprint != self._fingerprint:
            raise UnknownReference(
                f"request {first.job.request_id!r} was made for model {first.job.fingerprint}, "
                f"this gateway serves {self._fingerprint}"
            )
        return first.job

    async def _entries(self, request_id: str) -> AsyncGenerator[Event, None]:
        """The journal, with an end to waiting for it."""
        # The broker reads with a generator; closing it here and now ends its following at once.
        journal = cast(AsyncGenerator[Event, None], self._broker.read(request_id))
        async with aclosing(journal):
            entry = await anext(journal)
            assert isinstance(entry, pb.JournalAccepted)
            deadline_s = entry.job.deadline_ms / 1000 + _OVERDUE_S
            while True:
                yield entry
                try:
                    with anyio.fail_after(max(deadline_s - time.time(), _OVERDUE_S)):
                        entry = await anext(journal)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise DeadlinePassed(
                        f"request {request_id!r} was not done by its deadline, and its end cannot "
                        "be read; attach to it later"
                    ) from None

    async def _stop(
        self, request_id: str, stop_string: str, token_count: int
    ) -> pb.JournalEnd | None:
        """End a request whose stop string was found; None when it has ended already."""
        end = pb.JournalEnd(
            kind=pb.END_KIND_STOP_STRING,
            stop_string=stop_string,
            token_count=token_count,
            at_ms=int(time.time() * 1000),
        )
        return end if await self._broker.close_request(request_id, end) else None
