"""How many requests are where, and for how long."""

from dataclasses import dataclass

from glm4v.broker.connection import Connection
from glm4v.broker.keys import LM_GROUP, VISION_GROUP, Keys


@dataclass(frozen=True, slots=True)
class QueueLength:
    """One queue.

    Attributes:
        jobs: Jobs in the stream of its workers, claimed or not.
        waiting: Jobs that no worker has claimed; requests in the lines of clients included.
        oldest_s: Seconds that the oldest of those has waited; 0 without any.
    """

    jobs: int
    waiting: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class QueueLengths:
    """Read at one time.

    Attributes:
        open_requests: Requests that have not ended, of all models of the namespace.
        waiting_clients: Clients with requests that are not in the stream of language workers yet.
        language: Requests for the model's language workers.
        vision: Images for its vision workers.
    """

    open_requests: int
    waiting_clients: int
    language: QueueLength
    vision: QueueLength


async def queue_lengths(connection: Connection, keys: Keys, fingerprint: str) -> QueueLengths:
    """The lengths for one model. Raises Unavailable."""
    names = [keys.open_requests, keys.jobs_lm(fingerprint), keys.jobs_vision(fingerprint)]
    found = list(map(int, await connection.run("queue_lengths", names, [LM_GROUP, VISION_GROUP])))
    (requests, clients), language, vision = found[:2], found[2:5], found[5:]
    return QueueLengths(requests, clients, _length(*language), _length(*vision))


def _length(jobs: int, waiting: int, oldest_ms: int) -> QueueLength:
    return QueueLength(jobs, waiting, oldest_ms / 1000)
