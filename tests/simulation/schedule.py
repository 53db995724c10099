"""One seeded schedule: random steps of random actors, faults between them, then the check."""

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random

from glm4v.broker import Connection, Keys
from glm4v.broker.entries import Event, Unreadable, read_entry
from glm4v.errors import UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb
from tests.simulation.actors import (
    MAX_TOKENS,
    MODEL,
    LmWorker,
    VisionWorker,
    World,
    token_at,
)
from tests.simulation.readers import Violation

_STEPS = 40
_ROUNDS_TO_FINISH = 30
_IMAGES = {hashlib.sha256(data).hexdigest(): data for data in (b"one image", b"another")}
_DIGESTS = ("", "", *_IMAGES)
_CLIENTS = ("", "one", "other")
_MOST_READERS = 4


async def run_schedule(
    connection: Connection, keys: Keys, seed: int, *, releases_first: bool = False
) -> World:
    """Run one schedule to its end; raises Violation when a promise is broken."""
    await _forget_everything(connection, keys)
    world = World(connection, keys, Random(seed))
    await world.broker.ready(MODEL)
    lm = [LmWorker(world) for _ in range(2)]
    vision = [VisionWorker(world, releases_first=releases_first) for _ in range(2)]
    is_read = seed % 3 == 0  # one answer, read by many, and little else
    try:
        if is_read:
            await _submit(world, 1)
        for step in range(_STEPS):
            actions = _reading(world, lm[0]) if is_read else _actions(world, lm, vision)
            await world.random.choices(*actions)[0]()
            if step % 8 == 0:
                await _check_pins(world)
                await _check_clients(world)
        await _finish(world)
        await _check(world)
    finally:
        for reader in world.readers:
            await reader.stop()
    return world


async def _forget_everything(connection: Connection, keys: Keys) -> None:
    names = await connection.commands.keys(f"*{keys.namespace}*")
    if names:
        await connection.commands.delete(*names)


_Action = Callable[[], Awaitable[None]]


def _actions(
    world: World, lm: list[LmWorker], vision: list[VisionWorker]
) -> tuple[list[_Action], list[int]]:
    """What may happen next, with how likely it is."""
    worker, tower = world.random.choice(lm), world.random.choice(vision)

    async def crash() -> None:
        actors: list[LmWorker | VisionWorker] = [*lm, *vision]
        world.random.choice(actors).crash()

    async def lose_reply() -> None:
        await worker.step(reply_is_lost=True)

    weighted: list[tuple[_Action, int]] = [
        (lambda: _submit(world), 4),
        (lambda: _cancel(world), 1),
        (lambda: _evict(world), 2),
        (lambda: _meddle(world), 1),
        (lambda: _open_reader(world), 3),
        (lambda: _advance_reader(world), 8),
        (world.gateway.advance, 6),
        (worker.claim, 4),
        (worker.claim_expired, 2),
        (worker.step, 6),
        (lose_reply, 2),
        (worker.renew, 1),
        (worker.requeue, 1),
        (tower.advance, 6),
        (tower.claim_expired, 1),
        (world.age_leases, 2),
        (crash, 2),
    ]
    return [action for action, _ in weighted], [weight for _, weight in weighted]


def _reading(world: World, worker: LmWorker) -> tuple[list[_Action], list[int]]:
    """As `_actions`, of a schedule for readers."""
    weighted: list[tuple[_Action, int]] = [
        (worker.step if worker.running else worker.claim, 2),
        (lambda: _open_reader(world), 1),
        (lambda: _advance_reader(world), 3),
        (world.gateway.advance, 3),
    ]
    return [action for action, _ in weighted], [weight for _, weight in weighted]


async def _submit(world: World, names: int = 5) -> None:
    """A new request, or an old one once more."""
    request_id = f"r{world.random.randrange(names)}"
    if request_id not in world.accepted:
        world.accepted[request_id] = pb.Job(
            request_id=request_id,
            fingerprint=MODEL,
            prompt_ids=[1],
            image_digest="" if names == 1 else world.random.choice(_DIGESTS),
            max_tokens=MAX_TOKENS if names == 1 else world.random.randint(1, MAX_TOKENS),
            timeout_ms=3_600_000,
            orphan_timeout_ms=3_600_000,
            content_digest=request_id.encode(),
            client=world.random.choice(_CLIENTS),
        )
    job = world.accepted[request_id]
    await world.broker.submit(job, _IMAGES.get(job.image_digest))


