"""Images that the gateways have stored, so that a client sends the bytes of each only once."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from threading import Lock

from glm4v.v1 import inference_pb2 as pb

_MAX_DIGESTS = 10_000  # about 1 MB


class SentImages:
    """The digests of images that were accepted, the most recently used ones. For any thread."""

    def __init__(self) -> None:
        self._digests: OrderedDict[str, None] = OrderedDict()
        self._lock = Lock()

    def remember(self, digest: str) -> None:
        """The image is stored."""
        with self._lock:
            self._digests[digest] = None
            self._digests.move_to_end(digest)
            if len(self._digests) > _MAX_DIGESTS:
                self._digests.popitem(last=False)

    def by_digest(self, request: pb.GenerateRequest) -> pb.GenerateRequest | None:
        """The request without the bytes of stored images; None if it has no stored image."""
        if not self._digests:
            return None
        digests = [_digest(image) for image in _images(request)]
        if not any(map(self._has, digests)):
            return None
        smaller = pb.GenerateRequest()
        smaller.CopyFrom(request)
        for image, digest in zip(_images(smaller), digests, strict=True):
            if self._has(digest):
                image.digest = digest
        return smaller

    def forget(self, request: pb.GenerateRequest) -> None:
        """The images that a request names by digest are not stored any more."""
        with self._lock:
            for image in _images(request):
                self._digests.pop(image.digest, None)

    def _has(self, digest: str) -> bool:
        with self._lock:
            return digest in self._digests


def _images(request: pb.GenerateRequest) -> Iterator[pb.Image]:
    for message in request.messages:
        for part in message.parts:
            if part.HasField("image"):
                yield part.image


def _digest(image: pb.Image) -> str:
    """Of an image given as bytes; empty for one that is given by its digest."""
    return hashlib.sha256(image.data).hexdigest() if image.HasField("data") else ""
