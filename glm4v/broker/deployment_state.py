"""Everything that a person watches: the queues of each model, and the workers."""

from dataclasses import dataclass

from glm4v.broker.connection import Connection, map_redis_errors
from glm4v.broker.keys import Keys, Queue, queue_parts
from glm4v.broker.queue_lengths import QueueLengths, queue_lengths
from glm4v.broker.worker_reports import WorkerState, read_worker_states


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """One namespace, read at about one time.

    Attributes:
        models: Queue lengths by model fingerprint.
    """

    models: dict[str, QueueLengths]
    workers: list[WorkerState]

    @property
    def open_requests(self) -> int:
        """Requests that have not ended, of all models."""
        return max((lengths.open_requests for lengths in self.models.values()), default=0)

    def as_dict(self) -> dict[str, object]:
        """It as JSON."""
        return {
            "open_requests": self.open_requests,
            "queues": [
                {
                    "model": model,
                    "queue": name,
                    "waiting": length.waiting,
                    "jobs": length.jobs,
                    "oldest_s": length.oldest_s,
                }
                for model, lengths in self.models.items()
                for name, length in (("language", lengths.language), ("vision", lengths.vision))
            ],
            "workers": [each.as_dict() for each in self.workers],
        }


async def deployment_state(connection: Connection, keys: Keys) -> DeploymentState:
    """The state now. Raises Unavailable."""
    async with map_redis_errors():
        names = await connection.commands.zrange(keys.queues, 0, -1)
    fingerprints = {queue_parts(Queue(name.decode(errors="replace")))[1] for name in names}
    models = {
        each: await queue_lengths(connection, keys, each) for each in sorted(fingerprints - {""})
    }
    return DeploymentState(models, await read_worker_states(connection, keys))
