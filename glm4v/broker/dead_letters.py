"""Dead letters: requests that were aborted because they kept crashing workers.

Unreadable entries of queues and journals are kept with them.
"""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from glm4v.broker.broker import Broker
from glm4v.broker.choices import first_choice
from glm4v.broker.connection import Connection, map_redis_errors
from glm4v.broker.job_stream import raw
from glm4v.broker.keys import Keys
from glm4v.errors import UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb

_BATCH = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A request or an unreadable entry."""

    entry: str  # id in the stream; its first part is the Unix time in milliseconds
    job: pb.Job | None  # None for an unreadable entry
    reason: str
    source: str = ""  # key and id of the unreadable entry
    raw: str = ""  # its fields

    @property
    def at_s(self) -> float:
        """Unix time at which it was stored."""
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
    """The dead letters of a namespace. Raises Unavailable."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def all(self) -> AsyncIterator[DeadLetter]:
        """Every dead letter, newest first."""
        last = "+"
        while True:
            async with map_redis_errors():
                entries = await self._connection.commands.xrevrange(
                    self._keys.dead_letters, max=last, count=_BATCH
                )
            for entry, fields in entries:
                yield _letter(entry.decode(), fields)
            if len(entries) < _BATCH:
                return
            last = "(" + entries[-1][0].decode()

    async def find(self, request_id: str) -> DeadLetter:
        """The newest dead letter of a request; raises UnknownReference."""
        async for letter in self.all():
            if letter.job is not None and letter.job.request_id == request_id:
                return letter
        raise UnknownReference(
            f"request {request_id!r} is not a dead letter; `glm4v dead list` shows them"
        )

    async def retry(self, request_id: str, broker: Broker, orphan_timeout_s: float) -> pb.Job:
        """Submit a request again under a new id and delete the dead letter; returns the new job.

        If one of several choices was aborted, all are generated again. The request gets its full
        time once more, and runs for at least `orphan_timeout_s` without a reader. Raises
        UnknownReference when the dead letter or its image is gone.
        """
        letter = await self.find(request_id)
        assert letter.job is not None  # `find` returns no other
        job = first_choice(letter.job)
        job.request_id = uuid.uuid4().hex
        job.timeout_ms = job.timeout_ms or job.deadline_ms - job.accepted_ms
        job.orphan_timeout_ms = max(job.orphan_timeout_ms, int(1000 * orphan_timeout_s))
        await broker.submit(job, None)
        # After the submit: if this process dies in between, the dead letter is still there.
        async with map_redis_errors():
            await self._connection.commands.xdel(self._keys.dead_letters, letter.entry)
        return job
