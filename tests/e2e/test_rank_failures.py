"""A rank that dies or hangs takes its whole group along, and the group leaves nothing behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from glm4v.broker import Broker, Connection, Keys
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.tiny import write_tiny
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.local.redis_server import RedisServer
from glm4v.v1 import inference_pb2 as api
from tests.journal_events import events_of
from tests.parity.golden_plans import open_golden
from tests.processes import children, is_running, wait_until

ROOT = Path(__file__).resolve().parents[2]
RANK_TIMEOUT_S = 6.0
MARGIN_S = 15.0  # for a machine that is busy with other things
LONG = 400  # tokens

PLACED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NNODES", "NODE_RANK")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny(folder)
    return folder


@pytest.fixture
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of this test alone: workers of all tests use the same names in it."""
    server = RedisServer(tmp_path_factory.mktemp("r"))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
async def broker(redis: str) -> AsyncIterator[Broker]:
    connection = Connection(redis)
    broker = Broker(connection, Keys(), max_open_requests=100, result_ttl_s=600)
    await broker.ready("model")
    reading = asyncio.create_task(broker.run())
    yield broker
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await connection.close()


def _number(place: dict[str, str]) -> str:
    return place.get("RANK") or place.get("NODE_RANK") or "0"


class Worker:
    """One process of a group, rank 0 unless it is placed elsewhere."""

    def __init__(self, model: Path, redis: str, folder: Path, place: dict[str, str]) -> None:
        self.log = folder / f"rank{_number(place)}.log"
        environment = {k: v for k, v in os.environ.items() if k not in PLACED}
        environment |= {
            "GLM4V_MODEL": str(model),
            "GLM4V_REDIS_URL": redis,
            "GLM4V_LISTEN": f"unix:{folder}/rank{_number(place)}.sock",
            "GLM4V_DTYPE": "float32",
            "GLM4V_THREADS": "1",
            "GLM4V_KV_CACHE_BYTES": str(16 * 2**20),
            "GLM4V_TENSOR_PARALLEL": "2",
            "GLM4V_RANK_TIMEOUT_S": str(RANK_TIMEOUT_S),
            "GLM4V_LEASE_S": "1",
            **place,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                (sys.executable, "-m", "lm_worker"),
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def wait_until_ready(self) -> None:
        wait_until(lambda: "ready on" in self.read_log() or not self.is_running, 60)
        assert self.is_running, self.read_log()

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def followers(self) -> list[int]:
        return children(self.process.pid)

    def read_log(self) -> str:
        return self.log.read_text(encoding="utf-8")


@contextmanager
def started(
    model: Path, redis: str, folder: Path, place: dict[str, str] | None = None
) -> Iterator[Worker]:
    """A process that is ended with the block, whatever happens in it."""
    worker = Worker(model, redis, folder, place or {})
    try:
        yield worker
    finally:
        below = worker.followers if worker.is_running else []
        for pid in below:
            os.kill(pid, signal.SIGKILL)
        worker.process.kill()
        worker.process.wait()


def job(model: Path, name: str, max_tokens: int) -> pb.Job:
    """A greedy request of the golden case "text"."""
    return pb.Job(
        request_id=name,
        fingerprint=Checkpoint.open(model).fingerprint,
        prompt_ids=[int(i) for i in open_golden("bundled")["text/input_ids"]],
        max_tokens=max_tokens,
        sampling=api.SamplingParams(),
        timeout_ms=600_000,
        orphan_timeout_ms=600_000,
        content_digest=name.encode(),
    )


async def first_tokens(broker: Broker, name: str, count: int) -> list[int]:
    """The first tokens of a request, as soon as they are there; all of them if it ends."""
    ids: list[int] = []
    with anyio.fail_after(60):
        async for event in events_of(broker.follow_journal, name):
            if isinstance(event, pb.JournalTokens):
                ids += event.ids
                if len(ids) >= count:
                    break
    return ids


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=lambda how: how.name)
@pytest.mark.parametrize("busy", [True, False], ids=["decoding", "idle"])
async def test_a_follower_that_is_lost_ends_the_worker(
    how: signal.Signals, busy: bool, model: Path, redis: str, broker: Broker, tmp_path: Path
) -> None:
    with started(model, redis, tmp_path) as worker:
        worker.wait_until_ready()
        if busy:
            await broker.submit(job(model, "long", LONG), None)
            assert await first_tokens(broker, "long", 2)
        followers = worker.followers
        assert len(followers) == 1
        os.kill(followers[0], how)
        assert worker.process.wait(RANK_TIMEOUT_S + MARGIN_S) != 0
        wait_until(lambda: not any(is_running(pid) for pid in followers))
        reason = "rank 1" if how == signal.SIGKILL else "a rank died or hangs"
        assert any(one in worker.read_log() for one in reason.split("|")), worker.read_log()


