"""Images and embeddings in Redis, by digest.

An image is kept while a request about it is open, and may be evicted afterwards. An embedding may
be evicted at any time; it is encoded again from its image.
"""

import hashlib
import logging

from glm4v.broker.connection import Connection, WrongType, map_redis_errors
from glm4v.broker.keys import EMBEDDING_TTL_S, IMAGE_TTL_S, Keys
from glm4v.tensor_bytes import CorruptTensor, TensorBytes, pack, unpack

log = logging.getLogger(__name__)


class Blobs:
    """Reads and writes through the connections for large values. Damaged values are deleted."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._redis = connection.bulk
        self._keys = keys

    async def put_image(self, digest: str, data: bytes) -> None:
        """Store an image file. One that is stored already is kept, and stays pinned if it was."""
        async with map_redis_errors():
            await self._redis.set(self._keys.image(digest), data, ex=IMAGE_TTL_S, nx=True)

    async def image(self, digest: str) -> bytes | None:
        """An image file; None when it is not stored or has another digest."""
        key = self._keys.image(digest)
        data = await self._get(key)
        if data is None or hashlib.sha256(data).hexdigest() == digest:
            return data
        log.error("image=%s was overwritten in Redis; deleted", digest)
        await self._delete(key)
        return None

    async def put_embedding(self, fingerprint: str, digest: str, tensor: TensorBytes) -> None:
        """Store an embedding."""
        async with map_redis_errors():
            key = self._keys.embedding(fingerprint, digest)
            await self._redis.set(key, pack(tensor), ex=EMBEDDING_TTL_S)

    async def touch_embedding(self, fingerprint: str, digest: str) -> bool:
        """Whether an embedding is stored; if so, it is kept for its full time from now on."""
        async with map_redis_errors():
            key = self._keys.embedding(fingerprint, digest)
            return bool(await self._redis.expire(key, EMBEDDING_TTL_S))

    async def embedding(self, fingerprint: str, digest: str) -> TensorBytes | None:
        """An embedding; None when it is not stored or does not match its checksum."""
        packed = await self._get(self._keys.embedding(fingerprint, digest))
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
        await self._delete(self._keys.embedding(fingerprint, digest))

    async def _get(self, key: str) -> bytes | None:
        try:
            async with map_redis_errors():
                data: bytes | None = await self._redis.get(key)
        except WrongType as error:
            log.error("%s", error)
            await self._delete(key)
            return None
        return data

    async def _delete(self, key: str) -> None:
        async with map_redis_errors():
            await self._redis.delete(key)
