"""Workers whose memory is limited while they work, as by `ulimit -v`: what cannot be answered is
refused by its name or answered by the next worker, nothing hangs, and no answer is wrong.
"""

import asyncio
import os
import random
import resource
import signal
import sys
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import anyio
import pytest
from PIL import Image

from glm4v.errors import Overloaded
from lm_worker.model.runner import NO_MEMORY
from tests.e2e.asking import again, ask, assert_unharmed
from tests.e2e.fleet import ROOT, Fleet
from tests.e2e.reading import Reader

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(240),
    pytest.mark.needs_linux,
]
MIB = 2**20


def limit(pid: int, more: int) -> None:
    """Let a process have `more` bytes of address space than it has now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))


def heavy(name: str) -> bytes:
    """An image whose file has 3 MB, which a worker has to take in."""
    noise = random.Random(name).randbytes(3 * 1000 * 1000)
    out = BytesIO()
    Image.frombytes("RGB", (1000, 1000), noise).save(out, "PNG", compress_level=0)
    return out.getvalue()


async def keep_alive(fleet: Fleet, name: str, codes: list[int]) -> None:
    """Start a worker again whenever it ends; its exit codes."""
    while True:
        codes.append(await fleet.ended(name))
        await fleet.start(name)


@pytest.mark.parametrize("worker", ["vision_worker", "lm_worker"])
async def test_a_worker_without_any_memory_ends_by_name_and_the_next_goes_on(
    fleet: Fleet, worker: str
) -> None:
    await fleet.only("gateway", "vision_worker", "lm_worker")
    questions = [ask(f"what {i} " * 20, heavy(f"{worker} {i}")) for i in range(2)]
    questions += [ask(f"who {i} " * 60) for i in range(24)]  # many rows at once
    codes: list[int] = []
    async with Reader(fleet.targets) as reader:
        limit(fleet.pid(worker), 0)
        with anyio.fail_after(100):
            async with anyio.create_task_group() as group:
                group.start_soon(keep_alive, fleet, worker, codes)
                readings = await asyncio.gather(*map(reader.read, questions))
                group.cancel_scope.cancel()
        if not codes:  # no answer needed more: it goes on as it is
            await fleet.kill(worker)
        await fleet.only("gateway", "vision_worker", "lm_worker")
        for question, reading in zip(questions, readings, strict=True):
            if reading.terminal != ["RESOURCE_EXHAUSTED"]:
                await assert_unharmed(fleet, reading, await reader.read(again(question)))
    # Where gRPC's own C++ finds no memory the process is aborted.
    assert set(codes) <= {Overloaded.exit_code, -signal.SIGABRT}, fleet.log(worker)[-3000:]
    was_refused = any(reading.terminal == ["RESOURCE_EXHAUSTED"] for reading in readings)
    assert codes or was_refused or worker == "lm_worker"  # which may do with what it has


@pytest.mark.parametrize(
    ("kv_cache_bytes", "said", "code"),
    [(2**33, f"error: {NO_MEMORY}", Overloaded.exit_code), (2**26, "ready on", 0)],
)
async def test_a_language_worker_under_ulimit_v(
    fleet: Fleet, tmp_path: Path, kv_cache_bytes: int, said: str, code: int
) -> None:
    """4 GiB, and a cache that is larger, or one that is not."""
    worker = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"ulimit -v {2**22} && exec '{sys.executable}' -m lm_worker"),
        cwd=ROOT,
        env={
            **os.environ,
            **fleet.environment("lm_worker-limited"),
            "GLM4V_KV_CACHE_BYTES": str(kv_cache_bytes),
            "GLM4V_LISTEN": f"unix:{tmp_path / 'socket'}",
            "GLM4V_MAX_NUM_SEQS": str(10**6),  # no bound on the cache
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert worker.stderr is not None
    with anyio.fail_after(60):
        lines = [line.decode() async for line in until(worker.stderr, said)]
        assert said in lines[-1], "".join(lines)
        if code == 0:
            worker.terminate()
        await worker.stderr.read()
        assert await worker.wait() == code


async def until(lines: AsyncIterator[bytes], said: str) -> AsyncIterator[bytes]:
    """Lines up to the one that says something."""
    async for line in lines:
        yield line
        if said.encode() in line:
            return
