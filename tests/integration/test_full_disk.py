"""A disk without room: Redis refuses, is not lost, and goes on when there is room."""

import asyncio
import hashlib
import itertools
import os
import resource
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest

from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.lm_queue import LmQueue
from glm4v.broker.own_server import REFUSING, is_refusing
from glm4v.broker.retry import retry_until_available
from glm4v.errors import Overloaded, Unavailable
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.local import disk_guard, redis_launch
from glm4v.local.preflight import check_disk
from glm4v.local.redis_server import RedisServer
from tests.processes import is_running, until
from tests.small_disk import SmallDisk

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
    await broker.ready("model")
    yield broker
    await connection.close()


async def submit(broker: Broker, number: int, size: int = MIB) -> bool:
    image = number.to_bytes(4, "little") + bytes(size)
    digest = hashlib.sha256(image)
    job = pb.Job(
        fingerprint="model",
        request_id=f"r{number}",
        content_digest=digest.digest(),
        image_digest=digest.hexdigest(),
        timeout_ms=600_000,
        orphan_timeout_ms=600_000,
    )
    return await broker.submit(job, image)


async def eventually(broker: Broker, number: int) -> None:
    with anyio.fail_after(MARGIN_S):
        await retry_until_available(submit, broker, number)


async def test_requests_are_refused_while_nothing_can_be_written_and_none_is_lost(
    own_redis: RedisServer, broker: Broker, keys: Keys
) -> None:
    """A server that nobody guards. A bound on the size of its files stands for the disk."""
    pid, unlimited = own_redis.pid, resource.RLIM_INFINITY
    connection = Connection(own_redis.url)
    queue = LmQueue(connection, keys, "model", lease_s=60, result_ttl_s=60)
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
        # A retry of what was accepted, whose reply was lost, is no new request.
        assert await submit(broker, accepted[0]) is False
        with pytest.raises(Overloaded):
            await submit(broker, accepted[0], MIB + 1)  # another request with its id
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


@pytest.fixture
async def guarded() -> AsyncIterator[tuple[SmallDisk, RedisServer]]:
    """A server on a disk of its own, as `glm4v up` keeps it."""
    with (
        SmallDisk() as disk,
        TemporaryDirectory(prefix="glm4v-") as folder,
        RedisServer(disk.folder / "data", Path(folder) / "redis.sock") as server,
    ):
        (disk.folder / "other files").write_bytes(bytes(64 * MIB))
        watching = [
            asyncio.ensure_future(disk_guard.guard_disk(server.url, disk.folder, print)),
            asyncio.ensure_future(restarted(server)),
        ]
        yield disk, server
        for task in watching:
            task.cancel()
        for outcome in await asyncio.gather(*watching, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


async def restarted(server: RedisServer) -> None:
    """What the supervisor does."""
    while True:
        if not is_running(server.pid):
            server.stop()
            server.start()
        await asyncio.sleep(0.02)


async def killed(server: RedisServer) -> None:
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: server.pid != pid)


async def rewritten(connection: Connection) -> None:
    await connection.commands.bgrewriteaof()
    with anyio.fail_after(MARGIN_S):
        status = {"aof_rewrite_in_progress": 1}
        while status["aof_rewrite_in_progress"]:
            await asyncio.sleep(0.02)
            status = await connection.commands.info("persistence")


async def refused(broker: Broker, numbers: Iterator[int], accepted: list[int]) -> str:
    """Submit until the disk is the reason to refuse; the reason."""
    with anyio.fail_after(MARGIN_S):
        for number in numbers:
            try:
                await submit(broker, number, 2000)
                accepted.append(number)
            except Overloaded as error:
                return str(error)
            except Unavailable:  # it is being started again
                await asyncio.sleep(0.02)
    raise AssertionError


