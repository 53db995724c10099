"""What workers tell of themselves, on a real Redis: while they live, and after."""

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest

from glm4v.broker import Connection, Keys
from glm4v.broker import worker_reports as module
from glm4v.broker.keys import lm_queue, vision_queue
from glm4v.broker.worker_reports import (
    WorkerReporter,
    WorkerState,
    count_workers,
    read_worker_states,
)
from glm4v.errors import Unavailable
from glm4v.internal.v1 import worker_pb2 as pb
from glm4v.local.redis_server import RedisServer


class Worker:
    """A worker that only reports."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self.started, self.stopping = asyncio.Event(), asyncio.Event()
        self.done = 0
        self.reporter = WorkerReporter(
            connection,
            keys,
            queue=lm_queue("m"),
            consumer="lm-a",
            device="cpu",
            description="float32, PyTorch",
            report=lambda: pb.WorkerReport(running=2, done=self.done),
            started=self.started,
            stopping=self.stopping,
        )


@pytest.fixture
def worker(connection: Connection, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(module, "_EVERY_S", 0.01)
    return Worker(connection, keys)


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(20):
        is_over = await is_so()
        while not is_over:
            await asyncio.sleep(0.01)
            is_over = await is_so()


async def store(connection: Connection, keys: Keys, name: str, report: pb.WorkerReport) -> None:
    names, values = [keys.workers], [name, report.SerializeToString()]
    await connection.run("report_worker", names, values)


async def test_a_worker_is_seen_from_loading_to_draining_and_not_after(
    worker: Worker, connection: Connection, keys: Keys
) -> None:
    async def states() -> list[WorkerState]:
        return await read_worker_states(connection, keys)

    async def has_phase(phase: str) -> bool:
        return [each.phase for each in await states()] == [phase]

    async with anyio.create_task_group() as group:
        group.start_soon(worker.reporter.run)
        await until(lambda: has_phase("loading"))
        worker.started.set()
        worker.done = 7
        await until(lambda: has_phase("serving"))
        [found] = await states()
        worker.stopping.set()
        await until(lambda: has_phase("draining"))
        group.cancel_scope.cancel()
    assert await states() == []
    assert (found.consumer, found.report.device, found.report.queue) == ("lm-a", "cpu", "lm:m")
    assert (found.report.running, found.report.done) == (2, 7)
    assert found.as_dict()["kind"] == "language"
    assert found.as_dict()["description"] == "float32, PyTorch"
    assert 0 <= found.age_s < 5


async def test_reporters_that_are_cancelled_while_redis_restarts_end(
    own_redis: RedisServer, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By plain asyncio, at a hundred moments before, within and after the restart."""
    monkeypatch.setattr(module, "_EVERY_S", 0.001)
    monkeypatch.setattr(module, "_LAST_S", 0.2)
    connection = Connection(own_redis.url)
    reporting = [asyncio.create_task(Worker(connection, keys).reporter.run()) for _ in range(100)]
    await asyncio.sleep(0.1)

    async def restart() -> None:
        await asyncio.to_thread(own_redis.stop)
        await asyncio.to_thread(own_redis.start)

    restarting = asyncio.create_task(restart())
    for number, task in enumerate(reporting):
        await asyncio.sleep(number % 3 * 0.004)
        task.cancel()
    done, lost = await asyncio.wait(reporting, timeout=20)
    for task in lost:
        task.cancel()
    await restarting
    await connection.close()
    assert not lost
    assert all(task.cancelled() for task in done)


async def test_workers_are_sorted_by_queue_and_name(connection: Connection, keys: Keys) -> None:
    for name, queue in (("v", vision_queue("m")), ("b", lm_queue("m")), ("a", lm_queue("m"))):
        await store(connection, keys, name, pb.WorkerReport(queue=queue))
    found = await read_worker_states(connection, keys)
    assert [each.consumer for each in found] == ["a", "b", "v"]
    assert [each.as_dict()["kind"] for each in found] == ["language", "language", "vision"]


async def test_a_killed_worker_is_silent_then_forgotten(connection: Connection, keys: Keys) -> None:
    report = pb.WorkerReport(queue=lm_queue("m"), phase=pb.WORKER_PHASE_SERVING)
    seconds, _ = await connection.commands.time()
    for name, age_s in (("alive", 1), ("silent", 10), ("gone", 61)):
        value = f"{(seconds - age_s) * 1000} ".encode() + report.SerializeToString()
        await connection.commands.hset(keys.workers, name, value)
    found = {each.consumer: each for each in await read_worker_states(connection, keys)}
    assert {name: each.is_silent for name, each in found.items()} == {
        "alive": False,
        "silent": True,
    }
    assert found["alive"].phase == "serving"
    assert found["silent"].phase in ("silent for 10 s", "silent for 11 s")
    assert set(await connection.commands.hkeys(keys.workers)) == {b"alive", b"silent"}


@pytest.mark.parametrize(
    "value",
    [b"", b"text", b"12", b"-5 ", b"1000 \xff\xff", b"9" * 5000 + b" "],
    ids=["empty", "text", "no report", "negative", "no message", "5000 digits"],
)
async def test_foreign_values_are_removed(connection: Connection, keys: Keys, value: bytes) -> None:
    await store(connection, keys, "own", pb.WorkerReport(queue=lm_queue("m")))
    await connection.commands.hset(keys.workers, b"\xff\xfe", value)
    assert [each.consumer for each in await read_worker_states(connection, keys)] == ["own"]
    assert await connection.commands.hkeys(keys.workers) == [b"own"]


async def test_a_worker_of_a_newer_release_has_an_unknown_phase(
    connection: Connection, keys: Keys
) -> None:
    report = pb.WorkerReport(queue="audio:m", phase=99)  # type: ignore[arg-type]
    await store(connection, keys, "newer", report)
    [found] = await read_worker_states(connection, keys)
    assert (found.phase, found.as_dict()["kind"]) == ("unknown", "audio")


async def test_a_key_of_another_program_stops_no_worker(
    worker: Worker, connection: Connection, keys: Keys
) -> None:
    await connection.commands.set(keys.workers, "foreign")

    async def is_seen() -> bool:
        return bool(await read_worker_states(connection, keys))

    async with anyio.create_task_group() as group:
        group.start_soon(worker.reporter.run)
        await asyncio.sleep(0.1)
        with pytest.raises(Unavailable, match="another program"):
            await read_worker_states(connection, keys)
        await connection.commands.delete(keys.workers)
        await until(is_seen)
        group.cancel_scope.cancel()


async def test_workers_are_counted_by_what_they_do(
    connection: Connection, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = {("language", "serving"): 0, ("vision", "serving"): 0}
    assert await count_workers(connection, keys) == nobody
    serving = pb.WorkerReport(queue=lm_queue("m"), phase=pb.WORKER_PHASE_SERVING)
    loading = pb.WorkerReport(queue=vision_queue("m"), phase=pb.WORKER_PHASE_LOADING)
    for name, report in (("lm-a", serving), ("lm-b", serving), ("vision-a", loading)):
        await store(connection, keys, name, report)
    counted = nobody | {("language", "serving"): 2, ("vision", "loading"): 1}
    assert await count_workers(connection, keys) == counted
    monkeypatch.setattr(module, "SILENT_AFTER_S", -1.0)
    silent = nobody | {("language", "silent"): 2, ("vision", "silent"): 1}
    assert await count_workers(connection, keys) == silent
