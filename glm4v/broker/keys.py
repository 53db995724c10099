"""Names of everything in Redis. One hash tag keeps all control keys on one node of a cluster."""

from dataclasses import dataclass

VISION_GROUP = "vision"
LM_GROUP = "lm"
IMAGE_TTL_S = 2 * 3600  # of an image that no open request holds, from its last use on
EMBEDDING_TTL_S = 2 * 3600
MAX_DEAD = 1000  # requests kept in the dead-letter stream


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one namespace."""

    namespace: str = "glm4v"

    @property
    def jobs_lm(self) -> str:
        """Stream: requests for language workers.

        Fields r (request id), l (lives lost before), v (format).
        """
        return f"{{{self.namespace}}}:jobs:lm"

    @property
    def jobs_vision(self) -> str:
        """Stream: images for vision workers; fields d (VisionJob), v (format)."""
        return f"{{{self.namespace}}}:jobs:vision"

    @property
    def open(self) -> str:
        """Sorted set: requests that have not ended, by deadline in Unix milliseconds."""
        return f"{{{self.namespace}}}:open"

    @property
    def readers(self) -> str:
        """Sorted set: open requests, by when they are abandoned unless somebody reads them."""
        return f"{{{self.namespace}}}:readers"

    @property
    def dead(self) -> str:
        """Stream: requests given up; fields r (request id), d (Job), m (reason).

        Beside them entries that could not be read: s (their key), e (id), x (fields), m (reason).
        """
        return f"{{{self.namespace}}}:dead"

    @property
    def journal_prefix(self) -> str:
        """What stands before a request id in its journal's name."""
        return f"{{{self.namespace}}}:journal:"

    def journal(self, request_id: str) -> str:
        """Stream: the one truth about a request; fields k (kind), n (next index), d (payload)."""
        return self.journal_prefix + request_id

    def flight(self, fingerprint: str, digest: str) -> str:
        """Hash: who waits behind an image; the empty field holds queued | encoding."""
        return f"{{{self.namespace}}}:flight:{fingerprint}:{digest}"

    def bell(self, reader: str) -> str:
        """Stream that wakes one gateway's blocking read."""
        return f"{{{self.namespace}}}:bell:{reader}"

    def image(self, digest: str) -> str:
        """String: an image file; beside the control keys, as scripts pin it."""
        return f"{{{self.namespace}}}:image:{digest}"

    @property
    def pins(self) -> str:
        """Hash: which image (digest) each open request holds."""
        return f"{{{self.namespace}}}:pins"

    @property
    def pinned(self) -> str:
        """Hash: for each image how many open requests hold it, its bytes, and the sum of bytes."""
        return f"{{{self.namespace}}}:pinned"

    def embedding(self, fingerprint: str, digest: str) -> str:
        """String: an image's embedding, see `glm4v.tensor_bytes`."""
        return f"{self.namespace}:embedding:{fingerprint}:{digest}"
