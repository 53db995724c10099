"""One seeded schedule: random steps of random actors, faults between them, then the check."""

from collections.abc import Awaitable, Callable
from random import Random

from glm4v.broker import Connection, Keys
from glm4v.broker.journal import parse
from glm4v.errors import UnknownReference
from glm4v.internal.v1 import journal_pb2 as pb
from tests.simulation.actors import (
    MAX_TOKENS,
    MODEL,
    LmWorker,
    Violation,
    VisionWorker,
    World,
    token_at,
)

_STEPS = 24
_ROUNDS_TO_FINISH = 30
_PICTURES = ("", "", "p" * 64, "q" * 64)


async def run_schedule(
    connection: Connection, keys: Keys, seed: int, *, releases_first: bool = False
) -> World:
    """Run one schedule to its end; raises Violation when a promise is broken."""
    await _forget_everything(connection, keys)
    world = World(connection, keys, Random(seed))
    await world.broker.ready()
    lm = [LmWorker(world) for _ in range(2)]
    vision = [VisionWorker(world, releases_first=releases_first) for _ in range(2)]
    for _ in range(_STEPS):
        await world.random.choices(*_actions(world, lm, vision))[0]()
    await _finish(world)
    await _check(world)
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
        (lambda: _evict(world), 1),
        (worker.claim, 4),
        (worker.take_over, 2),
        (worker.step, 6),
        (lose_reply, 2),
        (worker.renew, 1),
        (worker.hand_back, 1),
        (tower.advance, 6),
        (tower.take_over, 1),
        (world.age_leases, 2),
        (crash, 2),
    ]
    return [action for action, _ in weighted], [weight for _, weight in weighted]


async def _submit(world: World) -> None:
    """A new request, or an old one once more."""
    request_id = f"r{world.random.randrange(5)}"
    if request_id not in world.accepted:
        world.accepted[request_id] = pb.Job(
            request_id=request_id,
            fingerprint=MODEL,
            prompt_ids=[1],
            image_digest=world.random.choice(_PICTURES),
            max_tokens=world.random.randint(1, MAX_TOKENS),
            timeout_ms=3_600_000,
            linger_ms=3_600_000,
            content_digest=request_id.encode(),
        )
    job = world.accepted[request_id]
    await world.broker.submit(job, b"picture" if job.image_digest else None)


async def _cancel(world: World) -> None:
    if world.accepted:
        request_id = world.random.choice(sorted(world.accepted))
        try:
            await world.broker.close_request(request_id, pb.JournalEnd(kind=pb.END_KIND_CANCELLED))
        except UnknownReference as error:
            raise Violation(f"{request_id} was accepted and is not known") from error


async def _evict(world: World) -> None:
    digest = world.random.choice(_PICTURES[2:])
    if await world.blobs.embedding(MODEL, digest) is not None:
        await world.blobs.forget_embedding(MODEL, digest)
        world.evicted.add(digest)
        world.excuses[digest] = world.excuses.get(digest, 0) + 1


async def _finish(world: World) -> None:
    """Healthy workers take over what is left."""
    worker, tower = LmWorker(world), VisionWorker(world)
    for _ in range(_ROUNDS_TO_FINISH):
        if not await world.connection.commands.zcard(world.keys.open):
            break
        await world.age_leases()
        await tower.take_over()
        for _ in range(6):
            await tower.advance()
        await worker.take_over()
        await worker.claim()
        for _ in range(MAX_TOKENS):
            if worker.running:
                await worker.step()
    # What is left in the queues belongs to requests that are over: claiming it settles it.
    for _ in range(3):
        await world.age_leases()
        await tower.take_over()
        for _ in range(3):
            await tower.advance()
        await worker.take_over()
        await worker.claim()


async def _check(world: World) -> None:
    """Every promise, at the end."""
    for request_id, job in world.accepted.items():
        entries = await world.connection.commands.xrange(world.keys.journal(request_id))
        events = [parse(entry) for entry in entries]
        ends = [event for event in events if isinstance(event, pb.JournalEnd)]
        if len(ends) != 1 or events[-1] is not ends[0]:
            raise Violation(f"{request_id} has {len(ends)} ends")
        ids = [i for event in events if isinstance(event, pb.JournalTokens) for i in event.ids]
        if ids != [token_at(request_id, index) for index in range(len(ids))]:
            raise Violation(f"{request_id} has a token too many, missing or out of order")
        if ends[0].kind == pb.END_KIND_LENGTH and len(ids) != job.max_tokens:
            raise Violation(f"{request_id} has {len(ids)} tokens of {job.max_tokens}")
    for digest, count in world.encodes.items():
        if count > 1 + world.excuses.get(digest, 0):
            raise Violation(f"a picture was encoded {count} times")
    await _check_nothing_is_left(world)


async def _check_nothing_is_left(world: World) -> None:
    commands, keys = world.connection.commands, world.keys
    left = {
        "open requests": await commands.zcard(keys.open),
        "readers": await commands.zcard(keys.readers),
        "language jobs": await commands.xlen(keys.jobs_lm),
        "vision jobs": await commands.xlen(keys.jobs_vision),
        "flights": len(await commands.keys(f"*{keys.namespace}*flight*")),
    }
    if any(left.values()):
        raise Violation(f"left behind: {left}")
