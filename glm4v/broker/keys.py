"""Names of all keys in Redis. One hash tag keeps the control keys on one node of a cluster."""

import hashlib
from dataclasses import dataclass
from typing import NewType

Queue = NewType("Queue", str)  # "lm:<fingerprint>" or "vision:<fingerprint>"

VISION_GROUP = "vision"
LM_GROUP = "lm"
IMAGE_TTL_S = 2 * 3600  # of an image that no open request pins, from its last use
IMAGE_OWNER_TTL_S = IMAGE_TTL_S + 3600  # from the start of a request, which takes an hour at most
EMBEDDING_TTL_S = 2 * 3600
MAX_DEAD_LETTERS = 1000
MAX_ENDED = 10_000  # requests that no gateway has recorded yet
ENDED_GROUP = "recorders"
UNSERVED_AFTER_MS = 60_000  # without a report of a worker; they report every 5 s


def lm_queue(fingerprint: str) -> Queue:
    """The queue of requests to one model."""
    return Queue(f"{LM_GROUP}:{fingerprint}")


def vision_queue(fingerprint: str) -> Queue:
    """The queue of images to encode for one model."""
    return Queue(f"{VISION_GROUP}:{fingerprint}")


def queue_parts(queue: Queue) -> tuple[str, str]:
    """Consumer group and model fingerprint of a queue."""
    group, _, fingerprint = queue.partition(":")
    return group, fingerprint


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one namespace (GLM4V_NAMESPACE): a deployment that shares its Redis.

    Queues, waiting requests and embeddings belong to one model. Everything else belongs to all
    models of the namespace.
    """

    namespace: str = "glm4v"

    def jobs(self, queue: Queue) -> str:
        """Stream: the jobs of one model's language or vision workers; see `jobs_lm`."""
        return f"{{{self.namespace}}}:jobs:{queue}"

    def jobs_lm(self, fingerprint: str) -> str:
        """Stream: requests; fields r (request id), l (prior attempts), v (format).

        Requests that no worker has capacity for are not in it yet, see `waiting`.
        """
        return self.jobs(lm_queue(fingerprint))

    def jobs_vision(self, fingerprint: str) -> str:
        """Stream: images; fields d (VisionJob), v (format)."""
        return self.jobs(vision_queue(fingerprint))

    @property
    def queues(self) -> str:
        """Sorted set: queues, by the time at which one of their workers was last seen (ms)."""
        return f"{{{self.namespace}}}:queues"

    @property
    def open_requests(self) -> str:
        """Sorted set: requests that have not ended, by deadline in Unix milliseconds."""
        return f"{{{self.namespace}}}:open_requests"

    @property
    def reader_deadlines(self) -> str:
        """Sorted set: open requests, by the time at which they are abandoned without a reader."""
        return f"{{{self.namespace}}}:reader_deadlines"

    @property
    def dead_letters(self) -> str:
        """Stream: requests given up; fields r (request id), d (Job), m (reason).

        Unreadable entries have s (their key), e (id), x (fields) and m (reason) instead.
        """
        return f"{{{self.namespace}}}:dead_letters"

    @property
    def ended(self) -> str:
        """Stream: requests that have ended and were not recorded yet; field r (request id)."""
        return f"{{{self.namespace}}}:ended"

    @property
    def workers(self) -> str:
        """Hash: the last report (WorkerReport) of each worker, by consumer name."""
        return f"{{{self.namespace}}}:workers"

    @property
    def journal_prefix(self) -> str:
        """The name of a journal up to the request id."""
        return f"{{{self.namespace}}}:journal:"

    def journal(self, request_id: str) -> str:
        """Stream: the history of a request; fields k (kind), n (next index), d (payload)."""
        return self.journal_prefix + request_id

    def encode_waiters(self, fingerprint: str, digest: str) -> str:
        """Hash: requests that wait for an image; the empty field holds queued | encoding."""
        return f"{{{self.namespace}}}:encode_waiters:{fingerprint}:{digest}"

    def wakeup(self, reader: str) -> str:
        """Stream: an entry ends the blocking read of one gateway."""
        return f"{{{self.namespace}}}:wakeup:{reader}"

    def image(self, digest: str) -> str:
        """String: an image file. On the node of the control keys, because scripts pin it."""
        return f"{{{self.namespace}}}:image:{digest}"

    def image_owner(self, digest: str, owner: str) -> str:
        """String: exists while an owner of requests may refer to an image by its digest."""
        hashed = hashlib.sha256(owner.encode()).hexdigest()
        return f"{{{self.namespace}}}:image_owner:{digest}:{hashed}"

    @property
    def pins(self) -> str:
        """Hash: the image (digest) that each open request pins."""
        return f"{{{self.namespace}}}:pins"

    @property
    def pinned(self) -> str:
        """Hash: for each pinned image the number of requests and its bytes; the sum of bytes."""
        return f"{{{self.namespace}}}:pinned"

    @property
    def client_of(self) -> str:
        """Hash: for each open request the key of its language queue, a space, its client."""
        return f"{{{self.namespace}}}:client_of"

    @property
    def clients(self) -> str:
        """Hash: the number of open requests of each client."""
        return f"{{{self.namespace}}}:clients"

    def waiting(self, fingerprint: str) -> str:
        """Sorted set: clients whose requests wait for a language worker, by turn."""
        return f"{self.jobs_lm(fingerprint)}:waiting"

    def line(self, fingerprint: str, client: str) -> str:
        """Sorted set: requests of a client that wait for a language worker, by arrival."""
        return f"{self.waiting(fingerprint)}:{client}"

    def embedding(self, fingerprint: str, digest: str) -> str:
        """String: an image's embedding, see `glm4v.tensor_bytes`."""
        return f"{self.namespace}:embedding:{fingerprint}:{digest}"
