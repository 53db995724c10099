"""How many jobs come before a request that waits for a worker."""

from google.protobuf.message import DecodeError

from glm4v.broker.connection import Connection, map_redis_errors
from glm4v.broker.keys import Keys
from glm4v.internal.v1 import journal_pb2 as pb

_MOST = 1000  # images that are looked through


async def queue_position(connection: Connection, keys: Keys, job: pb.Job) -> int | None:
    """Jobs before the request in its queue; None if it does not wait, or behind a thousand others.

    Others of the same client that come first are counted, those of other clients as far as their
    turns come first. Raises Unavailable.
    """
    names = [keys.jobs_lm(job.fingerprint), keys.open_requests]
    found = int(await connection.run("queue_position", names, [job.request_id]))
    if found >= 0:
        return found
    return await _image_position(connection, keys, job) if job.image_digest else None


async def _image_position(connection: Connection, keys: Keys, job: pb.Job) -> int | None:
    async with map_redis_errors():
        waiters = keys.encode_waiters(job.fingerprint, job.image_digest)
        if await connection.commands.hget(waiters, "") != b"queued":
            return None
        entries = await connection.commands.xrange(keys.jobs_vision(job.fingerprint), count=_MOST)
    for position, (_, fields) in enumerate(entries):
        try:
            queued = pb.VisionJob.FromString(fields.get(b"d", b""))
        except DecodeError:
            continue
        if queued.image_digest == job.image_digest:
            return position
    return None
