"""Takes over requests that the previous release has left in Redis; goes with the next release.

That release had one queue for all models, and other names for some keys. Its processes must have
ended: they and those of this release do not see each other's requests.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from glm4v.broker.connection import Connection, map_redis_errors
from glm4v.broker.keys import LM_GROUP, Keys
from glm4v.errors import RequestFailed, UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _FormerKeys:
    open: str
    readers: str
    jobs_lm: str
    jobs_vision: str
    dead: str
    flight_prefix: str

    @classmethod
    def of(cls, keys: Keys) -> "_FormerKeys":
        names = ("open", "readers", "jobs:lm", "jobs:vision", "dead", "flight:")
        return cls(*(f"{{{keys.namespace}}}:{name}" for name in names))

    def flight(self, fingerprint: str, digest: str) -> str:
        return f"{self.flight_prefix}{fingerprint}:{digest}"


async def adopt_former_keys(
    connection: Connection, keys: Keys, first_job: Callable[[str], Awaitable[pb.Job]]
) -> None:
    """Queue every open request of the previous release again, then delete its queues.

    Safe to repeat, and to run in several gateways at once. Raises Unavailable.
    """
    former = _FormerKeys.of(keys)
    commands = connection.commands
    async with map_redis_errors():
        if not await commands.exists(former.open, former.jobs_lm, former.jobs_vision, former.dead):
            return
        attempts = await _prior_attempts(connection, former)
        ids = [member.decode() for member in await commands.zrange(former.open, 0, -1)]
    for request_id in ids:
        await _adopt(connection, keys, former, request_id, attempts.get(request_id, 0), first_job)
    async with map_redis_errors():
        images = await commands.xrange(former.jobs_vision)
        waiting = [former.flight(*image) for image in _images(images)]
    rest = [former.readers, former.jobs_lm, former.jobs_vision, *waiting]
    if not await connection.run(
        "adopt_rest", [former.open, former.dead, keys.dead_letters, *rest], []
    ):
        log.warning("dead letters of the previous release stay in %s", former.dead)
    log.info("queued %d open requests of the previous release again", len(ids))


async def _adopt(
    connection: Connection,
    keys: Keys,
    former: _FormerKeys,
    request_id: str,
    prior_attempts: int,
    first_job: Callable[[str], Awaitable[pb.Job]],
) -> None:
    job = pb.Job()  # without a journal: the request ends by its deadline
    with suppress(UnknownReference, RequestFailed):
        job = await first_job(request_id)
    await connection.run(
        "adopt",
        [
            former.open,
            former.readers,
            former.flight(job.fingerprint, job.image_digest),
            keys.open_requests,
            keys.reader_deadlines,
            keys.queues,
            keys.jobs_lm(job.fingerprint),
        ],
        [request_id, job.fingerprint, prior_attempts],
    )


async def _prior_attempts(connection: Connection, former: _FormerKeys) -> dict[str, int]:
    """How many workers have claimed each request before: the next one may have to isolate it."""
    commands = connection.commands
    if not await commands.exists(former.jobs_lm):
        return {}
    entries = await commands.xrange(former.jobs_lm)
    count = max(1, len(entries))
    pending = await commands.xpending_range(former.jobs_lm, LM_GROUP, "-", "+", count)
    delivered = {each["message_id"]: each["times_delivered"] for each in pending}
    attempts = {}
    for entry, fields in entries:
        with suppress(KeyError, ValueError):  # a foreign entry
            earlier = int(fields[b"l"])
            attempts[fields[b"r"].decode()] = earlier + delivered.get(entry, 0)
    return attempts


def _images(entries: list[tuple[bytes, dict[bytes, bytes]]]) -> Iterator[tuple[str, str]]:
    for _, fields in entries:
        with suppress(DecodeError, KeyError):  # a foreign entry
            job = pb.VisionJob.FromString(fields[b"d"])
            yield job.fingerprint, job.image_digest
