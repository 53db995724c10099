"""A disk without room: Redis refuses, is not lost, and goes on when there is room."""

import asyncio
import hashlib
import os
import resource
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.lm_queue import LmQueue
from glm4v.broker.patience import retry_until_available
from glm4v.errors import Overloaded
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.local import disk_guard, redis_launch
from glm4v.local.redis_server import RedisServer

MIB = 2**20
MARGIN_S = 15.0
LEFT_OVER = (
    "temp-rewriteaof-77.aof",
    "temp-77.rdb",
    "appendonlydir/temp-appendonly.aof.2.incr.aof",
)


@pytest.fixture
async def broker(own_redis: RedisServer, keys: Keys) -> AsyncIterator[Broker]:
    connection = Connection(own_redis.url)
    broker = Broker(
        connection, keys, max_open_requests=100, result_ttl_s=60, max_open_image_bytes=100 * MIB
    )
    await broker.ready()
    yield broker
    await connection.close()


async def submit(broker: Broker, number: int) -> None:
    image = number.to_bytes(4, "little") + bytes(MIB)
    job = pb.Job(
        request_id=f"r{number}",
        image_digest=hashlib.sha256(image).hexdigest(),
        timeout_ms=600_000,
        orphan_timeout_ms=600_000,
    )
    await broker.submit(job, image)


async def eventually(broker: Broker, number: int) -> None:
    with anyio.fail_after(MARGIN_S):
        await retry_until_available(submit, broker, number)


async def test_requests_are_refused_while_nothing_can_be_written_and_none_is_lost(
    own_redis: RedisServer, broker: Broker, keys: Keys
) -> None:
    """A bound on the size of its files stands for the disk: writes fail in the same way."""
    pid, unlimited = own_redis.pid, resource.RLIM_INFINITY
    connection = Connection(own_redis.url)
    queue = LmQueue(connection, keys, lease_s=60, result_ttl_s=60)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (5 * MIB, unlimited))
    accepted: list[int] = []
    try:
        for number in range(20):
            try:
                await submit(broker, number)
                accepted.append(number)
            except Overloaded:
                break
        with pytest.raises(Overloaded, match="cannot write to its disk"):
            await submit(broker, 98)
        with pytest.raises(Overloaded, match="cannot write to its disk"):
            await queue.claim(1)
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
    assert 1 <= len(accepted) < 20
    await eventually(broker, 99)
    assert own_redis.pid == pid, "it was not started again"
    os.kill(pid, signal.SIGKILL)
    own_redis.stop()
    own_redis.start()
    names = [f"r{number}" for number in (*accepted, 99)]
    assert await connection.commands.exists(*map(keys.journal, names)) == len(names)
    await connection.close()


async def test_near_a_full_disk_a_failed_write_no_longer_ends_the_server(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    is_full = False
    monkeypatch.setattr(disk_guard, "is_nearly_full", lambda folder: is_full)
    monkeypatch.setattr(disk_guard, "_LOOK_S", 0.02)
    said: list[str] = []
    connection = Connection(own_redis.url)
    guard = asyncio.ensure_future(disk_guard.guard_disk(own_redis.url, tmp_path, said.append))

    async def becomes(policy: str) -> None:
        with anyio.fail_after(MARGIN_S):
            found = ""
            while found != policy:
                await asyncio.sleep(0.02)
                found = (await connection.commands.config_get("appendfsync"))["appendfsync"]

    await becomes("always")
    is_full = True
    await becomes("no")
    await connection.commands.config_set("appendfsync", "always")  # as a server started anew
    await becomes("no")
    is_full = False
    await becomes("always")
    guard.cancel()
    await asyncio.gather(guard, return_exceptions=True)
    assert [line.rpartition(" is ")[2].split(":")[0] for line in said[:1]] == ["nearly full"]
    assert len(said) == 2
    await connection.close()


@pytest.mark.parametrize(
    ("total", "free", "is_full"),
    [
        (500_000 * MIB, 300 * MIB, False),
        (500_000 * MIB, 200 * MIB, True),
        (100 * MIB, 20 * MIB, False),
        (100 * MIB, 9 * MIB, True),
    ],
)
def test_how_it_reaches_the_disk_is_chosen_at_every_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, total: int, free: int, is_full: bool
) -> None:
    usage = shutil._ntuple_diskusage(total, total - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, command: became.append(command))
    redis_launch.main(tmp_path, ["/server", "--appendfsync", "always"])
    more = ["--appendfsync", "no"] if is_full else []
    assert became == [["/server", "--appendfsync", "always", *more]]


def test_what_killed_rewrites_have_left_is_removed_at_the_start(own_redis: RedisServer) -> None:
    for name in LEFT_OVER:
        (own_redis.data_dir / name).write_bytes(b"left over")
    before = {path.name for path in own_redis.data_dir.rglob("*.aof")}
    own_redis.stop()
    own_redis.start()
    after = {path.name for path in own_redis.data_dir.rglob("*.aof")}
    assert not any((own_redis.data_dir / name).exists() for name in LEFT_OVER)
    assert after == before - {Path(name).name for name in LEFT_OVER}
    assert after, "its own files are there"
