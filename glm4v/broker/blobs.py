"""Images and embeddings in Redis, by digest.

An image is kept while a request about it is open, and may be evicted afterwards. An embedding may
be evicted at any time; it is encoded again from its image.
"""

import hashlib
import logging
from typing import Any

from glm4v.broker.connection import Connection, WrongType, map_redis_errors
from glm4v.broker.keys import EMBEDDING_TTL_S, IMAGE_TTL_S, Keys
from glm4v.tensor_bytes import CorruptTensor, TensorBytes, pack, unpack

log = logging.getLogger(__name__)


class Blobs:
    """Reads and writes through the connections for large values. Damaged values are deleted."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._images = connection.bulk
        self._embeddings = connection.embeddings
        self._keys = keys

    async def put_image(self, digest: str, data: bytes) -> None:
        """Store an image file. One that is stored already is kept, and stays pinned if it was."""
        async with map_redis_errors():
            await self._images.set(self._keys.image(digest), data, ex=IMAGE_TTL_S, nx=True)

    async def image(self, digest: str) -> bytes | None:
        """An image file; None when it is not stored or has another digest."""
        key = self._keys.image(digest)
        data = await _get(self._images, key)
        if data is None or hashlib.sha256(data).hexdigest() == digest:
            return data
        log.error("image=%s was overwritten in Redis; deleted", digest)
        await _delete(self._images, key)
        return None

    async def put_embedding(self, fingerprint: str, digest: str, tensor: TensorBytes) -> None:
        """Store an embedding."""
        async with map_redis_errors():
            key = self._keys.embedding(fingerprint, digest)
            await self._embeddings.set(key, pack(tensor), ex=EMBEDDING_TTL_S)

    async def touch_embedding(self, fingerprint: str, digest: str) -> bool:
        """Whether an embedding is stored; if so, it is kept for its full time from now on."""
        async with map_redis_errors():
            key = self._keys.embedding(fingerprint, digest)
            return bool(await self._embeddings.expire(key, EMBEDDING_TTL_S))

    async def embedding(self, fingerprint: str, digest: str) -> TensorBytes | None:
        """An embedding; None when it is not stored or does not match its checksum."""
        packed = await _get(self._embeddings, self._keys.embedding(fingerprint, digest))
        if packed is None:
            return None
        try:
            return unpack(packed)
        except CorruptTensor as error:
            log.error("embedding=%s is corrupt; deleted: %s", digest, error)
            await self.delete_embedding(fingerprint, digest)
            return None

    async def delete_embedding(self, fingerprint: str, digest: str) -> None:
        """Delete an embedding; it is encoded again when a request needs it."""
        await _delete(self._embeddings, self._keys.embedding(fingerprint, digest))


async def _get(redis: Any, key: str) -> bytes | None:
    try:
        async with map_redis_errors():
            data: bytes | None = await redis.get(key)
    except WrongType as error:
        log.error("%s", error)
        await _delete(redis, key)
        return None
    return data


async def _delete(redis: Any, key: str) -> None:
    async with map_redis_errors():
        await redis.delete(key)