@pytest.mark.needs_mounts
@pytest.mark.parametrize("room_bytes", [4 * MIB, 12_000], ids=["seen in time", "not seen in time"])
async def test_a_disk_that_fills_takes_nothing_that_was_accepted_and_spoils_no_file(
    guarded: tuple[SmallDisk, RedisServer], keys: Keys, room_bytes: int
) -> None:
    disk, server = guarded
    connection = Connection(server.url)
    broker = Broker(connection, keys, max_open_requests=10**6, result_ttl_s=60)
    await broker.ready("model")
    numbers, accepted = itertools.count(), list[int]()
    for is_killed_then in (False, True):
        await rewritten(connection)  # the file is one that was not opened at the start
        await connection.commands.set("lapses", "in a moment", px=500)
        disk.fill(room_bytes)
        assert "nearly full" in await refused(broker, numbers, accepted)
        disk.fill(0)
        assert "nearly full" in await refused(broker, numbers, accepted)
        await asyncio.sleep(0.5)
        if is_killed_then:
            await killed(server)
            # It may have tried to write by itself: the removal of the key that has lapsed.
            reason = await refused(broker, numbers, accepted)
            assert "nearly full" in reason or "cannot write to its disk" in reason
        assert not await connection.commands.exists("lapses")
        disk.empty()
        await eventually(broker, number := next(numbers))
        accepted.append(number)
        await killed(server)
        await retry_until_available(connection.ping)
        names = [f"r{number}" for number in accepted]
        assert await connection.commands.exists(*map(keys.journal, names)) == len(names)
    assert (await connection.commands.config_get("appendfsync"))["appendfsync"] == "always"
    await connection.close()


async def test_the_guard_tells_a_server_that_was_started_anew_too(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = 0
    monkeypatch.setattr(disk_guard, "missing_bytes", lambda folder: missing)
    monkeypatch.setattr(disk_guard, "_REPEAT_S", 0.02)
    said: list[str] = []
    connection = Connection(own_redis.url)
    commands = connection.commands
    guard = asyncio.ensure_future(disk_guard.guard_disk(own_redis.url, tmp_path, said.append))

    async def becomes(name: str, value: str) -> None:
        with anyio.fail_after(MARGIN_S):
            found = ""
            while found != value:
                await asyncio.sleep(0.02)
                found = (await commands.config_get(name))[name]

    await becomes("appendfsync", "always")
    missing = 1
    await becomes("min-replicas-to-write", REFUSING["min-replicas-to-write"])
    assert await is_refusing(connection)
    for name, value in REFUSING.items():
        await commands.config_set(name, value)
    missing = 0
    await becomes("min-replicas-to-write", "0")
    await becomes("appendfsync", "always")
    await becomes("auto-aof-rewrite-percentage", "100")
    guard.cancel()
    await asyncio.gather(guard, return_exceptions=True)
    assert [line.rpartition(" of ")[2].partition(" ")[2] for line in said] == [
        "is nearly full: requests are refused",
        "has enough space again",
    ]
    await connection.close()


async def test_a_server_without_enough_replicas_is_none_with_a_full_disk(
    own_redis: RedisServer, broker: Broker
) -> None:
    connection = Connection(own_redis.url)
    await connection.commands.config_set("min-replicas-to-write", 1)
    assert not await is_refusing(connection)
    with pytest.raises(Unavailable, match="NOREPLICAS"):
        await submit(broker, 1)
    await connection.close()


@pytest.mark.parametrize(
    ("total", "free", "missing"),
    [
        (500_000 * MIB, 100 * MIB, 0),
        (500_000 * MIB, 60 * MIB, 4 * MIB),
        (100 * MIB, 20 * MIB, 0),
        (100 * MIB, 9 * MIB, 1 * MIB),
    ],
)
def test_whether_it_takes_writes_is_seen_at_every_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, total: int, free: int, missing: int
) -> None:
    usage = shutil._ntuple_diskusage(total, total - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, command: became.append(command))
    *_, folder, options, program = redis_launch.launch_command(tmp_path, ["/server"], REFUSING)
    redis_launch.main(Path(folder), options, [program, "--appendfsync", "always"])
    more = [word for name, value in REFUSING.items() for word in (f"--{name}", value)]
    assert became == [["/server", "--appendfsync", "always", *(more if missing else [])]]
    assert redis_launch.missing_bytes(tmp_path) == missing
    if missing:
        with pytest.raises(Overloaded, match=f"free {missing // MIB} MiB more"):
            check_disk(tmp_path)
    else:
        check_disk(tmp_path)


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
