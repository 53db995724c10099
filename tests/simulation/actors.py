"""What takes part in a simulated schedule: workers that take one protocol step at a time.

They speak to a real Redis through the real broker classes; only time is pretended, by making leases
older. Each keeps what it believes; the world keeps what is true.
"""

import hashlib
from dataclasses import dataclass, field
from random import Random

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.blobs import Blobs
from glm4v.broker.keys import LM_GROUP, VISION_GROUP
from glm4v.broker.lm_queue import Append, LmQueue, RequestLease
from glm4v.broker.vision_queue import ImageLease, VisionQueue
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.tensor_bytes import TensorBytes
from tests.simulation.readers import Gateway, Reader, Violation

LEASE_S = 1000.0  # leases lapse only when the schedule says so
MODEL = "model"
MAX_TOKENS = 8


def token_at(request_id: str, index: int) -> int:
    """What the model would say: a function of request and index."""
    digest = hashlib.sha256(f"{request_id}:{index}".encode()).digest()
    return int.from_bytes(digest[:2], "little")


@dataclass
class World:
    """What is true, whatever the workers believe."""

    connection: Connection
    keys: Keys
    random: Random
    broker: Broker = field(init=False)
    blobs: Blobs = field(init=False)
    gateway: Gateway = field(init=False)
    owner: dict[str, str] = field(default_factory=dict)  # request -> consumer
    accepted: dict[str, pb.Job] = field(default_factory=dict)
    encodes: dict[str, int] = field(default_factory=dict)
    allowed_reencodes: dict[str, int] = field(
        default_factory=dict
    )  # reasons to encode an image once more
    evicted: set[str] = field(default_factory=set)
    readers: list[Reader] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.broker = Broker(self.connection, self.keys, max_open_requests=100, result_ttl_s=600)
        self.blobs = Blobs(self.connection, self.keys)
        self.gateway = Gateway(self.connection, self.keys)

    async def age_leases(self) -> None:
        """Let every lease of both queues lapse."""
        commands = self.connection.commands
        for stream, group in (
            (self.keys.jobs_lm(MODEL), LM_GROUP),
            (self.keys.jobs_vision(MODEL), VISION_GROUP),
        ):
            for entry in await commands.xpending_range(stream, group, "-", "+", 100):
                await commands.xclaim(
                    stream,
                    group,
                    entry["consumer"],
                    0,
                    [entry["message_id"]],
                    idle=int(2000 * LEASE_S),
                    justid=True,
                )


@dataclass
class Running:
    """A request as a language worker believes it to be."""

    lease: RequestLease
    job: pb.Job
    next_index: int