async def test_a_follower_that_is_lost_while_it_loads_ends_the_worker(
    model: Path, redis: str, tmp_path: Path
) -> None:
    with started(model, redis, tmp_path) as worker:
        wait_until(lambda: bool(worker.followers), 60)
        os.kill(worker.followers[0], signal.SIGKILL)
        assert worker.process.wait(RANK_TIMEOUT_S + MARGIN_S) == 5  # Unavailable
        assert "rank 1 exited with code -9" in worker.read_log()
        assert "exiting anyway" not in worker.read_log()  # rank 0 does not wait for who cannot come


def test_followers_end_when_rank_0_is_killed(model: Path, redis: str, tmp_path: Path) -> None:
    with started(model, redis, tmp_path) as worker:
        worker.wait_until_ready()
        followers = worker.followers
        assert followers
        worker.process.kill()
        wait_until(lambda: not any(is_running(pid) for pid in followers))


async def test_a_signal_to_all_ranks_is_rank_0s_to_heed(
    model: Path, redis: str, broker: Broker, tmp_path: Path
) -> None:
    """As of a terminal or a service manager, which send it to every process of a group."""
    with started(model, redis, tmp_path) as worker:
        worker.wait_until_ready()
        await broker.submit(job(model, "long", LONG), None)
        assert await first_tokens(broker, "long", 2)
        for pid in worker.followers:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        await asyncio.sleep(0.5)  # what a follower's end takes to be seen
        worker.process.terminate()
        assert worker.process.wait(MARGIN_S) == 0
        assert "requeued 1 requests" in worker.read_log()


async def test_ranks_placed_by_the_environment_answer_and_end_together(
    model: Path, redis: str, broker: Broker, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with (
        started(model, redis, tmp_path, {"RANK": "0", **place}) as first,
        started(model, redis, tmp_path, {"RANK": "1", **place}) as second,
    ):
        first.wait_until_ready()
        await broker.submit(job(model, "golden", 20), None)
        golden = open_golden("bundled")["text/greedy_tokens"].tolist()
        assert await first_tokens(broker, "golden", 20) == golden
        first.process.terminate()
        assert first.process.wait(MARGIN_S) == 0
        assert second.process.wait(RANK_TIMEOUT_S + MARGIN_S) == 0


async def test_two_hosts_of_two_ranks_answer_and_a_lost_rank_of_the_second_ends_both(
    model: Path, redis: str, broker: Broker, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    place["GLM4V_TENSOR_PARALLEL"] = "4"
    with (
        started(model, redis, tmp_path, {"NODE_RANK": "0", **place}) as first,
        started(model, redis, tmp_path, {"NODE_RANK": "1", **place}) as second,
    ):
        first.wait_until_ready()
        assert (len(first.followers), len(second.followers)) == (1, 1)
        await broker.submit(job(model, "golden", 20), None)
        golden = open_golden("bundled")["text/greedy_tokens"].tolist()
        assert await first_tokens(broker, "golden", 20) == golden
        second.process.terminate()  # rank 0 is the one to heed it
        below = second.followers
        os.kill(below[0], signal.SIGKILL)
        assert second.process.wait(MARGIN_S) == 5  # Unavailable
        assert "rank 3 exited with code -9" in second.read_log()
        assert first.process.wait(RANK_TIMEOUT_S + MARGIN_S) != 0


async def test_a_rank_elsewhere_that_is_lost_ends_the_others_and_its_work_is_taken_over(
    model: Path, redis: str, broker: Broker, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with (
        started(model, redis, tmp_path, {"RANK": "0", **place}) as first,
        started(model, redis, tmp_path, {"RANK": "1", **place}) as second,
    ):
        first.wait_until_ready()
        await broker.submit(job(model, "long", LONG), None)
        assert await first_tokens(broker, "long", 2)
        second.process.kill()
        assert first.process.wait(RANK_TIMEOUT_S + MARGIN_S) != 0
    with started(model, redis, tmp_path, {"GLM4V_TENSOR_PARALLEL": "1"}) as other:
        other.wait_until_ready()
        await broker.submit(job(model, "alone", LONG), None)
        answer = await first_tokens(broker, "long", LONG)
        assert len(answer) == LONG
        assert answer == await first_tokens(broker, "alone", LONG)
        assert answer[:20] == open_golden("bundled")["text/greedy_tokens"].tolist()


async def test_an_error_of_the_device_ends_the_worker(
    model: Path, redis: str, broker: Broker, tmp_path: Path
) -> None:
    with started(model, redis, tmp_path, {"GLM4V_TENSOR_PARALLEL": "1"}) as worker:
        worker.wait_until_ready()
        impossible = job(model, "impossible", 5)
        impossible.prompt_ids.extend([5] * 600)  # beyond the table of positions; no gateway lets it
        await broker.submit(impossible, None)
        assert worker.process.wait(MARGIN_S) != 0
        assert "IndexError" in worker.read_log()
