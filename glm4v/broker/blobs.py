"""Pictures and embeddings in Redis: big values that may be forgotten and made again."""

from glm4v.broker.connection import Connection, translated
from glm4v.broker.keys import Keys
from glm4v.tensor_bytes import TensorBytes, pack, unpack

# A picture must outlive every request that waits for it: deadlines are at most an hour.
IMAGE_TTL_S = 2 * 3600
EMBEDDING_TTL_S = 2 * 3600


class Blobs:
    """Reads and writes through the connections for bytes."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._redis = connection.bytes
        self._keys = keys

    async def known(self, fingerprint: str, digest: str) -> tuple[bool, bool]:
        """Whether the embedding and the picture are stored; both live on for their full time."""
        async with translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.expire(self._keys.embedding(fingerprint, digest), EMBEDDING_TTL_S)
            pipe.expire(self._keys.image(digest), IMAGE_TTL_S)
            embedding, image = await pipe.execute()
        return bool(embedding), bool(image)

    async def put_image(self, digest: str, data: bytes) -> None:
        """Keep a picture file."""
        async with translated():
            await self._redis.set(self._keys.image(digest), data, ex=IMAGE_TTL_S)

    async def image(self, digest: str) -> bytes | None:
        """A picture file, None when it is not known."""
        async with translated():
            data: bytes | None = await self._redis.get(self._keys.image(digest))
        return data

    async def put_embedding(self, fingerprint: str, digest: str, tensor: TensorBytes) -> None:
        """Keep an embedding."""
        async with translated():
            key = self._keys.embedding(fingerprint, digest)
            await self._redis.set(key, pack(tensor), ex=EMBEDDING_TTL_S)

    async def embedding(self, fingerprint: str, digest: str) -> TensorBytes | None:
        """An embedding, None when it is not known; raises CorruptTensor."""
        async with translated():
            packed = await self._redis.get(self._keys.embedding(fingerprint, digest))
        return None if packed is None else unpack(packed)

    async def forget_embedding(self, fingerprint: str, digest: str) -> None:
        """Drop an embedding that turned out to be corrupt."""
        async with translated():
            await self._redis.delete(self._keys.embedding(fingerprint, digest))