async def _cancel(world: World) -> None:
    if world.accepted:
        request_id = world.random.choice(sorted(world.accepted))
        try:
            await world.broker.close_request(request_id, pb.JournalEnd(kind=pb.END_KIND_CANCELLED))
        except UnknownReference as error:
            raise Violation(f"{request_id} was accepted and is not known") from error


async def _evict(world: World) -> None:
    """Drop what has a time to live, as a full Redis does."""
    digest = world.random.choice(list(_IMAGES))
    commands = world.connection.commands
    if world.random.random() < 0.5:
        if await commands.ttl(world.keys.image(digest)) >= 0:
            await commands.delete(world.keys.image(digest))
    elif await world.blobs.embedding(MODEL, digest) is not None:
        await world.blobs.delete_embedding(MODEL, digest)
        world.evicted.add(digest)
        world.allowed_reencodes[digest] = world.allowed_reencodes.get(digest, 0) + 1


async def _meddle(world: World) -> None:
    """Somebody else, or a newer release, writes where our entries are."""
    keys, random = world.keys, world.random
    streams = [
        keys.jobs_lm(MODEL),
        keys.jobs_vision(MODEL),
        keys.dead_letters,
        *map(keys.journal, world.accepted),
    ]
    values = (b"", b"\xff\x00", b"0", b"7", b"a", b"r0", b"z")
    names = random.sample((b"r", b"l", b"d", b"n", b"m", b"other"), random.randint(1, 6))
    fields: dict[bytes, bytes] = {name: random.choice(values) for name in names}
    fields |= random.choice([{}, {b"k": b"z"}, {b"v": b"99"}])
    stream = random.choice(streams)
    if stream == keys.jobs_lm(MODEL) and fields.get(b"r") == b"r0":
        fields[b"l"] = b"z"  # with a number it would be a job of r0, as we write them
    await world.connection.commands.xadd(stream, fields)


async def _open_reader(world: World) -> None:
    """Most often of a request that others read too."""
    read = [reader.request_id for reader in world.readers if not reader.is_done]
    names = sorted(world.accepted) + 5 * read
    if names and len(read) < _MOST_READERS:
        world.readers.append(await world.gateway.open(world.random.choice(names)))


async def _advance_reader(world: World) -> None:
    """Some clients take all there is, others one event at a time."""
    if world.readers:
        reader = world.random.choice(world.readers)
        for _ in range(world.random.choice((1, 1, 9))):
            await reader.advance()


async def _finish(world: World) -> None:
    """Healthy workers take over what is left."""
    worker, tower = LmWorker(world), VisionWorker(world)
    for _ in range(_ROUNDS_TO_FINISH):
        if not await world.connection.commands.zcard(world.keys.open_requests):
            break
        await world.age_leases()
        await tower.claim_expired()
        for _ in range(6):
            await tower.advance()
        await worker.claim_expired()
        await worker.claim()
        for _ in range(MAX_TOKENS):
            if worker.running:
                await worker.step()
    # What is left in the queues belongs to requests that are over: claiming it settles it.
    for _ in range(3):
        await world.age_leases()
        await tower.claim_expired()
        for _ in range(3):
            await tower.advance()
        await worker.claim_expired()
        await worker.claim()

    for _ in range(_ROUNDS_TO_FINISH):
        await world.gateway.advance()
        for reader in world.readers:
            await reader.advance()


async def _events(world: World, request_id: str) -> list[Event]:
    """What is in a journal, without what others have written there."""
    events = []
    for entry in await world.connection.commands.xrange(world.keys.journal(request_id)):
        with suppress(Unreadable):
            events.append(read_entry(entry).event)
    return events


