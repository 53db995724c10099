"""Images and embeddings in Redis, by their digest.

An image is kept for as long as a request about it is open, and may be forgotten after that; an
embedding may be forgotten at any time, and is made again from its image.
"""

import hashlib
import logging

from glm4v.broker.connection import Connection, WrongType, translated
from glm4v.broker.keys import EMBEDDING_TTL_S, IMAGE_TTL_S, Keys
from glm4v.tensor_bytes import TensorBytes, pack, unpack

log = logging.getLogger(__name__)


class Blobs:
    """Reads and writes through the connections for bytes."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._redis = connection.bytes
        self._keys = keys

    async def is_embedded(self, fingerprint: str, digest: str) -> bool:
        """Whether the embedding is stored; it lives on for its full time."""
        async with translated():
            key = self._keys.embedding(fingerprint, digest)
            return bool(await self._redis.expire(key, EMBEDDING_TTL_S))

    async def put_image(self, digest: str, data: bytes) -> None:
        """Keep an image file. One that is there stays, and stays pinned if it is."""
        async with translated():
            await self._redis.set(self._keys.image(digest), data, ex=IMAGE_TTL_S, nx=True)

    async def image(self, digest: str) -> bytes | None:
        """An image file, None when it is not known."""
        data = await self._get(self._keys.image(digest))
        if data is None or hashlib.sha256(data).hexdigest() == digest:
            return data
        log.error("image=%s was overwritten in Redis", digest)
        await self._forget(self._keys.image(digest))
        return None

    async def put_embedding(self, fingerprint: str, digest: str, tensor: TensorBytes) -> None:
        """Keep an embedding."""
        async with translated():
            key = self._keys.embedding(fingerprint, digest)
            await self._redis.set(key, pack(tensor), ex=EMBEDDING_TTL_S)

    async def embedding(self, fingerprint: str, digest: str) -> TensorBytes | None:
        """An embedding, None when it is not known; raises CorruptTensor."""
        packed = await self._get(self._keys.embedding(fingerprint, digest))
        return None if packed is None else unpack(packed)

    async def forget_embedding(self, fingerprint: str, digest: str) -> None:
        """Drop an embedding that turned out to be corrupt."""
        await self._forget(self._keys.embedding(fingerprint, digest))

    async def _get(self, key: str) -> bytes | None:
        try:
            async with translated():
                data: bytes | None = await self._redis.get(key)
        except WrongType as error:
            log.error("%s", error)
            await self._forget(key)
            return None
        return data

    async def _forget(self, key: str) -> None:
        async with translated():
            await self._redis.delete(key)
