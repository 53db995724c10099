"""The queues of a namespace, whatever models they are for."""

from glm4v.broker import Connection, Keys
from glm4v.broker.keys import Queue, queue_parts


async def streams(connection: Connection, keys: Keys) -> list[tuple[str, str]]:
    """Stream and consumer group of every queue."""
    names = await connection.commands.zrange(keys.queues, 0, -1)
    queues = [Queue(name.decode()) for name in names]
    return [(keys.jobs(queue), queue_parts(queue)[0]) for queue in queues]


async def left_behind(connection: Connection, keys: Keys) -> list[str]:
    """Leases, jobs and open requests: nothing is left when all requests have ended."""
    redis = connection.commands
    found = list(map(str, await redis.keys(keys.encode_waiters("*", "*").replace("{", "*"))))
    for stream, group in await streams(connection, keys):
        if pending := (await redis.xpending(stream, group))["pending"]:
            found.append(f"{stream}: {pending} leases")
        if length := await redis.xlen(stream):
            found.append(f"{stream}: {length} jobs")
    if is_open := await redis.zcard(keys.open_requests):
        found.append(f"{is_open} requests are open")
    if readers := await redis.zcard(keys.reader_deadlines):
        found.append(f"{readers} reader deadlines")
    return found