async def _check(world: World) -> None:
    """Every promise, at the end."""
    for reader in world.readers:
        reader.check(await _events(world, reader.request_id))
    for request_id, job in world.accepted.items():
        events = await _events(world, request_id)
        ends = [event for event in events if isinstance(event, pb.JournalEnd)]
        if len(ends) != 1 or events[-1] is not ends[0]:
            raise Violation(f"{request_id} has {len(ends)} ends")
        ids = [i for event in events if isinstance(event, pb.JournalTokens) for i in event.ids]
        if ids != [token_at(request_id, index) for index in range(len(ids))]:
            raise Violation(f"{request_id} has a token too many, missing or out of order")
        if ends[0].kind == pb.END_KIND_LENGTH and len(ids) != job.max_tokens:
            raise Violation(f"{request_id} has {len(ids)} tokens of {job.max_tokens}")
    for digest, count in world.encodes.items():
        if count > 1 + world.allowed_reencodes.get(digest, 0):
            raise Violation(f"an image was encoded {count} times")
    await _check_nothing_is_left(world)


async def _check_pins(world: World) -> None:
    """Each open request with an image holds it, and nothing else is held."""
    commands, keys = world.connection.commands, world.keys
    opened = {each.decode() for each in await commands.zrange(keys.open_requests, 0, -1)}
    wanted = {i: world.accepted[i].image_digest for i in opened if world.accepted[i].image_digest}
    pins = {k.decode(): v.decode() for k, v in (await commands.hgetall(keys.pins)).items()}
    if pins != wanted:
        raise Violation(f"images held {pins}, of open requests {wanted}")
    pinned = {k.decode(): int(v) for k, v in (await commands.hgetall(keys.pinned)).items()}
    digests = set(wanted.values())
    expected = {digest: list(wanted.values()).count(digest) for digest in digests}
    expected |= {f"bytes:{digest}": len(_IMAGES[digest]) for digest in digests}
    expected |= {"bytes": sum(len(_IMAGES[digest]) for digest in digests)} if digests else {}
    if pinned != expected:
        raise Violation(f"held {pinned}, expected {expected}")
    for digest in _IMAGES:
        ttl = await commands.ttl(keys.image(digest))
        if (ttl == -1) != (digest in digests) or (digest in digests and ttl != -1):
            raise Violation(f"an image has {ttl} s to live, held by {expected.get(digest, 0)}")


async def _check_clients(world: World) -> None:
    """Open requests are counted by client, and no request that has ended waits in a line."""
    commands, keys = world.connection.commands, world.keys
    opened = {each.decode() for each in await commands.zrange(keys.open_requests, 0, -1)}
    counts = Counter(world.accepted[request_id].client for request_id in opened)
    counted = {k.decode(): int(v) for k, v in (await commands.hgetall(keys.clients)).items()}
    if counted != counts:
        raise Violation(f"requests counted {counted}, open are {dict(counts)}")
    rotation = {each.decode() for each in await commands.zrange(keys.waiting(MODEL), 0, -1)}
    for client in _CLIENTS:
        line = {each.decode() for each in await commands.zrange(keys.line(MODEL, client), 0, -1)}
        if line - opened or bool(line) != (client in rotation):
            raise Violation(f"{line} wait in the line of {client!r}, rotation {rotation}")


async def _check_nothing_is_left(world: World) -> None:
    commands, keys = world.connection.commands, world.keys
    left = {
        "open requests": await commands.zcard(keys.open_requests),
        "readers": await commands.zcard(keys.reader_deadlines),
        "language jobs": await commands.xlen(keys.jobs_lm(MODEL)),
        "vision jobs": await commands.xlen(keys.jobs_vision(MODEL)),
        "lines": len(await commands.keys(f"{keys.waiting(MODEL)}*")),
        "clients": await commands.hlen(keys.client_of) + await commands.hlen(keys.clients),
        "images held": await commands.hlen(keys.pins) + await commands.hlen(keys.pinned),
        "images without an end": sum(
            [await commands.ttl(keys.image(digest)) == -1 for digest in _IMAGES]
        ),
        "waiting requests": len(await commands.keys(f"*{keys.namespace}*encode_waiters*")),
    }
    if any(left.values()):
        raise Violation(f"left behind: {left}")