class LmWorker:
    """A language worker that computes one token a step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.running: dict[str, Running] = {}
        self.queue = self._new_life()

    def _new_life(self) -> LmQueue:
        return LmQueue(
            self.world.connection, self.world.keys, MODEL, lease_s=LEASE_S, result_ttl_s=600
        )

    def crash(self) -> None:
        """Forget everything; the next life has another name."""
        self.running.clear()
        self.queue = self._new_life()

    async def claim(self) -> None:
        await self._admit(await self.queue.claim(2, wait_s=0))

    async def claim_expired(self) -> None:
        await self._admit(await self.queue.claim_expired(2))

    async def _admit(self, leases: list[RequestLease]) -> None:
        for lease in leases:
            self.world.owner[lease.request_id] = self.queue.consumer
            resumed = await self.queue.resume_or_release(lease)
            if resumed is None:
                continue
            digest = resumed.job.image_digest
            if digest and await self.world.blobs.embedding(MODEL, digest) is None:
                if digest not in self.world.evicted:
                    raise Violation(f"{lease.request_id} was released without its embedding")
                await self.queue.await_encode(lease, resumed.job)
                continue
            count = len(resumed.token_ids)
            self.running[lease.request_id] = Running(lease, resumed.job, count)

    async def step(self, *, reply_is_lost: bool = False) -> None:
        """One token for each running request; a lost reply makes the worker try the same again."""
        appends = [self._append(request) for request in self.running.values()]
        answers = await self.queue.append(appends)
        if reply_is_lost:
            return
        for append, answer in zip(appends, answers, strict=True):
            request_id = append.lease.request_id
            if answer == "ahead":
                raise Violation(f"{request_id} was written to by somebody else")
            if answer == "ok" and self.world.owner[request_id] != self.queue.consumer:
                raise Violation(f"{request_id} was written to by a worker without its lease")
            if answer != "ok" or append.end is not None:
                del self.running[request_id]
            else:
                self.running[request_id].next_index += 1

    def _append(self, request: Running) -> Append:
        index = request.next_index
        tokens = pb.JournalTokens(ids=[token_at(request.lease.request_id, index)])
        is_last = index + 1 >= request.job.max_tokens
        end = pb.JournalEnd(kind=pb.END_KIND_LENGTH, token_count=index + 1) if is_last else None
        return Append(request.lease, index, tokens, end)

    async def renew(self) -> None:
        held = list(self.running.values())
        for one, answer in zip(held, await self.queue.renew([h.lease for h in held]), strict=True):
            if answer != "ok":
                del self.running[one.lease.request_id]

    async def requeue(self) -> None:
        await self.queue.requeue([one.lease for one in self.running.values()])
        self.running.clear()


class VisionWorker:
    """A vision worker that takes one protocol step at a time."""

    def __init__(self, world: World, *, releases_first: bool = False) -> None:
        self.world = world
        self.releases_first = releases_first  # a planted bug
        self.lease: ImageLease | None = None
        self.stage = ""
        self.queue = self._new_life()

    def _new_life(self) -> VisionQueue:
        return VisionQueue(
            self.world.connection, self.world.keys, MODEL, lease_s=LEASE_S, result_ttl_s=600
        )

    def crash(self) -> None:
        """Forget everything; what was encoded and not stored has to be encoded again."""
        if self.lease is not None:
            self._excuse(self.lease.job.image_digest)
        self.lease = None
        self.queue = self._new_life()

    def _excuse(self, digest: str) -> None:
        self.world.allowed_reencodes[digest] = self.world.allowed_reencodes.get(digest, 0) + 1

    async def advance(self) -> None:
        """The next step: claim, begin, encode, store, release."""
        if self.lease is None:
            if await self.world.connection.commands.xlen(self.world.keys.jobs_vision(MODEL)):
                self._take(await self.queue.claim(1, wait_s=0))
        else:
            await getattr(self, "_" + self.stage)(self.lease)

    async def claim_expired(self) -> None:
        if self.lease is None:
            taken = await self.queue.claim_expired(1)
            for lease in taken:
                self._excuse(lease.job.image_digest)
            self._take(taken)

    def _take(self, leases: list[ImageLease]) -> None:
        for lease in leases:
            self.lease, self.stage = lease, "begin"

    async def _begin(self, lease: ImageLease) -> None:
        if await self.queue.begin(lease) <= 0:
            self.lease = None
        elif await self.world.blobs.embedding(MODEL, lease.job.image_digest) is not None:
            self.stage = "release"
        else:
            self.stage = "encode"

    async def _encode(self, lease: ImageLease) -> None:
        digest = lease.job.image_digest
        if await self.world.blobs.image(digest) is None:
            if await self.world.connection.commands.hexists(self.world.keys.pinned, digest):
                raise Violation("the image of an open request is gone")
            self.lease = None  # all who wanted it are over; the next look drops the job
            return
        self.world.encodes[digest] = self.world.encodes.get(digest, 0) + 1
        self.stage = "release" if self.releases_first else "store"

    async def _store(self, lease: ImageLease) -> None:
        tensor = TensorBytes("float32", (1,), b"1234")
        await self.queue._store(lease, tensor)
        self.world.evicted.discard(lease.job.image_digest)
        self.stage = "release"
        if self.releases_first:
            self.lease = None

    async def _release(self, lease: ImageLease) -> None:
        await self.queue._release(lease)
        if self.releases_first and lease.job.image_digest in self.world.encodes:
            self.stage = "store"
        else:
            self.lease = None
