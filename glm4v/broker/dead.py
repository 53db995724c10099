"""Requests that were given up because they kept killing their workers, for a person to look at.

Entries that could not be read lie beside them.
"""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from glm4v.broker.broker import Broker
from glm4v.broker.choices import first_choice
from glm4v.broker.connection import Connection, translated
from glm4v.broker.job_stream import raw
from glm4v.broker.keys import Keys
from glm4v.errors import UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb

_BATCH = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A request that was given up."""

    entry: str  # of the dead-letter stream; its first part is the Unix time in milliseconds
    job: pb.Job | None  # None for an entry of a queue or journal that could not be read
    reason: str
    source: str = ""  # key and id of that entry
    raw: str = ""  # its fields

    @property
    def at_s(self) -> float:
        """Unix time it was given up."""
        return int(self.entry.partition("-")[0]) / 1000


def _letter(entry: str, fields: dict[bytes, bytes]) -> DeadLetter:
    reason = fields.get(b"m", b"").decode(errors="replace")
    if b"x" in fields:
        source = b" ".join((fields.get(b"s", b""), fields.get(b"e", b"")))
        text = fields[b"x"].decode(errors="replace")
        return DeadLetter(entry, None, reason, source.decode(errors="replace"), text)
    try:
        return DeadLetter(entry, pb.Job.FromString(fields[b"d"]), reason)
    except (DecodeError, KeyError):
        return DeadLetter(entry, None, "cannot be read", f"dead letter {entry}", raw(fields))


class DeadLetters:
    """The dead-letter stream. Raises Unavailable."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def all(self) -> AsyncIterator[DeadLetter]:
        """Every one, the newest first."""
        last = "+"
        while True:
            async with translated():
                entries = await self._connection.commands.xrevrange(
                    self._keys.dead, max=last, count=_BATCH
                )
            for entry, fields in entries:
                yield _letter(entry.decode(), fields)
            if len(entries) < _BATCH:
                return
            last = "(" + entries[-1][0].decode()

    async def find(self, request_id: str) -> DeadLetter:
        """The newest of a request; raises UnknownReference."""
        async for letter in self.all():
            if letter.job is not None and letter.job.request_id == request_id:
                return letter
        raise UnknownReference(
            f"no request {request_id!r} was given up; `glm4v dead list` shows those that were"
        )

    async def retry(self, request_id: str, broker: Broker, orphan_timeout_s: float) -> pb.Job:
        """Submit it once more under a new id, and take it from the stream; the new job.

        Where one of several choices was given up, all are asked for again.
        It gets the time it had at first, and runs for at least `orphan_timeout_s` without a reader.
        Raises UnknownReference when it, or its image, is not known any more.
        """
        letter = await self.find(request_id)
        assert letter.job is not None  # `find` looks for no other
        job = first_choice(letter.job)
        job.request_id = uuid.uuid4().hex
        job.timeout_ms = job.timeout_ms or job.deadline_ms - job.accepted_ms
        job.orphan_timeout_ms = max(job.orphan_timeout_ms, int(1000 * orphan_timeout_s))
        await broker.submit(job, None)
        # After the submit: a crash in between leaves it here, to be tried again by a person.
        async with translated():
            await self._connection.commands.xdel(self._keys.dead, letter.entry)
        return job
