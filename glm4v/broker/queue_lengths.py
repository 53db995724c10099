"""How many requests are where, for metrics."""

from dataclasses import dataclass

from glm4v.broker.connection import Connection, map_redis_errors
from glm4v.broker.keys import Keys


@dataclass(frozen=True, slots=True)
class QueueLengths:
    """Read at one time.

    Attributes:
        open_requests: Requests that have not ended, of all models of the namespace.
        language_jobs: Requests in the stream of the model's language workers, claimed or not.
        vision_jobs: Images in the stream of its vision workers, claimed or not.
        waiting_clients: Clients with requests that are not in the stream of language workers yet.
    """

    open_requests: int
    language_jobs: int
    vision_jobs: int
    waiting_clients: int


async def queue_lengths(connection: Connection, keys: Keys, fingerprint: str) -> QueueLengths:
    """The lengths for one model. Raises Unavailable."""
    async with map_redis_errors(), connection.commands.pipeline(transaction=False) as pipe:
        pipe.zcard(keys.open_requests)
        pipe.xlen(keys.jobs_lm(fingerprint))
        pipe.xlen(keys.jobs_vision(fingerprint))
        pipe.zcard(keys.waiting(fingerprint))
        return QueueLengths(*await pipe.execute())
